"""Outputs and gradients of every head against its formula, written out in plain Python numbers.

B batch, C channels, M masks, H × W positions, K classes. No formula here uses an operation of torch.
"""

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import pytest
import torch

from catdog.config.recipe import Recipe
from catdog.config.variants import VariantSpec, parse_variant
from catdog.models import VARIANTS, build_head
from catdog.models.losses import divergence_loss

Nested = Any
"""Nested lists of numbers, indexed like the tensors."""
Weights = Mapping[str, Nested]

BATCH, CHANNELS, HEIGHT, WIDTH, CLASSES = 2, 6, 2, 3, 3
STEP = 1e-6
SMALL = {
    "hidden_features": 7, "reduction": 2, "num_masks": 3, "num_queries": 2, "num_heads": 2, "head_features": 3,
}  # fmt: skip
"""Small numbers for heads that have these parameters: plain loops are slow."""


HEADS = [
    name for name, variant in VARIANTS.items() if "stages" not in (p.name for p in variant.parameters if not p.later)
]
"""The others work at several places of the network: see test_stage_formulas.py."""


class Written(NamedTuple):
    """A formula's results for a batch."""

    logits: Nested
    masks: Nested | None
    aux_loss: float


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def relu(value: float) -> float:
    return max(value, 0.0)


def linear(vector: list[float], weights: Weights, name: str) -> list[float]:
    rows, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
    return [sum(w * x for w, x in zip(row, vector, strict=True)) + b for row, b in zip(rows, bias, strict=True)]


def positions(image: Nested) -> list[tuple[int, int]]:
    return [(y, x) for y in range(len(image[0])) for x in range(len(image[0][0]))]


def conv_scores(image: Nested, weights: Weights) -> Nested:
    """The 1×1 convolution `mask_conv` of one image (C, H, W), as (M, H, W)."""
    kernels = weights["mask_conv.weight"]
    bias = weights.get("mask_conv.bias", [0.0] * len(kernels))
    return [
        [
            [
                sum(kernel[c][0][0] * image[c][y][x] for c in range(len(image))) + bias[m]
                for x in range(len(image[0][0]))
            ]
            for y in range(len(image[0]))
        ]
        for m, kernel in enumerate(kernels)
    ]


def map_values(function: Callable[[float], float], mask: Nested) -> Nested:
    return [[function(value) for value in row] for row in mask]


def masked_average(image: Nested, mask: Nested) -> list[float]:
    """GAP of features × mask: one number for each channel."""
    places = positions(image)
    return [sum(channel[y][x] * mask[y][x] for y, x in places) / len(places) for channel in image]


def plain_average(image: Nested) -> list[float]:
    return masked_average(image, [[1.0] * len(row) for row in image[0]])


def baseline(features: Nested, weights: Weights, arguments: Mapping[str, Any]) -> Written:
    return Written([linear(plain_average(image), weights, "classifier") for image in features], None, 0.0)


def attention_with(activation: Callable[[Nested], Nested]) -> Callable[..., Written]:
    def attention(features: Nested, weights: Weights, arguments: Mapping[str, Any]) -> Written:
        masks = [activation(conv_scores(image, weights)[0]) for image in features]
        logits = [
            linear(masked_average(image, mask), weights, "classifier")
            for image, mask in zip(features, masks, strict=True)
        ]
        return Written(logits, [[mask] for mask in masks], 0.0)

    return attention


def softmax_over_positions(scores: Nested) -> Nested:
    total = sum(math.exp(value) for row in scores for value in row)
    area = len(scores) * len(scores[0])
    return map_values(lambda value: area * math.exp(value) / total, scores)


def divergence(batch_of_masks: Nested, by_area: bool = False) -> float:
    """Normalise each mask by its maximum + 0.01; square all off-diagonal inner products; average over M².

    By area, an inner product is the mean over positions instead of the sum.
    """
    total = 0.0
    area = len(batch_of_masks[0][0]) * len(batch_of_masks[0][0][0]) if by_area else 1
    for masks in batch_of_masks:
        scaled = []
        for mask in masks:
            values = [value for row in mask for value in row]
            scaled.append([value / (max(values) + 0.01) for value in values])
        for i, j in itertools.permutations(range(len(masks)), 2):
            product = sum(a * b for a, b in zip(scaled[i], scaled[j], strict=True)) / area
            total += product**2 / len(masks) ** 2
    return total / len(batch_of_masks)


