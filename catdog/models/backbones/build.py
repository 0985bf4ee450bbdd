"""Backbones: images (B, 3, S, S) → feature maps (B, C, H, W), without the classifier.

Any torchvision classification model by name, any timm model as `timm/NAME`, or `tiny`. Weights: `imagenet` downloads
torchvision's IMAGENET1K_V1 (or timm's default), `lite0`, `lite1` and `lite2` come from packages, `none` is random,
anything else is a file. Only the library in use, timm or torchvision, is imported: each takes more than a second.
"""

import contextlib
import difflib
import functools
import io
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from catdog.config.recipe import NAMED_WEIGHTS, PACKAGED_WEIGHTS
from catdog.errors import UserError, first_line
from catdog.models.backbones.timm_models import TimmBackbone, build_timm
from catdog.models.backbones.weights import in_order, load_into, packaged_backbone, packaged_path
from catdog.models.backbones.weights_file import read_weights
from catdog.models.stages import Shape, Socket, Staged, key_of, places_of

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)


class TinyBackbone(Staged):
    """Four convolutions with a total stride of 8: on small images a stride of 32 would leave no map to attend to."""

    own_size = 96

    def __init__(self) -> None:
        super().__init__()
        self.stage_channels = {"layers.1": None, "layers.3": None}
        self.layers = nn.Sequential(
            self._block(3, 24, kernel_size=7, stride=4),
            self._block(24, 40, kernel_size=3, stride=1),
            self._block(40, 64, kernel_size=3, stride=2),
            self._block(64, 96, kernel_size=3, stride=1),
        )

    @staticmethod
    def _block(channels_in: int, channels_out: int, kernel_size: int, stride: int) -> nn.Module:
        padding = kernel_size // 2
        return nn.Sequential(
            nn.Conv2d(channels_in, channels_out, kernel_size, stride=stride, padding=padding, bias=False),
            nn.BatchNorm2d(channels_out),
            nn.ReLU(inplace=True),
        )

    def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        """Return the feature maps (B, C, H, W)."""
        features: torch.Tensor = self.layers(images_BCHW)
        return features


class TorchvisionBackbone(Staged):
    """A torchvision model up to one node of its graph; weights keep torchvision's names."""

    own_size = 224

    def __init__(self, model: nn.Module, node: str, stages: Mapping[str, Mapping[str, str]]) -> None:
        """`node`: the graph's node of the map. `stages`: by name, the fx nodes of the train and of the eval graph."""
        super().__init__()
        from torchvision.models.feature_extraction import create_feature_extractor

        self.model = create_feature_extractor(model, return_nodes={node: "features"})
        self.dropped = tuple(model.state_dict().keys() - self.model.state_dict().keys())
        """The tensors behind that node."""
        self.stage_channels = dict.fromkeys(stages)
        self._stages = stages

    def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        """Return the feature maps (B, C, H, W)."""
        features: torch.Tensor = self.model(images_BCHW)["features"]
        return features

    def put(self, stage: str, socket: Socket) -> None:
        """Place a socket behind a stage, in both graphs."""
        name = f"socket_{key_of(stage)}"
        self.model.add_module(name, socket)
        for mode, node_name in self._stages[stage].items():
            graph = getattr(self.model, mode)
            node = next(node for node in graph.nodes if node.name == node_name)
            with graph.inserting_after(node):
                socket_node = graph.create_node("call_module", name, (node,))  # call_module asks the model as it was
            node.replace_all_uses_with(socket_node, delete_user_cb=lambda user, own=socket_node: user is not own)
        self.model.recompile()


Backbone = TinyBackbone | TimmBackbone | TorchvisionBackbone


