"""The baseline: global average pooling and a linear classifier."""

import torch
from torch import nn

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