def multi_attention(features: Nested, weights: Weights, arguments: Mapping[str, Any]) -> Written:
    batch_of_masks = [[map_values(sigmoid, score) for score in conv_scores(image, weights)] for image in features]
    logits = []
    for image, masks in zip(features, batch_of_masks, strict=True):
        concatenated = [value for mask in masks for value in masked_average(image, mask)]
        hidden = [relu(value) for value in linear(concatenated, weights, "hidden")]
        logits.append(linear(hidden, weights, "classifier"))
    return Written(logits, batch_of_masks, arguments["lambda_divergence"] * divergence(batch_of_masks))


def multi_attention_without_loss(features: Nested, weights: Weights, arguments: Mapping[str, Any]) -> Written:
    return multi_attention(features, weights, {"lambda_divergence": 0.0})


def squeeze_excitation(features: Nested, weights: Weights, arguments: Mapping[str, Any]) -> Written:
    logits = []
    for image in features:
        squeezed = [relu(value) for value in linear(plain_average(image), weights, "squeeze")]
        scales = [sigmoid(value) for value in linear(squeezed, weights, "excite")]
        scaled = [map_values(lambda v, s=scale: v * s, channel) for channel, scale in zip(image, scales, strict=True)]
        logits.append(linear(plain_average(scaled), weights, "classifier"))
    return Written(logits, None, 0.0)


def at_all_positions(image: Nested, function: Callable[[list[float]], Any]) -> Nested:
    """A function of the features at each position, as (H, W)."""
    return [
        [function([channel[y][x] for channel in image]) for x in range(len(image[0][0]))] for y in range(len(image[0]))
    ]


