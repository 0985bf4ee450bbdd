"""Outputs and gradients of the modules between stages against their formulas, written out in plain Python numbers.

C channels of an H × W map. No formula here uses an operation of torch.
"""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from catdog.models.attention.gates import ConvolutionalBlockAttention, EfficientChannelAttention, SqueezeExcitation
from catdog.models.attention.residual import ResidualMask

Nested = Any
"""Nested lists of numbers, indexed like the tensors."""
CHANNELS, HEIGHT, WIDTH = 6, 4, 5
STEP = 1e-6


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def mean(plane: Nested) -> float:
    values = [value for row in plane for value in row]
    return sum(values) / len(values)


def largest(plane: Nested) -> float:
    return max(max(row) for row in plane)


def linear(vector: Nested, weights: Nested, name: str) -> Nested:
    rows, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
    return [sum(w * x for w, x in zip(row, vector, strict=True)) + b for row, b in zip(rows, bias, strict=True)]


def conv(maps: Nested, weights: Nested, name: str) -> Nested:
    """A convolution that keeps the size, with an odd kernel."""
    kernels, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
    height, width, reach = len(maps[0]), len(maps[0][0]), len(kernels[0][0]) // 2

    def at(kernel: Nested, y: int, x: int) -> float:
        return sum(
            kernel[c][dy + reach][dx + reach] * maps[c][y + dy][x + dx]
            for c in range(len(maps))
            for dy in range(-reach, reach + 1)
            for dx in range(-reach, reach + 1)
            if 0 <= y + dy < height and 0 <= x + dx < width
        )

    return [
        [[at(kernel, y, x) + b for x in range(width)] for y in range(height)]
        for kernel, b in zip(kernels, bias, strict=True)
    ]


def scaled(maps: Nested, scales: Nested) -> Nested:
    return [[[s * v for v in row] for row in plane] for plane, s in zip(maps, scales, strict=True)]


def masked(maps: Nested, mask: Nested) -> Nested:
    return [[[m * v for m, v in zip(*rows, strict=True)] for rows in zip(mask, plane, strict=True)] for plane in maps]


def relu(maps: Nested) -> Nested:
    return [[[max(v, 0.0) for v in row] for row in plane] for plane in maps]


def added(one: Nested, other: Nested) -> Nested:
    return [
        [[a + b for a, b in zip(*rows, strict=True)] for rows in zip(*planes, strict=True)]
        for planes in zip(one, other, strict=True)
    ]


def excited(pooled: Nested, weights: Nested) -> Nested:
    hidden = [max(value, 0.0) for value in linear(pooled, weights, "excite.0")]
    return linear(hidden, weights, "excite.2")


def squeeze_and_excite(maps: Nested, weights: Nested) -> tuple[Nested, Nested]:
    gates = [sigmoid(value) for value in excited([mean(plane) for plane in maps], weights)]
    return scaled(maps, gates), None


def efficient_channels(maps: Nested, weights: Nested) -> tuple[Nested, Nested]:
    kernel, bias = weights["conv.weight"][0][0], weights["conv.bias"][0]
    pooled, reach = [mean(plane) for plane in maps], len(kernel) // 2
    near = [[c + d for d in range(-reach, reach + 1)] for c in range(len(pooled))]
    sums = [sum(k * pooled[c] for k, c in zip(kernel, cs, strict=True) if 0 <= c < len(pooled)) for cs in near]
    return scaled(maps, [sigmoid(value + bias) for value in sums]), None


def channels_then_positions(maps: Nested, weights: Nested) -> tuple[Nested, Nested]:
    by_mean, by_max = (excited([pool(plane) for plane in maps], weights) for pool in (mean, largest))
    maps = scaled(maps, [sigmoid(a + b) for a, b in zip(by_mean, by_max, strict=True)])
    columns = [[[plane[y][x] for plane in maps] for x in range(len(maps[0][0]))] for y in range(len(maps[0]))]
    summary = [[[pool(column) for column in row] for row in columns] for pool in (lambda v: sum(v) / len(v), max)]
    normal = []
    for plane in summary:
        centre = mean(plane)
        spread = math.sqrt(mean([[(v - centre) ** 2 for v in row] for row in plane]) + 1e-5)
        normal.append([[(v - centre) / spread for v in row] for row in plane])
    mask = [[sigmoid(value) for value in row] for row in conv(normal, weights, "mask_conv")[0]]
    return masked(maps, mask), [mask]


def unit(maps: Nested, weights: Nested, name: str) -> Nested:
    return added(maps, conv(relu(conv(relu(maps), weights, f"{name}.first")), weights, f"{name}.second"))