def _find_maps(model: nn.Module, name: str) -> tuple[str, dict[str, dict[str, str]]]:
    """Return the graph node of the last feature map with more than one position, the input of the model's pooling.

    And the nodes of the maps of its stages: the last module (or module in a module) with maps of each size.
    """
    from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

    nodes = [node for node in get_graph_node_names(model)[1] if node != "x" and not node.startswith("classifier")]
    tap = create_feature_extractor(model, return_nodes={node: node for node in nodes}).eval()
    with torch.no_grad():
        outputs = tap(torch.zeros(1, 3, 224, 224))
    maps: dict[str, torch.Tensor] = {
        node: value
        for node, value in outputs.items()
        if isinstance(value, torch.Tensor) and value.ndim == 4 and value[0, 0].numel() > 1
    }
    if not maps or name.startswith("vit_"):
        raise UserError(f"--backbone {name}: has no feature map that a head could be put on; try timm/NAME")
    last = list(maps)[-1]
    graphs = {mode: _output_of(getattr(tap, mode)) for mode in ("train_graph", "eval_graph")}
    ends = {prefix: node for depth in (2, 1) for node in maps for prefix in [".".join(node.split(".")[:depth])]}
    by_side: dict[int, str] = {}
    for prefix, node in sorted(ends.items(), key=lambda pair: (list(maps).index(pair[1]), -len(pair[0]))):
        by_side[maps[node].shape[2]] = prefix
    stages = {prefix: ends[prefix] for side, prefix in sorted(by_side.items(), reverse=True) if side <= 224 // 4}
    return last, {
        prefix: {mode: nodes_of[node].name for mode, nodes_of in graphs.items()} for prefix, node in stages.items()
    }


def _output_of(graph: Any) -> dict[str, Any]:
    """Return the nodes that a graph returns, by name."""
    outputs: dict[str, Any] = next(node for node in graph.nodes if node.op == "output").args[0]
    return outputs


@dataclass(frozen=True)
class Normalisation:
    """Mean and standard deviation of each channel (RGB in 0..1) that a backbone expects."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def check_backbone_name(name: str) -> None:
    """Raise `UserError` if there is no such backbone."""
    if name == "tiny":
        return
    if name.startswith("timm/"):
        import timm

        if not timm.is_model(name.removeprefix("timm/")):
            near = _near(name, [f"timm/{known}" for known in timm.list_models()])
            raise UserError(f"--backbone {name}: timm has no such model{near}; timm.list_models() lists all")
        return
    import torchvision

    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        near = _near(name, [*known, "tiny"])
        raise UserError(
            f"--backbone {name}: torchvision has no such classification model{near}; others are timm/NAME and tiny"
        )


def check_backbone(name: str, weights: str | Path, image_size: int) -> None:
    """Raise `UserError` if backbone, weights and image size do not fit together. Downloads nothing."""
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):  # library noise: the error says it all
        warnings.simplefilter("ignore")
        backbone = build_backbone(name, None if weights == "imagenet" else weights, image_size)
        feature_shape(backbone, image_size)


@functools.cache
def backbone_places(name: str, image_size: int) -> dict[str, Shape]:
    """Return the places of a backbone, whatever its weights; raises `UserError` for a backbone that cannot be built."""
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        return places_of(build_backbone(name, None, image_size), image_size)


def _near(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name.lower(), known, n=5)
    return f"; near it: {', '.join(close)}" if close else ""


def build_backbone(name: str, weights: str | Path | None, image_size: int | None = None) -> Backbone:
    """Return a backbone with its weights loaded.

    Args:
        name: a torchvision model's name, `timm/NAME`, or `tiny`.
        weights: imagenet, lite0, lite1, lite2, none or None, or a file.
        image_size: side length of the images that it will get, in pixels; None: the model's own (`own_size`). Weights
            of some timm models depend on it: position embeddings, biases of windows.

    Raises:
        UserError: unknown name, weights or a size that do not fit, or a failed download.
    """
    check_backbone_name(name)
    choice = "none" if weights is None else str(weights)
    if choice in PACKAGED_WEIGHTS and name != packaged_backbone(choice):
        raise UserError(f"--weights {choice}: these weights belong to {packaged_backbone(choice)}, not to {name}")
    backbone = _build(name, choice == "imagenet", image_size)
    if choice in PACKAGED_WEIGHTS:
        assert isinstance(backbone, TimmBackbone)
        load_into(backbone.model, in_order(read_weights(packaged_path(choice)), backbone.model), choice)
    elif choice not in NAMED_WEIGHTS:
        given = read_weights(Path(choice))
        if isinstance(backbone, TinyBackbone):
            load_into(backbone, given, choice)
        else:
            load_into(backbone.model, given, choice, backbone.dropped)
    return backbone


def normalisation(name: str, weights: str) -> Normalisation:
    """Return the normalisation of images that this backbone expects."""
    if name == "tiny" or weights in PACKAGED_WEIGHTS:
        return Normalisation(HALF, HALF)
    if name.startswith("timm/"):
        import timm

        config = timm.get_pretrained_cfg(name.removeprefix("timm/"))
        if config is not None:
            return Normalisation(tuple(config.mean), tuple(config.std))
    return Normalisation(IMAGENET_MEAN, IMAGENET_STD)


@torch.no_grad()
def feature_shape(backbone: nn.Module, image_size: int) -> tuple[int, int, int]:
    """Return (C, H, W) of the feature map for square images; raise `UserError` if there is none."""
    training = backbone.training
    try:
        features = backbone.eval()(torch.zeros(1, 3, image_size, image_size))
    except (RuntimeError, AssertionError, ValueError) as error:
        raise UserError(
            f"--image-size {image_size}: the backbone does not take it ({first_line(error)[:120]}); most take 224"
        ) from None
    finally:
        backbone.train(training)
    if features.ndim != 4:
        raise UserError(f"--backbone: gives {tuple(features.shape[1:])}, not a feature map (C, H, W): choose another")
    return int(features.shape[1]), int(features.shape[2]), int(features.shape[3])


def _build(name: str, pretrained: bool, image_size: int | None) -> Backbone:
    if name == "tiny":
        if pretrained:
            raise UserError("--weights imagenet: the backbone tiny has none; use --weights none")
        return TinyBackbone()
    try:
        if name.startswith("timm/"):
            return build_timm(name.removeprefix("timm/"), pretrained, image_size)
        import torchvision

        model = torchvision.models.get_model(name, weights="IMAGENET1K_V1" if pretrained else None)
    except (AssertionError, OSError, RuntimeError, ValueError) as error:
        reason = first_line(error)[:120]
        if not pretrained:
            raise UserError(f"--backbone {name}: cannot be built ({reason}); choose another") from None
        raise UserError(
            f"--weights imagenet: the weights of {name} could not be obtained ({reason}); "
            "give a file with --weights, or none"
        ) from None
    return TorchvisionBackbone(model, *_find_maps(model, name))
