"""The plain head with modules at chosen places of the network: inside the backbone, or before the pooling.

The head owns its modules; those at places before the last are `inside`, and `PetNet` puts them behind their stages.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from catdog.models.attention.gates import ConvolutionalBlockAttention, EfficientChannelAttention, SqueezeExcitation
from catdog.models.attention.residual import ResidualMask
from catdog.models.petnet import ModelOutput
from catdog.models.stages import Shape, StageOutput, key_of

MODULES: Mapping[str, type[nn.Module]] = {
    "se": SqueezeExcitation,
    "eca": EfficientChannelAttention,
    "cbam": ConvolutionalBlockAttention,
    "residual": ResidualMask,
}


class StagedHead(nn.Module):
    """A module at each of the `stages`; the map behind the last place → GAP → dropout → linear."""

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        module: str,
        dropout: float,
        stages: Sequence[str],
        places: Mapping[str, Shape],
        **parameters: Any,
    ) -> None:
        """`module` is one of `MODULES`, which gets a place's channels and the other parameters."""
        super().__init__()
        self._stages, self._last = tuple(stages), list(places)[-1]
        modules = {key_of(place): MODULES[module](places[place][0], **parameters) for place in stages}
        self.modules_at = nn.ModuleDict(modules)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(in_channels, num_classes)

    @property
    def inside(self) -> dict[str, nn.Module]:
        """Return the modules inside the backbone, by place."""
        return {place: self.modules_at[key_of(place)] for place in self._stages if place != self._last}

    def forward(self, features_BCHW: torch.Tensor) -> ModelOutput:
        """Return the logits, and the masks of the last place if it has a module with masks."""
        given = StageOutput(features_BCHW)
        if self._last in self._stages:
            given = self.modules_at[key_of(self._last)](features_BCHW)
        pooled_BC = given.map_BCHW.mean(dim=(2, 3))
        return ModelOutput(self.classifier(self.dropout(pooled_BC)), given.masks_BMHW, pooled_BC.new_zeros(()))
