"""The last map of a network and what its head makes of it, so that the map can be changed between the two."""

from collections.abc import Callable, Sequence

import torch

from catdog.models.petnet import ModelOutput, PetNet
from catdog.models.stages import take_outputs

Finish = Callable[[torch.Tensor], ModelOutput]
"""From a last map (B, C, H, W) to the head's output."""


def last_map(model: PetNet, inputs: torch.Tensor) -> tuple[torch.Tensor, Finish]:
    """Return the last map (B, C, H, W) of images or cached features, and the head as a function of it.

    Other maps that the head reads stay as they are.
    """
    given, outputs = model.backbone(inputs), take_outputs(model.backbone)
    reads: Sequence[str] = getattr(model.head, "reads", ())
    if not reads:
        return given, model.head
    *others, last = reads
    maps = {place: outputs[place].map_BCHW for place in others} | {last: given} if torch.is_tensor(given) else given
    return maps[last], lambda last_BCHW: model.head({**maps, last: last_BCHW})