def pooled_down(maps: Nested) -> Nested:
    """Max pooling of 3×3 windows, two apart, one position beyond each border."""
    height, width = len(maps[0]), len(maps[0][0])

    def near(place: int, size: int) -> range:
        return range(max(place - 1, 0), min(place + 2, size))

    return [
        [
            [max(plane[v][u] for v in near(y, height) for u in near(x, width)) for x in range(0, width, 2)]
            for y in range(0, height, 2)
        ]
        for plane in maps
    ]


def interpolated(maps: Nested, height: int, width: int) -> Nested:
    """Bilinear interpolation between the centres of cells."""

    def between(size: int, cells: int, i: int) -> list[tuple[int, float]]:
        place = max((i + 0.5) * cells / size - 0.5, 0.0)
        low = min(int(place), cells - 1)
        return [(low, 1 - (place - low)), (min(low + 1, cells - 1), place - low)]

    rows = [between(height, len(maps[0]), y) for y in range(height)]
    columns = [between(width, len(maps[0][0]), x) for x in range(width)]
    return [
        [[sum(a * b * plane[v][u] for v, a in row for u, b in column) for column in columns] for row in rows]
        for plane in maps
    ]


def residual_mask(maps: Nested, weights: Nested) -> tuple[Nested, Nested]:
    level = conv(maps, weights, "reduce.0")
    values = [value for plane in level for row in plane for value in row]
    centre = sum(values) / len(values)
    spread = math.sqrt(sum((value - centre) ** 2 for value in values) / len(values) + 1e-5)
    pairs = zip(level, weights["reduce.1.weight"], weights["reduce.1.bias"], strict=True)
    level = [[[w * (v - centre) / spread + b for v in row] for row in plane] for plane, w, b in pairs]
    levels = []
    for step in range(2):
        levels.append(level)
        level = unit(pooled_down(level), weights, f"down.{step}")
    for step in range(2):
        same = levels.pop()
        level = added(interpolated(unit(level, weights, f"up.{step}"), len(same[0]), len(same[0][0])), same)
    mask = [[sigmoid(value) for value in row] for row in conv(relu(level), weights, "mask_conv")[0]]
    return masked(maps, [[1 + value for value in row] for row in mask]), [mask]


MODULES: dict[str, tuple[Callable[[], nn.Module], Callable[[Nested, Nested], tuple[Nested, Nested]]]] = {
    "se": (lambda: SqueezeExcitation(CHANNELS, 2), squeeze_and_excite),
    "eca": (lambda: EfficientChannelAttention(CHANNELS), efficient_channels),
    "cbam": (lambda: ConvolutionalBlockAttention(CHANNELS, 2, 3), channels_then_positions),
    "residual": (lambda: ResidualMask(CHANNELS, 2), residual_mask),
}


@pytest.mark.parametrize("name", MODULES)
def test_a_module_computes_its_formula_and_its_gradient(name: str) -> None:
    make, write = MODULES[name]
    torch.manual_seed(5)
    module = make().double()
    for parameter in module.parameters():  # at the start, gates are open whatever the map
        nn.init.normal_(parameter, std=0.5)
    weights = {key: value.tolist() for key, value in module.state_dict().items()}
    map_1CHW = torch.randn(1, CHANNELS, HEIGHT, WIDTH, dtype=torch.float64).requires_grad_()
    factors_CHW = torch.randn(CHANNELS, HEIGHT, WIDTH, dtype=torch.float64)
    output = module(map_1CHW)
    written_map, written_masks = write(map_1CHW[0].tolist(), weights)
    torch.testing.assert_close(output.map_BCHW[0].tolist(), written_map, atol=1e-5, rtol=1e-5)
    assert (output.masks_BMHW is None) == (written_masks is None)
    if written_masks is not None:
        torch.testing.assert_close(output.masks_BMHW[0].tolist(), written_masks, atol=1e-5, rtol=1e-5)

    (output.map_BCHW[0] * factors_CHW).sum().backward()
    assert map_1CHW.grad is not None
    for index in range(0, map_1CHW.numel(), 7):
        ends = []
        for sign in (-1, 1):
            moved = map_1CHW.detach().clone()
            moved.view(-1)[index] += sign * STEP
            result = torch.tensor(write(moved[0].tolist(), weights)[0], dtype=torch.float64)
            ends.append((result * factors_CHW).sum().item())
        expected = (ends[1] - ends[0]) / (2 * STEP)
        assert map_1CHW.grad.view(-1)[index].item() == pytest.approx(expected, abs=1e-5, rel=1e-5)


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
def test_a_module_starts_within_half_a_percent_of_the_stage(name: str, scale: float) -> None:
    torch.manual_seed(0)
    map_BCHW = scale * torch.randn(4, CHANNELS, 9, 9).relu()
    changed = MODULES[name][0]()(map_BCHW).map_BCHW
    assert (changed - map_BCHW).abs().max() <= 0.006 * map_BCHW.abs().max()
    assert not torch.equal(changed, map_BCHW)
