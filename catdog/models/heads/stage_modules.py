"""Modules that attend behind a stage: squeeze-and-excitation, ECA, CBAM, residual attention, the attention branch.

Each maps a stage's output (B, C, H, W) to a `StageOutput`. The gates (the first three) were published between the
layers of a block and trained from scratch, with a sigmoid, which starts near a half. Here all stand behind a stage of a
pretrained network, which they must not disturb at the start. So a gate is twice a sigmoid and its input starts at 0, or
within 0.5 % of it; it is then 1, where a sigmoid is also quickest to learn. A mask that is added to 1 starts near 0.

Shapes: B batch, C channels of an H × W map, K classes.
"""

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import nn

from catdog.models.heads.masked import MaskControl, Masked
from catdog.models.stages import StageOutput

SMALL = 0.005
"""What the initial weights behind normalised maps are scaled by, so that untrained masks differ, but hardly."""
CLOSED = -6.0
"""The bias of a mask that is added: sigmoid(−6) = 0.0025."""


def gate(scores: torch.Tensor) -> torch.Tensor:
    """Return 2 · sigmoid(scores): from 0 to 2, and 1 at 0."""
    return 2 * scores.sigmoid()


def squeezing(channels: int, reduction: int) -> nn.Sequential:
    """Return linear C → C/r → ReLU → linear C, which returns 0 at the start."""
    squeezed = max(1, channels // reduction)
    last = nn.Linear(squeezed, channels)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(channels, squeezed), nn.ReLU(), last)


class SqueezeExcitation(nn.Module):
    """Channels scaled by gate(linear C(ReLU(linear C/r(GAP)))) (Hu et al. 2018, "Squeeze-and-Excitation")."""

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        self.excite = squeezing(channels, reduction)

    def forward(self, map_BCHW: torch.Tensor) -> StageOutput:
        """Return the scaled map."""
        scale_BC = gate(self.excite(map_BCHW.mean(dim=(2, 3))))
        return StageOutput(map_BCHW * scale_BC[:, :, None, None])


class EfficientChannelAttention(nn.Module):
    """Channels scaled by gate(1D convolution of GAP over neighbouring channels) (Wang et al. 2020, "ECA-Net").

    The kernel is |log2(C) / 2 + 1 / 2|, made odd, as in the paper.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        kernel = int(abs(math.log2(channels) + 1) / 2) | 1
        self.conv = nn.Conv1d(1, 1, kernel, padding=kernel // 2)
        nn.init.zeros_(self.conv.weight)
        nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]

    def forward(self, map_BCHW: torch.Tensor) -> StageOutput:
        """Return the scaled map."""
        scale_BC = gate(self.conv(map_BCHW.mean(dim=(2, 3)).unsqueeze(1)).squeeze(1))
        return StageOutput(map_BCHW * scale_BC[:, :, None, None])


class ConvolutionalBlockAttention(Masked):
    """Channels, then positions (Woo et al. 2018, "CBAM").

    Channels are scaled by gate(MLP(GAP) + MLP(global max)), positions by gate(k×k convolution of the channels' mean and
    maximum, normalised over positions), which is the mask. (The published code normalises behind that convolution, by
    batch.)
    """

    def __init__(self, channels: int, reduction: int, kernel_size: int, masks: MaskControl = "trained") -> None:
        super().__init__(masks)
        self.excite = squeezing(channels, reduction)
        self.mask_conv = nn.Conv2d(2, 1, kernel_size, padding="same")
        nn.init.zeros_(self.mask_conv.bias)  # type: ignore[arg-type]
        with torch.no_grad():
            self.mask_conv.weight.mul_(SMALL)
        self.keep_untrained()

    def forward(self, map_BCHW: torch.Tensor) -> StageOutput:
        """Return the scaled map and the mask (B, 1, H, W)."""
        pooled = map_BCHW.mean(dim=(2, 3)), map_BCHW.amax(dim=(2, 3))
        scale_BC = gate(self.excite(pooled[0]) + self.excite(pooled[1]))
        scaled_BCHW = map_BCHW * scale_BC[:, :, None, None]
        summary_B2HW = torch.cat([scaled_BCHW.mean(dim=1, keepdim=True), scaled_BCHW.amax(dim=1, keepdim=True)], dim=1)
        mask_B1HW = gate(self.mask_conv(_normalised(summary_B2HW)))
        used_B1HW = self.controlled(mask_B1HW)
        return StageOutput(scaled_BCHW * used_B1HW, self.shown(mask_B1HW))


def _normalised(maps_BCHW: torch.Tensor) -> torch.Tensor:
    """Return the maps with mean 0 and variance 1 over positions (0 where there is one position)."""
    variance, mean = torch.var_mean(maps_BCHW.float(), dim=(2, 3), correction=0, keepdim=True)
    return (maps_BCHW - mean) * torch.rsqrt(variance + 1e-5)


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


class AttentionBranch(Masked):
    """(1 + M(x)) · x, where M = sigmoid(1×1 convolution of K class maps), whose means are logits of their own.

    Fukui et al. 2019, "Attention Branch Network".
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
