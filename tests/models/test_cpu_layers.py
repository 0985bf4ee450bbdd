"""Layers for CPUs: PyTorch's outputs and gradients, up to rounding where the order of summation differs."""

import pytest
import torch
from torch import nn

from catdog.models.cpu_layers import InPlaceReLU6, StripedDepthwiseConv2d

CHANNELS = 6


def both(size: tuple[int, int], stride: int, padding: int, bias: bool = True) -> tuple[nn.Conv2d, nn.Conv2d]:
    """The same convolution twice, the second in strips, in float64."""
    torch.manual_seed(0)
    plain, striped = (
        kind(CHANNELS, CHANNELS, size, stride, padding, groups=CHANNELS, bias=bias).double()
        for kind in (nn.Conv2d, StripedDepthwiseConv2d)
    )
    striped.load_state_dict(plain.state_dict())
    return plain, striped


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("size", "stride", "padding", "side"),
    [
        ((5, 5), 1, 2, 6),
        ((5, 5), 2, 2, 11),
        ((5, 5), 2, 2, 12),
        ((5, 5), 1, 2, 3),
        ((5, 5), 1, 0, 7),
        ((7, 7), 1, 3, 9),
        ((7, 7), 3, 3, 20),
        ((1, 4), 1, 0, 8),
        ((9, 6), 1, 1, 12),
    ],
)
def test_outputs_and_gradients_equal_those_of_a_plain_convolution(
    size: tuple[int, int], stride: int, padding: int, side: int, bias: bool
) -> None:
    plain, striped = both(size, stride, padding, bias)
    results = []
    for conv in (plain, striped):
        torch.manual_seed(1)
        maps = torch.randn(3, CHANNELS, side, side, dtype=torch.float64)
        maps = maps.contiguous(memory_format=torch.channels_last).requires_grad_()
        output = conv(maps)
        gradients = torch.autograd.grad(output, (maps, *conv.parameters()), torch.randn_like(output))
        results.append((output, *gradients))
    assert torch.equal(results[0][0], results[1][0])
    for expected, gradient in zip(*results, strict=True):
        torch.testing.assert_close(gradient, expected)


def test_only_required_gradients_are_computed() -> None:
    _, striped = both((5, 5), 1, 2)
    maps = torch.randn(2, CHANNELS, 6, 6, dtype=torch.float64)
    striped(maps).sum().backward()
    assert maps.grad is None
    assert striped.weight.grad is not None
    striped.requires_grad_(False).zero_grad()
    striped(maps.requires_grad_()).sum().backward()
    assert maps.grad is not None
    assert striped.weight.grad is None


def test_it_works_with_autocast() -> None:
    plain, striped = (conv.float() for conv in both((5, 5), 1, 2))
    maps = torch.randn(2, CHANNELS, 6, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output, expected = striped(maps), plain(maps)
    assert output.dtype == torch.bfloat16
    assert torch.equal(output, expected)
    for result in (output, expected):
        result.sum().backward()
    torch.testing.assert_close(striped.weight.grad, plain.weight.grad)


@pytest.mark.parametrize(
    ("conv", "gains"),
    [
        (nn.Conv2d(8, 8, 5, groups=8), True),
        (nn.Conv2d(8, 8, (1, 7), groups=8), True),
        (nn.Conv2d(8, 8, 3, groups=8), False),
        (nn.Conv2d(8, 8, (7, 3), groups=8), False),
        (nn.Conv2d(8, 8, 5), False),
        (nn.Conv2d(8, 16, 5, groups=8), False),
        (nn.Conv2d(8, 8, 5, groups=8, dilation=2), False),
        (nn.Conv2d(8, 8, 5, groups=8, padding="same"), False),
        (nn.Conv2d(8, 8, 5, groups=8, padding=2, padding_mode="reflect"), False),
        (StripedDepthwiseConv2d(8, 8, 5, groups=8), False),
    ],
)
def test_strips_are_for_plain_wide_depthwise_convolutions(conv: nn.Conv2d, gains: bool) -> None:
    assert StripedDepthwiseConv2d.gains(conv) == gains


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_clamping_in_place_is_bit_identical_to_relu6(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    values = torch.cat([torch.randn(1000) * 8, torch.tensor([0.0, -0.0, 6.0, 5.999, 6.001])]).to(dtype)
    results = []
    for layer in (nn.ReLU6(inplace=True), InPlaceReLU6()):
        given = values.clone().requires_grad_()
        maps = given * 1
        output = layer(maps)
        output.backward(torch.arange(len(values)).to(dtype))
        assert output.data_ptr() == maps.data_ptr()
        results.append((output, given.grad))
    for expected, result in zip(*results, strict=True):
        assert torch.equal(expected, result)


def test_a_backward_pass_that_needs_the_clamped_values_raises() -> None:
    given = torch.randn(4, requires_grad=True)
    maps = given * 1
    kept = maps.square()
    InPlaceReLU6()(maps)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        kept.sum().backward()
