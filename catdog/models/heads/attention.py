"""Spatial attention over the features: one mask before the plain head, or several kept apart by a divergence loss.

Masks and pooling are matrix products over the positions of channels-last maps; masked feature maps are never
materialised. Several masks follow Zhao et al. 2017, "Diversified Visual Attention Networks for Fine-Grained Object
Classification" (DVAN), with two controls: without the loss, and with fixed masks.
"""

from typing import Literal

import torch
from torch import nn

from catdog.models.heads.masked import MaskControl, MaskedHead, mask_scores, masked_pool, softmax_masks
from catdog.models.losses import divergence_loss


class AttentionHead(MaskedHead):
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
        masks: MaskControl = "trained",
    ) -> None:
        super().__init__(masks)
        self.activation = activation
        self.mask_conv = nn.Conv2d(in_channels, 1, kernel_size=1)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(in_channels, num_classes)
        self.keep_untrained()

    def make_masks(self, features_BCHW: torch.Tensor) -> torch.Tensor:
        """Return the mask (B, 1, H, W)."""
        scores_B1HW = mask_scores(self.mask_conv, features_BCHW)
        if self.activation == "sigmoid":
            return scores_B1HW.sigmoid()
        if self.activation == "relu":
            return scores_B1HW.relu()
        return softmax_masks(scores_B1HW)

    def classify(self, features_BCHW: torch.Tensor, masks_BMHW: torch.Tensor) -> torch.Tensor:
        """Return the logits (B, K)."""
        logits_BK: torch.Tensor = self.classifier(self.dropout(masked_pool(features_BCHW, masks_BMHW).squeeze(1)))
        return logits_BK


class MultiAttentionHead(MaskedHead):
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
        masks: MaskControl = "trained",
        divergence: Literal["sum", "mean"] = "sum",
    ) -> None:
        super().__init__(masks if train_masks else "untrained")
        self.lambda_divergence = lambda_divergence
        self.divergence = divergence
        self.mask_conv = nn.Conv2d(in_channels, num_masks, kernel_size=1, bias=False)
        nn.init.xavier_uniform_(self.mask_conv.weight)
        self.hidden = nn.Linear(num_masks * in_channels, hidden_features)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(hidden_features, num_classes)
        self.keep_untrained()

    def make_masks(self, features_BCHW: torch.Tensor) -> torch.Tensor:
        """Return the masks (B, M, H, W)."""
        return mask_scores(self.mask_conv, features_BCHW).sigmoid()

    def classify(self, features_BCHW: torch.Tensor, masks_BMHW: torch.Tensor) -> torch.Tensor:
        """Return the logits (B, K)."""
        hidden = self.hidden(masked_pool(features_BCHW, masks_BMHW).flatten(1)).relu()
        logits_BK: torch.Tensor = self.classifier(self.dropout(hidden))
        return logits_BK

    def mask_loss(self, masks_BMHW: torch.Tensor) -> torch.Tensor:
        """Return λ times the divergence of the masks."""
        if self.lambda_divergence == 0:
            return super().mask_loss(masks_BMHW)
        return self.lambda_divergence * divergence_loss(masks_BMHW, by_area=self.divergence == "mean")
