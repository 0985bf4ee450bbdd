"""The attention branch (Fukui et al. 2019, "Attention Branch Network"): a classifier whose class maps become a mask."""

from collections.abc import Iterator

import torch
from torch import nn

from catdog.models.attention.residual import start_closed
from catdog.models.heads.masked import MaskControl, Masked
from catdog.models.stages import StageOutput


class AttentionBranch(Masked):
    """(1 + M(x)) · x, where M = sigmoid(1×1 convolution of K class maps), whose means are logits of their own.

    Class maps: 3×3 convolution C → C/4, ReLU, 1×1 convolution → K (the paper's branch is a copy of the last stage);
    before they become the mask, they are normalised together, over all positions of all maps.
    M starts near zero, so the map starts within 0.5 % of the stage's own.
    """

    def __init__(self, channels: int, num_classes: int, masks: MaskControl = "trained") -> None:
        super().__init__(masks)
        width = max(8, channels // 4)
        self.hidden = nn.Conv2d(channels, width, kernel_size=3, padding=1)
        self.class_maps = nn.Conv2d(width, num_classes, kernel_size=1)
        self.norm = nn.GroupNorm(1, num_classes)
        self.mask_conv = nn.Conv2d(num_classes, 1, kernel_size=1)
        start_closed(self.mask_conv)
        self.keep_untrained()

    def mask_parameters(self) -> Iterator[nn.Parameter]:
        """Yield the parameters that make the mask from the class maps."""
        yield from self.norm.parameters()
        yield from self.mask_conv.parameters()

    def forward(self, map_BCHW: torch.Tensor) -> StageOutput:
        """Return the map with attention added, the mask (B, 1, H, W) and the branch's logits (B, K)."""
        class_maps_BKHW = self.class_maps(self.hidden(map_BCHW).relu())
        mask_B1HW = self.mask_conv(self.norm(class_maps_BKHW)).sigmoid()
        used_B1HW = self.controlled(mask_B1HW)
        return StageOutput(map_BCHW * (1 + used_B1HW), self.shown(mask_B1HW), class_maps_BKHW.mean(dim=(2, 3)))
