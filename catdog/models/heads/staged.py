"""The plain head with modules at chosen places of the network: inside the backbone, or before the pooling.

The head owns its modules; those at places before the last are `inside`, and `PetNet` puts them behind their stages.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from catdog.errors import UserError
from catdog.models.heads.stage_modules import (
    AttentionBranch,
    ConvolutionalBlockAttention,
    EfficientChannelAttention,
    ResidualMask,
    SqueezeExcitation,
)
from catdog.models.petnet import BRANCH, ModelOutput, SideTask
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
        modules = {key_of(place): self.make(module, places[place][0], num_classes, **parameters) for place in stages}
        self.modules_at = nn.ModuleDict(modules)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(in_channels, num_classes)

    @staticmethod
    def make(module: str, channels: int, num_classes: int, **parameters: Any) -> nn.Module:
        """Return the module for a place."""
        return MODULES[module](channels, **parameters)

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
        branch = None if given.logits_BK is None else {BRANCH: given.logits_BK}
        return ModelOutput(
            self.classifier(self.dropout(pooled_BC)), given.masks_BMHW, pooled_BC.new_zeros(()), side_logits=branch
        )


class AttentionBranchHead(StagedHead):
    """The plain head with an attention branch at one place, whose logits have a loss of their own."""

    def __init__(self, *, branch_weight: float, stages: Sequence[str], **parameters: Any) -> None:
        if len(stages) > 1:
            raise UserError(f"abn: stages={'+'.join(stages)}: it has one branch: name one place")
        super().__init__(stages=stages, module="abn", **parameters)
        self.side_tasks = {BRANCH: SideTask("class", branch_weight)}

    @staticmethod
    def make(module: str, channels: int, num_classes: int, **parameters: Any) -> nn.Module:
        """Return the attention branch."""
        return AttentionBranch(channels, num_classes, **parameters)
