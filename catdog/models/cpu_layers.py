"""Equivalents of PyTorch's layers that are faster on CPUs."""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import nn

STRIP = 3
"""Columns in a strip."""


class InPlaceReLU6(nn.Module):
    """`nn.ReLU6(inplace=True)`, bit for bit, without the copy of its input that PyTorch keeps for the backward pass.

    The output tells just as well where the gradient passes, and the next layer keeps it anyway.
    """

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Clamp the maps to 0..6, in place."""
        clamped: torch.Tensor = _ClampInPlace.apply(maps) if torch.is_grad_enabled() else maps.clamp_(0, 6)
        return clamped


class _ClampInPlace(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, maps: torch.Tensor) -> torch.Tensor:
        maps.clamp_(0, 6)
        ctx.mark_dirty(maps)
        ctx.save_for_backward(maps)
        return maps

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        (clamped,) = ctx.saved_tensors
        passed: torch.Tensor = torch.ops.aten.hardtanh_backward(gradients[0], clamped, 0, 6)
        return passed


class StripedDepthwiseConv2d(nn.Conv2d):
    """A depthwise `nn.Conv2d` that computes its weight gradient in strips: equal but for rounding, and faster.

    oneDNN, which runs PyTorch's convolutions on CPUs, has fast weight-gradient kernels only for depthwise convolutions
    up to three columns wide; that gradient of a 5×5 kernel takes 4 to 14 times as long as the other two passes
    together. So a wide kernel is cut into strips of three columns, each with the gradient of a convolution over its
    own slice of the input (`python benchmarks/alternatives.py cpu_layers`).
    """

    @staticmethod
    def gains(conv: nn.Conv2d) -> bool:
        """Return whether strips make the weight gradient of a convolution faster."""
        return (
            type(conv) is nn.Conv2d
            and conv.in_channels == conv.out_channels == conv.groups
            and conv.kernel_size[1] > STRIP
            and conv.dilation == (1, 1)
            and conv.padding_mode == "zeros"
            and isinstance(conv.padding, tuple)
        )

    def forward(self, maps_BCHW: torch.Tensor) -> torch.Tensor:
        """Return the convolved maps."""
        if torch.is_autocast_enabled(maps_BCHW.device.type):  # autocast computes in other dtypes than those saved
            return super().forward(maps_BCHW)
        convolved: torch.Tensor = _Striped.apply(maps_BCHW, self.weight, self.bias, self.stride, self.padding)
        return convolved


class _Striped(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        maps_BCHW: torch.Tensor,
        weight_C1KK: torch.Tensor,
        bias_C: torch.Tensor | None,
        stride: tuple[int, int],
        padding: tuple[int, int],
    ) -> torch.Tensor:
        ctx.save_for_backward(maps_BCHW, weight_C1KK)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(maps_BCHW, weight_C1KK, bias_C, stride, padding, groups=len(weight_C1KK))

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradient_BCHW,) = gradients
        maps_BCHW, weight_C1KK = ctx.saved_tensors
        of_maps = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            of_maps = _gradient(0, gradient_BCHW, maps_BCHW, weight_C1KK, ctx.stride, ctx.padding)
        if ctx.needs_input_grad[1]:
            top, left = ctx.padding
            padded_BCHW = F.pad(maps_BCHW, (left, left, top, top))
            reach = (gradient_BCHW.shape[3] - 1) * ctx.stride[1]
            of_strips: list[torch.Tensor] = []
            for strip_C1KK in weight_C1KK.split(STRIP, dim=3):
                first = len(of_strips) * STRIP
                seen_BCHW = padded_BCHW[..., first : first + reach + strip_C1KK.shape[3]]
                of_strips.append(_gradient(1, gradient_BCHW, seen_BCHW, strip_C1KK, ctx.stride, (0, 0)))
            of_weight = torch.cat(of_strips, dim=3)
        if ctx.needs_input_grad[2]:
            of_bias = gradient_BCHW.sum(dim=(0, 2, 3))
        return of_maps, of_weight, of_bias, None, None


def _gradient(
    which: Literal[0, 1],
    gradient_BCHW: torch.Tensor,
    maps_BCHW: torch.Tensor,
    weight_C1KK: torch.Tensor,
    stride: tuple[int, int],
    padding: tuple[int, int],
) -> torch.Tensor:
    """Return the gradient of a depthwise convolution's maps (0) or weight (1)."""
    channels, wanted = len(weight_C1KK), [which == 0, which == 1, False]
    gradients: tuple[torch.Tensor, ...] = torch.ops.aten.convolution_backward(
        gradient_BCHW, maps_BCHW, weight_C1KK, None, stride, padding, (1, 1), False, (0, 0), channels, wanted
    )
    return gradients[which]
