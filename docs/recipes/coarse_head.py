"""`coarse`: `multi-attention` on means over 2 × 2 positions, a map half as fine of the same image."""

import torch
import torch.nn.functional as F

from catdog.models import ModelOutput, register_head
from catdog.models.heads.attention import MultiAttentionHead


@register_head("coarse")
class CoarseHead(MultiAttentionHead):
    """Four masks of half the map's height and width, with the parameters of `pets-frozen`."""

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__(
            in_channels, num_classes, num_masks=4, lambda_divergence=1e-4, hidden_features=256, dropout=0.5
        )

    def forward(self, features_BCHW: torch.Tensor) -> ModelOutput:
        """Return the logits, and the masks enlarged to the size of the map."""
        size = features_BCHW.shape[2:]
        output = super().forward(F.adaptive_avg_pool2d(features_BCHW, [(side + 1) // 2 for side in size]))
        assert output.masks_BMHW is not None
        return output.changed(masks_BMHW=F.interpolate(output.masks_BMHW, size))
