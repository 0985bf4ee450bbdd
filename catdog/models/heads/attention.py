"""One spatial attention mask over the features, in front of the plain head."""

from typing import Literal

import torch
from torch import nn

from catdog.models.heads.pooling import mask_scores, masked_pool
from catdog.models.output import ModelOutput


class AttentionHead(nn.Module):
    """mask = activation(1×1 conv C→1); features × mask → GAP → dropout → linear.

    `softmax` runs over the positions and is multiplied by H·W, so that a uniform mask equals plain GAP.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        dropout: float,
        activation: Literal["sigmoid", "relu", "softmax"],
    ) -> None:
        super().__init__()
        self.activation = activation
        self.mask_conv = nn.Conv2d(in_channels, 1, kernel_size=1)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(in_channels, num_classes)

    def forward(self, features_BCHW: torch.Tensor) -> ModelOutput:
        scores_B1HW = mask_scores(self.mask_conv, features_BCHW)
        if self.activation == "sigmoid":
            mask_B1HW = scores_B1HW.sigmoid()
        elif self.activation == "relu":
            mask_B1HW = scores_B1HW.relu()
        else:
            positions = scores_B1HW.shape[2] * scores_B1HW.shape[3]
            mask_B1HW = scores_B1HW.flatten(2).softmax(dim=2).reshape(scores_B1HW.shape) * positions
        pooled_BC = masked_pool(features_BCHW, mask_B1HW).squeeze(1)
        return ModelOutput(self.classifier(self.dropout(pooled_BC)), mask_B1HW, pooled_BC.new_zeros(()))
