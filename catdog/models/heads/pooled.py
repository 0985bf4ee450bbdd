"""Heads without masks: global average, maximum and generalised mean pooling, and channel attention.

Squeeze-and-excitation (Hu et al. 2018) weights features, not positions.
"""

import math
from typing import Any

import torch
from torch import nn

from catdog.models.heads.staged import StagedHead
from catdog.models.petnet import ModelOutput


class PlainHead(nn.Module):
    """GAP → dropout → linear."""

    pools_first = True

    def __init__(self, in_channels: int, num_classes: int, *, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(in_channels, num_classes)

    def forward(self, features_BCHW: torch.Tensor) -> ModelOutput:
        """Return the logits; this head has no masks."""
        pooled_BC = features_BCHW.mean(dim=(2, 3))
        return ModelOutput(self.classifier(self.dropout(pooled_BC)), None, pooled_BC.new_zeros(()))


class SqueezeExcitationHead(nn.Module):
    """GAP → linear C/r → ReLU → linear C → sigmoid scales the channels → GAP → dropout → linear."""

    pools_first = True

    def __init__(self, in_channels: int, num_classes: int, *, reduction: int, dropout: float) -> None:
        super().__init__()
        squeezed = max(1, in_channels // reduction)
        self.squeeze = nn.Linear(in_channels, squeezed)
        self.excite = nn.Linear(squeezed, in_channels)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(in_channels, num_classes)

    def forward(self, features_BCHW: torch.Tensor) -> ModelOutput:
        """Return the logits; this head has no masks."""
        pooled_BC = features_BCHW.mean(dim=(2, 3))
        scale_BC = self.excite(self.squeeze(pooled_BC).relu()).sigmoid()
        # A scale that is constant over positions commutes with GAP, so scaling the pooled features is equivalent.
        return ModelOutput(self.classifier(self.dropout(pooled_BC * scale_BC)), None, pooled_BC.new_zeros(()))


def squeeze_excitation(in_channels: int, num_classes: int, **parameters: Any) -> nn.Module:
    """Return squeeze-and-excitation at the end, or behind the stages that are given."""
    if "stages" in parameters:
        return StagedHead(in_channels, num_classes, module="se", **parameters)
    return SqueezeExcitationHead(in_channels, num_classes, **parameters)


class MaxHead(nn.Module):
    """Maximum over positions → dropout → linear."""

    def __init__(self, in_channels: int, num_classes: int, *, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(in_channels, num_classes)

    def forward(self, features_BCHW: torch.Tensor) -> ModelOutput:
        """Return the logits; this head has no masks."""
        pooled_BC = features_BCHW.amax(dim=(2, 3))
        return ModelOutput(self.classifier(self.dropout(pooled_BC)), None, pooled_BC.new_zeros(()))


class GeneralisedMeanHead(nn.Module):
    """GeM: (mean over positions of max(x, 10⁻⁶)^p)^(1/p), with one trained p → dropout → linear.

    Radenović et al. 2019, "Fine-Tuning CNN Image Retrieval with No Human Annotation". 1 is GAP of features that are not
    negative, ∞ their maximum. Computed by logarithms, which neither overflow nor underflow whatever p becomes.
    """

    def __init__(self, in_channels: int, num_classes: int, *, p: float, dropout: float) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.tensor(p))
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(in_channels, num_classes)

    def forward(self, features_BCHW: torch.Tensor) -> ModelOutput:
        """Return the logits; this head has no masks."""
        wide = torch.promote_types(features_BCHW.dtype, torch.float32)
        logarithms_BCP = features_BCHW.to(wide).flatten(2).clamp_min(1e-6).log()
        sums_BC = (self.p * logarithms_BCP).logsumexp(dim=2)
        pooled_BC = ((sums_BC - math.log(logarithms_BCP.shape[2])) / self.p).exp()
        return ModelOutput(self.classifier(self.dropout(pooled_BC)), None, pooled_BC.new_zeros(()))
