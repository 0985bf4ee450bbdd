"""Stages of a backbone: where modules can be put, and maps read, before the head.

A place is a stage's name, such as ResNet's `layer1` to `layer4`; the last place is the map that the head gets, named
`final` where no stage ends with it. Behind each other stage that a variant uses sits a `Socket`. The modules themselves
belong to the head: sockets refer to them, so a head's parameters are in one place and the backbone's keep their names.

Shapes: B batch, C channels of an H × W map, M masks, K classes.
"""

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from catdog.errors import UserError

Shape = tuple[int, int, int]
"""(C, H, W)."""
FINAL = "final"
GROUPS = {"all": slice(None), "last": slice(-1, None), "before-last": slice(-2, -1), "inside": slice(0, -1)}
"""Names for several places of any backbone."""


class StageOutput(NamedTuple):
    """What a module behind a stage gives."""

    map_BCHW: torch.Tensor
    """In place of the stage's own."""
    masks_BMHW: torch.Tensor | None = None
    logits_BK: torch.Tensor | None = None
    """Of a classifier on this map."""


class Socket(nn.Module):
    """Behind a stage: passes its map on, through the module put there, and keeps the output until it is taken."""

    def __init__(self, stage: str, module: nn.Module | None, channels: int | None) -> None:
        super().__init__()
        self.stage = stage
        self._held = (module,)  # a tuple: the module is the head's
        self._channels = channels
        self._output: StageOutput | None = None
        self.is_active = True
        """Whether maps pass through the module."""

    def refer_to(self, other: "Socket") -> None:
        """Use the module of another socket, of which this one is a copy."""
        self._held, self.is_active = other._held, True

    def forward(self, map_BCHW: torch.Tensor) -> torch.Tensor:
        """Return the map for the next stage, in the layout in which it came: some timm models have (B, H, W, C)."""
        channels_last = self._channels is not None and map_BCHW.shape[1] != self._channels
        if channels_last:
            map_BCHW = map_BCHW.permute(0, 3, 1, 2)
        module = self._held[0] if self.is_active else None
        self._output = StageOutput(map_BCHW) if module is None else module(map_BCHW)
        if not isinstance(self._output, StageOutput):
            raise TypeError(f"the module behind {self.stage} returns {type(self._output).__name__}, not a StageOutput")
        result = self._output.map_BCHW
        return result.permute(0, 2, 3, 1) if channels_last else result

    def take(self) -> StageOutput | None:
        """Return the output of the last pass, once; None if the stage gave no map."""
        output, self._output = self._output, None
        return output

    def hook(self, module: nn.Module, inputs: Any, output: Any) -> Any:
        """Do the same as a forward hook of the stage's module."""
        return self(output) if isinstance(output, torch.Tensor) and output.ndim == 4 else output


def key_of(stage: str) -> str:
    """Return a stage's name as one of a submodule."""
    return stage.replace(".", "_")


class Staged(nn.Module):
    """A backbone with stages."""

    def __init__(self) -> None:
        super().__init__()
        self.stage_channels: Mapping[str, int | None] = {}
        """The stages by name, with their channels where the map's layout is uncertain."""
        self.sockets = nn.ModuleDict()

    def put(self, stage: str, socket: Socket) -> None:
        """Place a socket behind a stage by a hook, which any model takes that runs as it is written."""
        self.get_submodule(stage).register_forward_hook(socket.hook)

    def connect(self, modules: Mapping[str, nn.Module], read: Sequence[str] = ()) -> None:
        """Place sockets behind the stages that have a module or are read."""
        for stage in dict.fromkeys([*modules, *read]):
            socket = Socket(stage, modules.get(stage), self.stage_channels[stage])
            self.sockets[key_of(stage)] = socket
            self.put(stage, socket)


def sockets_in(backbone: nn.Module) -> list[Socket]:
    """Return the sockets of a backbone; none if it has no stages."""
    return list(backbone.sockets.values()) if isinstance(backbone, Staged) else []  # type: ignore[arg-type]


