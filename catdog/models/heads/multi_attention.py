"""Several spatial masks, held apart by a divergence loss; and its two controls, without the loss and with fixed masks.

After Zhao et al. 2017, "Diversified Visual Attention Networks for Fine-Grained Object Classification" (DVAN).
"""

import torch
from torch import nn

from catdog.models.heads.pooling import mask_scores, masked_pool
from catdog.models.losses import divergence_loss
from catdog.models.output import ModelOutput


class MultiAttentionHead(nn.Module):
    """M masks = sigmoid(1×1 conv C→M, no bias); each masks the features → GAP; concatenate → linear → ReLU → dropout
    → linear.

    The auxiliary loss is λ times `divergence_loss`. With `train_masks=False` the mask convolution stays as it was
    drawn.
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
        masks_BMHW = mask_scores(self.mask_conv, features_BCHW).sigmoid()
        hidden = self.hidden(masked_pool(features_BCHW, masks_BMHW).flatten(1)).relu()
        aux_loss = masks_BMHW.new_zeros(())
        if self.lambda_divergence > 0:
            aux_loss = self.lambda_divergence * divergence_loss(masks_BMHW)
        return ModelOutput(self.classifier(self.dropout(hidden)), masks_BMHW, aux_loss)
