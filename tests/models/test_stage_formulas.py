"""Outputs and gradients of the modules between stages against their formulas, written out in plain Python numbers.

C channels of an H × W map. No formula here uses an operation of torch.
"""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from catdog.config.variants import parse_variant
from catdog.models import build_head
from catdog.models.heads.masked import Masked, swapped_masks
from catdog.models.heads.stage_modules import (
    AttentionBranch,
    ConvolutionalBlockAttention,
    EfficientChannelAttention,
    ResidualMask,
    SqueezeExcitation,
)

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
    gates = [2 * sigmoid(value) for value in excited([mean(plane) for plane in maps], weights)]
    return scaled(maps, gates), None


def efficient_channels(maps: Nested, weights: Nested) -> tuple[Nested, Nested]:
    kernel, bias = weights["conv.weight"][0][0], weights["conv.bias"][0]
    pooled, reach = [mean(plane) for plane in maps], len(kernel) // 2
    near = [[c + d for d in range(-reach, reach + 1)] for c in range(len(pooled))]
    sums = [sum(k * pooled[c] for k, c in zip(kernel, cs, strict=True) if 0 <= c < len(pooled)) for cs in near]
    return scaled(maps, [2 * sigmoid(value + bias) for value in sums]), None


def channels_then_positions(maps: Nested, weights: Nested) -> tuple[Nested, Nested]:
    by_mean, by_max = (excited([pool(plane) for plane in maps], weights) for pool in (mean, largest))
    maps = scaled(maps, [2 * sigmoid(a + b) for a, b in zip(by_mean, by_max, strict=True)])
    columns = [[[plane[y][x] for plane in maps] for x in range(len(maps[0][0]))] for y in range(len(maps[0]))]
    summary = [[[pool(column) for column in row] for row in columns] for pool in (lambda v: sum(v) / len(v), max)]
    normal = []
    for plane in summary:
        centre = mean(plane)
        spread = math.sqrt(mean([[(v - centre) ** 2 for v in row] for row in plane]) + 1e-5)
        normal.append([[(v - centre) / spread for v in row] for row in plane])
    mask = [[2 * sigmoid(value) for value in row] for row in conv(normal, weights, "mask_conv")[0]]
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


def normal_group(maps: Nested, weights: Nested, name: str) -> Nested:
    """Group normalisation of all channels together."""
    values = [value for plane in maps for row in plane for value in row]
    centre = sum(values) / len(values)
    spread = math.sqrt(sum((value - centre) ** 2 for value in values) / len(values) + 1e-5)
    pairs = zip(maps, weights[f"{name}.weight"], weights[f"{name}.bias"], strict=True)
    return [[[w * (v - centre) / spread + b for v in row] for row in plane] for plane, w, b in pairs]


def residual_mask(maps: Nested, weights: Nested) -> tuple[Nested, Nested]:
    level = normal_group(conv(maps, weights, "reduce.0"), weights, "reduce.1")
    levels = []
    for step in range(2):
        levels.append(level)
        level = unit(pooled_down(level), weights, f"down.{step}")
    for step in range(2):
        same = levels.pop()
        level = added(interpolated(unit(level, weights, f"up.{step}"), len(same[0]), len(same[0][0])), same)
    mask = [[sigmoid(value) for value in row] for row in conv(relu(level), weights, "mask_conv")[0]]
    return masked(maps, [[1 + value for value in row] for row in mask]), [mask]


def attention_branch(maps: Nested, weights: Nested) -> tuple[Nested, Nested]:
    class_maps = conv(relu(conv(maps, weights, "hidden")), weights, "class_maps")
    mask = [
        [sigmoid(v) for v in row] for row in conv(normal_group(class_maps, weights, "norm"), weights, "mask_conv")[0]
    ]
    return masked(maps, [[1 + value for value in row] for row in mask]), [mask]