def dot(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


def product(rows: list[list[float]], vector: list[float]) -> list[float]:
    return [dot(row, vector) for row in rows]


def channels_first(values_HWC: Nested) -> Nested:
    return [[[vector[c] for vector in row] for row in values_HWC] for c in range(len(values_HWC[0][0]))]


def query(features: Nested, weights: Weights, arguments: Mapping[str, Any]) -> Written:
    """Keys and values at all positions; each query attends by each head; everything is concatenated."""
    width, logits, batch_of_masks = arguments["head_features"], [], []
    for image in features:
        masks, pooled = [], []
        for heads in weights["queries_QHD"]:
            for number, vector in enumerate(heads):
                rows = slice(number * width, (number + 1) * width)
                keys, values, bias = (weights[n][rows] for n in ("key.weight", "value.weight", "value.bias"))
                mask = softmax_over_positions(
                    at_all_positions(image, lambda x, k=keys, q=vector: dot(q, product(k, x)) / math.sqrt(width))
                )
                projected = at_all_positions(
                    image, lambda x, v=values, b=bias: [a + c for a, c in zip(product(v, x), b, strict=True)]
                )
                pooled += masked_average(channels_first(projected), mask)
                masks.append(mask)
        batch_of_masks.append(masks)
        logits.append(linear(pooled, weights, "classifier"))
    return Written(logits, batch_of_masks, 0.0)


def efficient_probing(features: Nested, weights: Weights, arguments: Mapping[str, Any]) -> Written:
    """Each query meets the features themselves, and pools its own slice of the values."""
    logits, batch_of_masks = [], []
    queries, values = weights["kernels_MC"], weights["value.weight"]  # the queries divided by √C
    width = len(values) // len(queries)
    for image in features:
        masks = [softmax_over_positions(at_all_positions(image, lambda x, q=vector: dot(q, x))) for vector in queries]
        pooled = []
        for number, mask in enumerate(masks):
            rows = values[number * width : (number + 1) * width]
            projected = at_all_positions(image, lambda x, v=rows: product(v, x))
            pooled += masked_average(channels_first(projected), mask)
        batch_of_masks.append(masks)
        logits.append(linear(pooled, weights, "classifier"))
    return Written(logits, batch_of_masks, 0.0)


def layer_norm(vector: list[float]) -> list[float]:
    mean = sum(vector) / len(vector)
    variance = sum((value - mean) ** 2 for value in vector) / len(vector)
    return [(value - mean) / math.sqrt(variance + 1e-5) for value in vector]


def simpool(features: Nested, weights: Weights, arguments: Mapping[str, Any]) -> Written:
    gamma, logits, masks = arguments["gamma"], [], []
    for image in features:
        wanted = product(weights["query.weight"], plain_average(image))
        normed = channels_first(at_all_positions(image, layer_norm))
        mask = softmax_over_positions(
            at_all_positions(normed, lambda x, q=wanted: dot(q, product(weights["key.weight"], x)) / math.sqrt(len(x)))
        )
        least = min(value for channel in normed for row in channel for value in row)
        powers = [map_values(lambda value, low=least: (value - low) ** gamma, channel) for channel in normed]
        logits.append(linear([m ** (1 / gamma) for m in masked_average(powers, mask)], weights, "classifier"))
        masks.append([mask])
    return Written(logits, masks, 0.0)


def gated_attention(features: Nested, weights: Weights, arguments: Mapping[str, Any]) -> Written:
    def score(x: list[float]) -> float:
        content = [math.tanh(value) for value in linear(x, weights, "content")]
        gate = [sigmoid(value) for value in linear(x, weights, "gate")]
        return sum(w * a * b for w, a, b in zip(weights["score.weight"][0], content, gate, strict=True))

    masks = [softmax_over_positions(at_all_positions(image, score)) for image in features]
    pairs = zip(features, masks, strict=True)
    logits = [linear(masked_average(image, mask), weights, "classifier") for image, mask in pairs]
    return Written(logits, [[mask] for mask in masks], 0.0)


def generalised_mean(features: Nested, weights: Weights, arguments: Mapping[str, Any]) -> Written:
    p, logits = weights["p"], []
    for image in features:
        means = plain_average([map_values(lambda value: max(value, 1e-6) ** p, channel) for channel in image])
        logits.append(linear([mean ** (1 / p) for mean in means], weights, "classifier"))
    return Written(logits, None, 0.0)


def maximum(features: Nested, weights: Weights, arguments: Mapping[str, Any]) -> Written:
    pooled = [[max(value for row in channel for value in row) for channel in image] for image in features]
    return Written([linear(vector, weights, "classifier") for vector in pooled], None, 0.0)


FORMULAS: dict[str, Callable[[Nested, Weights, Mapping[str, Any]], Written]] = {
    "baseline": baseline,
    "attention": attention_with(lambda scores: map_values(sigmoid, scores)),
    "attention-relu": attention_with(lambda scores: map_values(relu, scores)),
    "attention-softmax": attention_with(softmax_over_positions),
    "multi-attention": multi_attention,
    "multi-attention-free": multi_attention_without_loss,
    "multi-attention-fixed": multi_attention_without_loss,
    "se": squeeze_excitation,
    "query": query,
    "ep": efficient_probing,
    "simpool": simpool,
    "abmil": gated_attention,
    "gem": generalised_mean,
    "max": maximum,
    "multi-task": baseline,
}


def formula(name: str) -> Callable[[Nested, Weights, Mapping[str, Any]], Written]:
    assert name in FORMULAS, (
        f"variant {name!r} has no formula: write it out in tests/models/test_formulas.py and add it to FORMULAS"
    )
    return FORMULAS[name]


def small_head(name: str) -> tuple[torch.nn.Module, VariantSpec]:
    """The head of a variant in float64, small, in eval mode, with random weights."""
    parameters = [p.name for p in VARIANTS[name].parameters if p.name in SMALL]
    label = name + "".join(f"{',' if i else ':'}{key}={SMALL[key]}" for i, key in enumerate(parameters))
    spec = parse_variant(label, Recipe(lambda_divergence=0.05))
    torch.manual_seed(7)
    return build_head(spec, CHANNELS, CLASSES).double().eval(), spec


def features_and_coefficients() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(11)
    features = torch.randn(BATCH, CHANNELS, HEIGHT, WIDTH, generator=generator, dtype=torch.float64)
    return features, torch.randn(BATCH, CLASSES, generator=generator, dtype=torch.float64)


def plain_weights(head: torch.nn.Module) -> Weights:
    return {name: tensor.tolist() for name, tensor in head.state_dict().items()}


def central_differences(function: Callable[[Nested], float], at: torch.Tensor) -> torch.Tensor:
    """The numerical gradient of a function of nested lists, entry by entry."""
    gradient = torch.empty_like(at)
    flat = at.flatten()
    for i in range(len(flat)):
        ends = []
        for sign in (-1, 1):
            moved = flat.clone()
            moved[i] += sign * STEP
            ends.append(function(moved.view_as(at).tolist()))
        gradient.view(-1)[i] = (ends[1] - ends[0]) / (2 * STEP)
    return gradient


@pytest.mark.parametrize("name", HEADS)
def test_a_head_computes_its_formula(name: str) -> None:
    write = formula(name)
    head, spec = small_head(name)
    features, _ = features_and_coefficients()
    output = head(features)
    written = write(features.tolist(), plain_weights(head), spec.arguments)
    torch.testing.assert_close(
        output.logits_BK, torch.tensor(written.logits, dtype=torch.float64), atol=1e-5, rtol=1e-5
    )
    torch.testing.assert_close(output.aux_loss.item(), written.aux_loss, atol=1e-5, rtol=1e-5)
    assert output.aux_loss.shape == ()
    assert (output.masks_BMHW is None) == (written.masks is None)
    if written.masks is not None:
        torch.testing.assert_close(
            output.masks_BMHW, torch.tensor(written.masks, dtype=torch.float64), atol=1e-5, rtol=1e-5
        )


@pytest.mark.parametrize("name", HEADS)
def test_exactly_the_heads_that_pool_first_depend_only_on_the_means(name: str) -> None:
    head, _ = small_head(name)
    features, _ = features_and_coefficients()
    means = features.mean(dim=(2, 3), keepdim=True)
    assert getattr(head, "pools_first", False) == torch.equal(head(features).logits_BK, head(means).logits_BK)


@pytest.mark.parametrize("name", HEADS)
def test_the_gradient_of_a_head_equals_that_of_its_formula(name: str) -> None:
    write = formula(name)
    head, spec = small_head(name)
    features, coefficients = features_and_coefficients()
    features.requires_grad_()
    output = head(features)
    ((output.logits_BK * coefficients).sum() + output.aux_loss).backward()
    weights, factors = plain_weights(head), coefficients.tolist()

    def scalar(values: Nested) -> float:
        written = write(values, weights, spec.arguments)
        pairs = zip(itertools.chain(*factors), itertools.chain(*written.logits), strict=True)
        return sum(factor * logit for factor, logit in pairs) + written.aux_loss

    assert features.grad is not None
    assert features.grad.abs().max() > 1e-3
    torch.testing.assert_close(features.grad, central_differences(scalar, features.detach()), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", [name for name in VARIANTS if name.startswith("multi-attention")])
def test_only_multi_attention_has_a_divergence_loss_with_a_gradient(name: str) -> None:
    head, _ = small_head(name)
    features, _ = features_and_coefficients()
    aux_loss = head(features.requires_grad_()).aux_loss
    assert (aux_loss.item() > 0.01) == (name == "multi-attention")
    assert aux_loss.requires_grad == (name == "multi-attention")


@pytest.mark.parametrize("by_area", [False, True])
@pytest.mark.parametrize(("count", "height", "width"), [(4, 7, 7), (1, 3, 5), (2, 1, 1), (8, 4, 4)])
def test_the_divergence_loss_equals_its_formula(count: int, height: int, width: int, by_area: bool) -> None:
    masks = torch.rand(3, count, height, width, generator=torch.Generator().manual_seed(count))
    expected = divergence(masks.tolist(), by_area)
    assert divergence_loss(masks, by_area).item() == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_by_area_the_same_masks_on_a_finer_map_have_the_same_divergence_loss() -> None:
    masks = torch.rand(3, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    finer = masks.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    assert divergence_loss(finer, by_area=True).item() == pytest.approx(divergence_loss(masks, True).item(), rel=1e-5)
    assert divergence_loss(finer).item() == pytest.approx(16 * divergence_loss(masks).item(), rel=1e-5)


def test_a_head_weights_the_divergence_by_area_if_it_is_told_to() -> None:
    features = torch.rand(2, CHANNELS, 4, 4, generator=torch.Generator().manual_seed(0))
    losses = {}
    for kind in ("sum", "mean"):
        torch.manual_seed(0)
        losses[kind] = build_head(parse_variant(f"multi-attention:divergence={kind}"), CHANNELS, 3)(features).aux_loss
    assert losses["sum"].item() == pytest.approx(16**2 * losses["mean"].item(), rel=1e-5)


def test_the_gradient_of_the_divergence_loss_equals_that_of_its_formula() -> None:
    masks = torch.rand(2, 3, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    divergence_loss(masks).backward()
    assert masks.grad is not None
    torch.testing.assert_close(masks.grad, central_differences(divergence, masks.detach()), atol=1e-5, rtol=1e-5)


def test_the_divergence_loss_of_four_masks_of_one_half_is_as_computed_by_hand() -> None:
    # Each entry is 0.5 / 0.51; an inner product over 49 positions is 47.1; 12 of 16 are off the diagonal.
    by_hand = 12 / 16 * (49 * (0.5 / 0.51) ** 2) ** 2
    assert by_hand == pytest.approx(1663.6, rel=1e-4)
    assert divergence_loss(torch.full((2, 4, 7, 7), 0.5)).item() == pytest.approx(by_hand, rel=1e-5)


def test_the_divergence_loss_of_four_masks_starts_at_about_two_hundred() -> None:
    losses = []
    for seed in range(20):
        torch.manual_seed(seed)
        head = build_head(parse_variant("multi-attention:lambda_divergence=1"), 512, 37)
        losses.append(head(torch.randn(4, 512, 7, 7).relu()).aux_loss.item())
    assert sum(losses) / len(losses) == pytest.approx(200, rel=0.2)


def test_the_divergence_loss_of_masks_that_do_not_overlap_is_zero() -> None:
    masks = torch.zeros(1, 4, 4, 4)
    for m in range(4):
        masks[0, m, m] = 1 + m
    assert divergence_loss(masks).item() == 0
    assert divergence_loss(torch.rand(2, 1, 4, 4)).item() == pytest.approx(0, abs=1e-6)


def test_the_divergence_loss_of_dead_masks_is_zero_with_a_finite_gradient() -> None:
    masks = torch.zeros(2, 4, 3, 3, requires_grad=True)
    loss = divergence_loss(masks)
    loss.backward()
    assert loss.item() == 0
    assert masks.grad is not None
    assert masks.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_divergence_loss_is_computed_in_float32_even_under_autocast(dtype: torch.dtype) -> None:
    masks = torch.rand(2, 4, 7, 7, generator=torch.Generator().manual_seed(0)).to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert divergence_loss(masks).item() == pytest.approx(divergence(masks.tolist()), rel=1e-5)


@pytest.mark.parametrize(("name", "layer"), [("attention-softmax", "mask_conv"), ("abmil", "score")])
def test_a_uniform_softmax_mask_equals_plain_average_pooling(name: str, layer: str) -> None:
    torch.manual_seed(0)
    attention, plain = (build_head(parse_variant(one), 8, 5).eval() for one in (name, "baseline"))
    torch.nn.init.zeros_(getattr(attention, layer).weight)
    plain.classifier.load_state_dict(attention.classifier.state_dict())
    features = torch.randn(3, 8, 4, 6)
    torch.testing.assert_close(attention(features).logits_BK, plain(features).logits_BK)
    torch.testing.assert_close(attention(features).masks_BMHW, torch.ones(3, 1, 4, 6))


def masks_moved(name: str) -> float:
    """How far one step of Adam moves the logarithms of a head's masks, on average."""
    torch.manual_seed(0)
    head, features = build_head(parse_variant(f"{name}:dropout=0"), 64, 5), torch.rand(8, 64, 4, 4)
    optimizer = torch.optim.Adam(head.parameters(), lr=2e-3)
    before = head(features)
    torch.nn.functional.cross_entropy(before.logits_BK, torch.arange(8) % 5).backward()
    optimizer.step()
    moved: torch.Tensor = head(features).masks_BMHW.log() - before.masks_BMHW.log()
    return moved.abs().mean().item()


def test_adam_moves_the_masks_of_ep_as_fast_as_those_of_plain_softmax_attention() -> None:
    assert masks_moved("ep") == pytest.approx(masks_moved("attention-softmax"), rel=0.25)


@pytest.mark.parametrize("name", HEADS)
def test_dropout_acts_only_in_training(name: str) -> None:
    torch.manual_seed(0)
    head, features = build_head(parse_variant(name), 32, 5), torch.randn(2, 32, 3, 3)
    assert not torch.equal(head(features).logits_BK, head(features).logits_BK)
    head.eval()
    torch.testing.assert_close(head(features).logits_BK, head(features).logits_BK, rtol=0, atol=0)
    still = build_head(parse_variant(f"{name}:dropout=0"), 32, 5)
    torch.testing.assert_close(still(features).logits_BK, still(features).logits_BK, rtol=0, atol=0)
