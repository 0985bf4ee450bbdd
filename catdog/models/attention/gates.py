"""Gates of channels and positions: squeeze-and-excitation, ECA, CBAM.

Published between the layers of a block and trained from scratch, with a sigmoid as the gate, which starts near a half.
Here they stand behind a stage of a pretrained network, which they must not disturb at the start: so a gate is twice a
sigmoid and its input starts at 0, or within 0.5 % of it; it is then 1, where a sigmoid is also quickest to learn.

Shapes: B batch, C channels of an H × W map.
"""

import math
from collections.abc import Iterator

import torch
from torch import nn

from catdog.models.heads.masked import MaskControl, Masked
from catdog.models.stages import StageOutput

SMALL = 0.005
"""What the initial weights behind normalised maps are scaled by, so that untrained masks differ, but hardly."""


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

    def mask_parameters(self) -> Iterator[nn.Parameter]:
        """Yield the mask convolution's parameters."""
        return self.mask_conv.parameters()

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