MODULES: dict[str, tuple[Callable[[], nn.Module], Callable[[Nested, Nested], tuple[Nested, Nested]]]] = {
    "se": (lambda: SqueezeExcitation(CHANNELS, 2), squeeze_and_excite),
    "eca": (lambda: EfficientChannelAttention(CHANNELS), efficient_channels),
    "cbam": (lambda: ConvolutionalBlockAttention(CHANNELS, 2, 3), channels_then_positions),
    "abn": (lambda: AttentionBranch(CHANNELS, 4), attention_branch),
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
    assert torch.equal(changed, map_BCHW) == (name in ("se", "eca"))


def test_the_branch_classifies_by_the_means_of_its_class_maps() -> None:
    module = AttentionBranch(CHANNELS, 4).double()
    weights = {key: value.tolist() for key, value in module.state_dict().items()}
    map_1CHW = torch.randn(1, CHANNELS, HEIGHT, WIDTH, dtype=torch.float64)
    class_maps = conv(relu(conv(map_1CHW[0].tolist(), weights, "hidden")), weights, "class_maps")
    logits_1K = module(map_1CHW).logits_BK
    torch.testing.assert_close(logits_1K[0].tolist(), [mean(plane) for plane in class_maps], atol=1e-5, rtol=1e-5)


PLACES = {"first": (4, 5, 6), "second": (CHANNELS, 2, 3)}


def asked(maps: Nested, weights: Nested) -> tuple[Nested, Nested]:
    """The logits of stage-attention, and a mask per place, from maps by place."""
    means = [mean(plane) for plane in maps["second"]]
    pooled, masks = [], {}
    for place, planes in maps.items():
        query = [sum(w * x for w, x in zip(row, means, strict=True)) for row in weights[f"queries.{place}.weight"]]
        values = [value for plane in planes for row in plane for value in row]
        norm = math.sqrt(sum(value * value for value in values) / len(values) * len(planes) + 1e-5)
        height, width = len(planes[0]), len(planes[0][0])
        scores = [
            [sum(q * plane[y][x] for q, plane in zip(query, planes, strict=True)) / norm for x in range(width)]
            for y in range(height)
        ]
        total = sum(math.exp(score) for row in scores for score in row)
        mask = [[math.exp(score) / total * height * width for score in row] for row in scores]
        pooled += [mean(plane) for plane in masked(planes, mask)]
        masks[place] = mask
    return linear(pooled, weights, "classifier"), masks


def test_stage_attention_computes_its_formula_and_its_gradient() -> None:
    torch.manual_seed(3)
    head = build_head(parse_variant("stage-attention"), CHANNELS, 3, PLACES).double().eval()
    weights = {key: value.tolist() for key, value in head.state_dict().items()}
    maps = {place: torch.randn(1, *shape, dtype=torch.float64).requires_grad_() for place, shape in PLACES.items()}
    factors = torch.randn(3, dtype=torch.float64)
    output = head(maps)
    logits, masks = asked({place: one[0].tolist() for place, one in maps.items()}, weights)
    torch.testing.assert_close(output.logits_BK[0].tolist(), logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(output.masks_BMHW[0, 0].tolist(), masks["second"], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(output.stage_masks["first"][0, 0].tolist(), masks["first"], atol=1e-5, rtol=1e-5)

    (output.logits_BK[0] * factors).sum().backward()
    for place, one in maps.items():
        assert one.grad is not None
        for index in range(0, one.numel(), 5):
            ends = []
            for sign in (-1, 1):
                moved = {name: other.detach().clone() for name, other in maps.items()}
                moved[place].view(-1)[index] += sign * STEP
                result = asked({name: other[0].tolist() for name, other in moved.items()}, weights)[0]
                ends.append(sum(f * logit for f, logit in zip(factors.tolist(), result, strict=True)))
            expected = (ends[1] - ends[0]) / (2 * STEP)
            assert one.grad.view(-1)[index].item() == pytest.approx(expected, abs=1e-5, rel=1e-5)


@pytest.mark.parametrize("name", ["cbam", "abn", "residual"])
def test_a_module_has_the_controls_of_masks(name: str) -> None:
    def made(control: str) -> Masked:
        torch.manual_seed(5)
        module = {
            "cbam": lambda: ConvolutionalBlockAttention(CHANNELS, 2, 3, control),
            "abn": lambda: AttentionBranch(CHANNELS, 4, control),
            "residual": lambda: ResidualMask(CHANNELS, 2, control),
        }[name]()
        assert isinstance(module, Masked)
        return module

    map_BCHW = torch.randn(4, CHANNELS, HEIGHT, WIDTH)
    own, flat, swapped = (made(control)(map_BCHW) for control in ("trained", "flat", "swapped"))
    assert flat.masks_BMHW is None
    ratio_BCHW = flat.map_BCHW / own.map_BCHW
    mean_B1HW = own.masks_BMHW.mean(dim=(2, 3), keepdim=True)
    expected = mean_B1HW / own.masks_BMHW if name == "cbam" else (1 + mean_B1HW) / (1 + own.masks_BMHW)
    torch.testing.assert_close(ratio_BCHW, expected.expand_as(ratio_BCHW))
    assert torch.equal(swapped.map_BCHW, own.map_BCHW)
    module = made("swapped")
    with swapped_masks(module):
        other = module(map_BCHW)
    assert torch.equal(other.masks_BMHW, own.masks_BMHW), "the masks shown are the image's own"
    turned = own.masks_BMHW.roll(2, dims=0)
    expected = turned / own.masks_BMHW if name == "cbam" else (1 + turned) / (1 + own.masks_BMHW)
    torch.testing.assert_close(other.map_BCHW / own.map_BCHW, expected.expand_as(map_BCHW))
    module = made("untrained")
    fixed = {id(one) for one in module.mask_parameters()}
    assert fixed
    assert all(one.requires_grad == (id(one) not in fixed) for one in module.parameters())
