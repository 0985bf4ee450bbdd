"""The sign-flip test and its interval, against an enumeration of all signs."""

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from catdog.analysis import sign_flips
from catdog.analysis.sign_flips import SubsetMeans, common_step
from catdog.analysis.significance import holm, holm_levels, smallest_p

COUNTS = st.lists(st.integers(-12, 12), min_size=1, max_size=9)
IMAGES = 3669


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def means_of(differences: Sequence[float]) -> SubsetMeans:
    return SubsetMeans.of(np.array(differences, dtype=np.float64), rng())


def enumerate_signs(differences: Sequence[float]) -> float:
    """The share of all sign assignments whose mean is at least as far from 0 as the observed one."""
    observed = abs(math.fsum(differences))
    sums = [math.fsum(np.multiply(signs, differences)) for signs in itertools.product((1, -1), repeat=len(differences))]
    return sum(abs(total) >= observed - 1e-9 for total in sums) / len(sums)


@settings(deadline=None, max_examples=60)
@given(COUNTS, st.integers(-8, 8))
def test_p_of_any_shift_equals_the_enumeration_of_all_signs(counts: list[int], shift: int) -> None:
    means = means_of([100 * count / IMAGES for count in counts])
    for value in (0.0, 100 * shift / IMAGES, 0.05, -0.31):
        shifted = [100 * count / IMAGES - value for count in counts]
        assert means.p(value) == pytest.approx(enumerate_signs(shifted), abs=1e-12)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.floats(-5, 5), min_size=1, max_size=8))
def test_values_without_a_common_step_are_enumerated_while_they_are_few(values: list[float]) -> None:
    values = [value + math.sqrt(2) * index for index, value in enumerate(values)]
    assert means_of(values).p() == pytest.approx(enumerate_signs(values), abs=1e-12)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(-12, 12), min_size=6, max_size=11), st.sampled_from([0.05, 0.1, 0.05 / 3]))
def test_the_interval_holds_exactly_what_the_test_does_not_reject(counts: list[int], alpha: float) -> None:
    means = means_of([100 * count / IMAGES for count in counts])
    interval = means.interval(alpha)
    assert (interval is None) == (smallest_p(len(counts)) >= alpha)
    if interval is None:
        return
    assert interval.excludes_zero == (means.p() < alpha)
    for inside in (interval.low, interval.high, (interval.low + interval.high) / 2):
        assert means.p(inside) >= alpha
    for outside in (interval.low - 1e-6, interval.high + 1e-6):
        assert means.p(outside) < alpha


def test_six_pairs_are_the_fewest_with_an_interval_and_it_is_their_range() -> None:
    assert means_of([1.0, 2.0, 3.0, 4.0, 5.0]).interval(0.05) is None
    interval = means_of([3.0, 1.0, 2.0, 7.0, 5.0, 4.0]).interval(0.05)
    assert interval is not None
    assert (interval.low, interval.high) == (1.0, 7.0)
    equal = means_of([0.2] * 6).interval(0.05)
    assert equal is not None
    assert (equal.low, equal.high) == (0.2, 0.2)


@pytest.mark.parametrize("n", range(1, 9))
def test_few_pairs_have_a_smallest_possible_p(n: int) -> None:
    assert means_of(np.arange(1.0, n + 1).tolist()).p() == pytest.approx(smallest_p(n))


def test_counts_are_exact_however_many_pairs_there_are() -> None:
    """Differences of ±1 image: the number of gains is binomial."""
    counts = [1] * 40 + [-1] * 20
    assert means_of([100 * count / IMAGES for count in counts]).p() == pytest.approx(
        stats.binomtest(40, 60).pvalue, rel=1e-12
    )
    assert means_of([*counts, *[0] * 40]).p() == pytest.approx(stats.binomtest(40, 60).pvalue, rel=1e-12)


@pytest.mark.parametrize("cells", [sign_flips.MOST_CELLS, 0])
def test_for_many_pairs_the_test_agrees_with_students(cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exactly, and with random subsets where the table of all would be too large."""
    monkeypatch.setattr(sign_flips, "MOST_CELLS", cells)
    differences = np.rint(rng(1).normal(4, 12, 60)) * 100 / IMAGES
    means, student = means_of(differences.tolist()), stats.ttest_1samp(differences, 0.0)
    assert means.p() == pytest.approx(student.pvalue, abs=0.006)
    interval, expected = means.interval(0.05), student.confidence_interval(0.95)
    assert interval is not None
    assert (interval.low, interval.high) == pytest.approx(tuple(expected), abs=0.012)


def test_random_subsets_come_from_the_generator_alone() -> None:
    differences = rng(3).normal(0.4, 1.0, 30)
    again = SubsetMeans.of(differences, rng()).interval(0.05)
    assert (
        SubsetMeans.of(differences, rng()).interval(0.05) == again != SubsetMeans.of(differences, rng(1)).interval(0.05)
    )


def test_differences_of_counts_tie_despite_rounding() -> None:
    """Accuracies on 3,669 images: differences of the same number of images tie, whatever their last bits."""
    generator = rng(2)
    for _ in range(100):
        ours, theirs = generator.integers(3300, 3306, (2, 9))
        differences = 100 * ours / IMAGES - 100 * theirs / IMAGES
        assert means_of(differences.tolist()).p() == pytest.approx(enumerate_signs((ours - theirs).tolist()), abs=1e-12)


@pytest.mark.parametrize(
    ("values", "step"),
    [
        ([6, -9, 0], 3),
        ([0.2, -0.7], 0.1),
        ([0.0, 0.0], 1),
        ([100 / 3669, -500 / 3669], 100 / 3669),
        ([1, math.pi], None),
    ],
)
def test_the_common_step(values: list[float], step: float | None) -> None:
    found = common_step(np.array(values, dtype=np.float64))
    assert found == step if step is None else found == pytest.approx(step)


@pytest.mark.parametrize("images", [100, 12_345, 50_000, 1_000_000])
def test_accuracies_on_many_images_have_the_step_of_one_image_also_beside_chance(images: int) -> None:
    right = np.rint(images * (0.9 + rng().normal(0, 0.004, (2, 30))))
    right[0, 7] = images // 37  # a diverged trial
    counts = (right[0] - right[1]).astype(int)
    found = common_step(100 * right[0] / images - 100 * right[1] / images)
    assert found == pytest.approx(np.gcd.reduce(counts) * 100 / images, rel=1e-9)


def test_without_pairs_or_differences_p_is_one() -> None:
    assert means_of([0.0] * 5).p() == 1.0
    assert means_of([0.3]).p() == 1.0


def test_one_sided_tests_ask_whether_the_mean_is_beyond_a_value() -> None:
    means = means_of([1.0] * 10)
    assert means.p_above(0.0) == means.p_below(2.0) == 2.0**-10
    assert means.p_above(1.0) == means.p_below(1.0) == 1.0


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(st.integers(-9, 12), min_size=9, max_size=9), min_size=1, max_size=7))
def test_intervals_of_a_family_exclude_zero_exactly_where_the_adjusted_p_is_small(family: list[list[int]]) -> None:
    means = [means_of(counts) for counts in family]
    p_values = [one.p() for one in means]
    for one, adjusted, level in zip(means, holm(p_values), holm_levels(p_values), strict=True):
        interval = one.interval(level)
        assert (adjusted < 0.05) == (interval is not None and interval.excludes_zero)
        plain = one.interval(0.05)
        assert interval is None or (plain is not None and interval.low <= plain.low <= plain.high <= interval.high)
