"""Residual attention: a soft mask branch beside a stage's map."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import nn

from catdog.models.heads.masked import MaskControl, Masked
from catdog.models.stages import StageOutput

CLOSED = -6.0
"""The bias of a mask that is added: sigmoid(−6) = 0.0025."""


def start_closed(mask_conv: nn.Conv2d) -> None:
    """Let a mask that is added start near 0: the bias at `CLOSED`, the weights at a tenth of usual."""
    assert mask_conv.bias is not None
    nn.init.constant_(mask_conv.bias, CLOSED)
    with torch.no_grad():
        mask_conv.weight.mul_(0.1)


class ResidualMask(Masked):
    """(1 + M(x)) · x with a soft mask branch (Wang et al. 2017, "Residual Attention Network for Image Classification").

    The branch reduces the channels to C/16 and normalises, goes `depth` times down by max pooling and back up by
    bilinear interpolation, with a residual unit at each step and the map of equal size added on the way up; a 1×1
    convolution and a sigmoid make one mask (the paper's has one per channel; here x is the stage's output, there the
    trunk's beside it). Its last bias is −6, so each map starts within 0.5 % of the stage's own.
    """

    def __init__(self, channels: int, depth: int, masks: MaskControl = "trained") -> None:
        super().__init__(masks)
        width = max(8, channels // 16)
        self.reduce = nn.Sequential(nn.Conv2d(channels, width, kernel_size=1), nn.GroupNorm(1, width))
        self.down = nn.ModuleList(ResidualUnit(width) for _ in range(depth))
        self.up = nn.ModuleList(ResidualUnit(width) for _ in range(depth))
        self.mask_conv = nn.Conv2d(width, 1, kernel_size=1)
        start_closed(self.mask_conv)
        self.keep_untrained()

    def mask_parameters(self) -> Iterator[nn.Parameter]:
        """Yield the branch's parameters: all of it makes the mask."""
        return self.parameters()

    def forward(self, map_BCHW: torch.Tensor) -> StageOutput:
        """Return the map with attention added, and the mask (B, 1, H, W)."""
        level, levels = self.reduce(map_BCHW), []
        for unit in self.down:
            levels.append(level)
            level = unit(F.max_pool2d(level, 3, stride=2, padding=1))
        for unit in self.up:
            same_size = levels.pop()
            raised = F.interpolate(unit(level), size=same_size.shape[2:], mode="bilinear", align_corners=False)
            level = raised + same_size
        mask_B1HW = self.mask_conv(level.relu()).sigmoid()
        used_B1HW = self.controlled(mask_B1HW)
        return StageOutput(map_BCHW * (1 + used_B1HW), self.shown(mask_B1HW))


class ResidualUnit(nn.Module):
    """x + conv(ReLU(conv(ReLU(x)))), with 3×3 convolutions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, kernel_size=3, padding=1)
        self.second = nn.Conv2d(width, width, kernel_size=3, padding=1)

    def forward(self, map_BCHW: torch.Tensor) -> torch.Tensor:
        """Return the map (B, C, H, W) with the residual added."""
        residual: torch.Tensor = self.second(self.first(map_BCHW.relu()).relu())
        return map_BCHW + residual
