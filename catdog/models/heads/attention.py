"""Spatial attention over the features: one mask before the plain head, or several kept apart by a divergence loss.

Masks and pooling are matrix products over the positions of channels-last maps; masked feature maps are never
materialised. Several masks follow Zhao et al. 2017, "Diversified Visual Attention Networks for Fine-Grained Object
Classification" (DVAN), with two controls: without the loss, and with fixed masks.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from catdog.models.losses import divergence_loss
from catdog.models.petnet import ModelOutput


def mask_scores(mask_conv: nn.Conv2d, features_BCHW: torch.Tensor) -> torch.Tensor:
    """Return the 1×1 convolution of the features, (B, M, H, W).

    As a matrix product with few columns: CPUs compute its gradients a third faster than a convolution's.
    """
    features_BHWC = features_BCHW.permute(0, 2, 3, 1)
    return F.linear(features_BHWC, mask_conv.weight.flatten(1), mask_conv.bias).permute(0, 3, 1, 2)


def masked_pool(features_BCHW: torch.Tensor, masks_BMHW: torch.Tensor) -> torch.Tensor:
    """Return the mean over positions of features × mask, for each mask: (B, M, C)."""
    height, width = masks_BMHW.shape[2:]
    return torch.einsum("bmhw,bchw->bmc", masks_BMHW, features_BCHW) / (height * width)


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
        """Return the logits and the mask (B, 1, H, W)."""
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


class MultiAttentionHead(nn.Module):
    """M masks = sigmoid(1×1 conv C→M, no bias); each masks the features → GAP; concatenate → linear → ReLU → dropout
    → linear.

    The auxiliary loss is λ times `divergence_loss`. With `train_masks=False` the mask convolution keeps its
    initial weights.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        num_masks: int,
        lambda_divergence: float,
        hidden_features: int,
        dropout: float,
        train_masks: bool = True,
    ) -> None:
        super().__init__()
        self.lambda_divergence = lambda_divergence
        self.mask_conv = nn.Conv2d(in_channels, num_masks, kernel_size=1, bias=False)
        nn.init.xavier_uniform_(self.mask_conv.weight)
        self.mask_conv.requires_grad_(train_masks)
        self.hidden = nn.Linear(num_masks * in_channels, hidden_features)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(hidden_features, num_classes)

    def forward(self, features_BCHW: torch.Tensor) -> ModelOutput:
        """Return the logits, the masks (B, M, H, W) and the weighted divergence loss."""
        masks_BMHW = mask_scores(self.mask_conv, features_BCHW).sigmoid()
        hidden = self.hidden(masked_pool(features_BCHW, masks_BMHW).flatten(1)).relu()
        aux_loss = masks_BMHW.new_zeros(())
        if self.lambda_divergence > 0:
            aux_loss = self.lambda_divergence * divergence_loss(masks_BMHW)
        return ModelOutput(self.classifier(self.dropout(hidden)), masks_BMHW, aux_loss)