def take_outputs(backbone: nn.Module) -> dict[str, StageOutput]:
    """Return what the sockets of a backbone kept, by stage."""
    outputs = {socket.stage: socket.take() for socket in sockets_in(backbone)}
    return {stage: output for stage, output in outputs.items() if output is not None}


@torch.no_grad()
def places_of(backbone: Staged, image_size: int) -> dict[str, Shape]:
    """Return the places of a backbone for square images, with the shapes of their maps, the last one the head's.

    Of several stages with maps of one size, the last counts; stages that give no square map (tokens) are left out.
    """
    probe = copy.deepcopy(backbone).eval()
    probe.connect({}, list(probe.stage_channels))
    features = probe(torch.rand(1, 3, image_size, image_size, generator=torch.Generator().manual_seed(0)))
    maps = {stage: output.map_BCHW for stage, output in take_outputs(probe).items()}
    by_side = {one.shape[2]: (stage, one) for stage, one in maps.items() if one.shape[2] == one.shape[3]}
    name, last = by_side.pop(features.shape[2], (FINAL, None))
    places = {stage: _shape(one) for stage, one in by_side.values()}
    is_same = last is not None and last.shape == features.shape and torch.equal(last, features)
    return places | {name if is_same else FINAL: _shape(features)}


def _shape(map_1CHW: torch.Tensor) -> Shape:
    channels, height, width = map_1CHW.shape[1:]
    return channels, height, width


def choose_places(text: str, places: Mapping[str, Shape]) -> list[str]:
    """Return the places that a parameter names, in the backbone's order.

    `text` is names joined by '+', or `all`, `last`, `before-last`, or `inside` (all but the last).

    Raises:
        UserError: the backbone has no such place, or none at all.
    """
    if text in GROUPS:
        chosen = list(places)[GROUPS[text]]
        if not chosen:
            raise UserError(f"stages={text}: the backbone has no place before {FINAL}; choose another backbone")
        return chosen
    names = text.split("+")
    if unknown := [name for name in names if name not in places]:
        raise UserError(f"stages={text}: no place {unknown[0]}; choose from {', '.join([*places, *GROUPS])}")
    return [place for place in places if place in names]


def joined_shape(places: Mapping[str, Shape], read: Sequence[str]) -> Shape:
    """Return the shape of the one map that `JoinedMaps` makes of those of some places."""
    return sum(math.prod(places[place]) for place in read), 1, 1


class JoinedMaps(nn.Module):
    """A backbone that returns the maps of several places as one of (B, L, 1, 1), to be cached like any other."""

    def __init__(self, backbone: Staged, read: Sequence[str]) -> None:
        super().__init__()
        self.backbone = copy.deepcopy(backbone)
        self.backbone.connect({}, read[:-1])

    def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        """Return the maps (B, L, 1, 1), those of `CachedMaps` one after the other."""
        features = self.backbone(images_BCHW)
        maps = [output.map_BCHW for output in take_outputs(self.backbone).values()]
        return torch.cat([one.permute(0, 2, 3, 1).flatten(1) for one in (*maps, features)], dim=1)[:, :, None, None]


class CachedMaps(nn.Module):
    """The maps by place, from cached ones of `JoinedMaps`."""

    def __init__(self, shapes: Mapping[str, Shape]) -> None:
        super().__init__()
        self.shapes = dict(shapes)

    def forward(self, joined_BL11: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the maps (B, C, H, W) by place."""
        sizes = [math.prod(shape) for shape in self.shapes.values()]
        parts = joined_BL11.flatten(1).split(sizes, dim=1)
        return {
            place: part.view(-1, height, width, channels).permute(0, 3, 1, 2)
            for part, (place, (channels, height, width)) in zip(parts, self.shapes.items(), strict=True)
        }
