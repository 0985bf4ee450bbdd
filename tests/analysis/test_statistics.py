"""The statistics of contrasts, each against an independent implementation, and on too little data."""

import itertools
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from catdog.analysis.intervals import Interval, mean_interval, std_interval, two_way_interval, variance_share
from catdog.analysis.significance import (
    correlation,
    detectable_difference,
    holm,
    probability_of_improvement,
    sign_flip_p,
    smallest_p,
)

Array = npt.NDArray[np.float64]
VALUES = st.lists(st.floats(-5, 5).map(lambda value: round(value, 2)), min_size=1, max_size=8)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def enumerate_signs(differences: Sequence[float]) -> float:
    """The sign-flip test by enumeration: the share of all sign assignments whose mean is at least as far from 0."""
    observed = abs(math.fsum(differences))
    sums = [math.fsum(np.multiply(signs, differences)) for signs in itertools.product((1, -1), repeat=len(differences))]
    return sum(abs(total) >= observed - 1e-9 for total in sums) / len(sums)


@settings(deadline=None, max_examples=50)
@given(VALUES)
def test_the_sign_flip_test_equals_the_enumeration_of_all_signs(differences: list[float]) -> None:
    assert sign_flip_p(np.array(differences), rng()) == pytest.approx(enumerate_signs(differences), abs=1e-12)


def test_differences_of_counts_tie_despite_rounding() -> None:
    """Accuracies on 3,669 images: differences of the same number of images tie, whatever their last bits."""
    generator = rng(2)
    for _ in range(100):
        ours, theirs = generator.integers(3300, 3306, (2, 9))
        differences = 100 * ours / 3669 - 100 * theirs / 3669
        assert sign_flip_p(differences, rng()) == pytest.approx(enumerate_signs((ours - theirs).tolist()), abs=1e-12)
        as_many = 100 * (theirs + 7) / 3669 - 100 * theirs / 3669
        assert mean_interval(as_many, rng()) is None
        assert detectable_difference(as_many) is None


def test_for_many_pairs_the_sign_flip_test_samples_signs() -> None:
    differences = rng(1).normal(0.4, 1.0, 16)
    drawn, exact = sign_flip_p(differences, rng()), enumerate_signs(differences.tolist())
    assert drawn == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 10_000))
    assert drawn == sign_flip_p(differences, rng()), "the same generator gives the same p"


@pytest.mark.parametrize("n", range(1, 9))
def test_few_pairs_have_a_smallest_possible_p(n: int) -> None:
    assert sign_flip_p(np.arange(1.0, n + 1), rng()) == pytest.approx(smallest_p(n))


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_agrees_with_statsmodels(p_values: list[float]) -> None:
    assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1].tolist())


@given(VALUES, VALUES)
def test_the_probability_of_improvement_counts_pairs(ours: list[float], theirs: list[float]) -> None:
    """As rliable defines it: the share of all pairs in which ours is higher; ties count half."""
    wins = [(a > b) + 0.5 * (a == b) for a in ours for b in theirs]
    assert probability_of_improvement(np.array(ours), np.array(theirs)) == pytest.approx(np.mean(wins))


@pytest.mark.parametrize(("n", "scale"), [(3, 1.0), (10, 0.3), (30, 2.0), (125, 0.3), (1000, 1.0), (20_000, 1.0)])
def test_the_detectable_difference_agrees_with_statsmodels(n: int, scale: float) -> None:
    differences = rng(n).normal(0, scale, n)
    effect = TTestPower().solve_power(nobs=n, alpha=0.05, power=0.8, alternative="two-sided")
    assert detectable_difference(differences) == pytest.approx(effect * differences.std(ddof=1), rel=1e-4)


def bca_by_hand(values: Array, resamples: int) -> Interval:
    """Efron's BCa interval of a mean, from its definition."""
    n, mean = len(values), values.mean()
    means = rng(7).choice(values, (resamples, n)).mean(axis=1)
    bias = stats.norm.ppf(((means < mean).mean() + (means <= mean).mean()) / 2)
    jackknife = (values.sum() - values) / (n - 1)
    centred = jackknife.mean() - jackknife
    acceleration = (centred**3).sum() / (6 * (centred**2).sum() ** 1.5)
    z = bias + stats.norm.ppf([0.025, 0.975])
    low, high = np.quantile(means, stats.norm.cdf(bias + z / (1 - acceleration * z)))
    return Interval(float(low), float(high))


def test_the_interval_of_a_mean_is_efrons_bca_interval() -> None:
    values = rng(3).gamma(2.0, 1.0, 25)  # skewed: where BCa and the plain percentiles differ
    interval, by_hand = mean_interval(values, rng()), bca_by_hand(values, 200_000)
    assert interval is not None
    assert (interval.low, interval.high) == pytest.approx((by_hand.low, by_hand.high), abs=0.03)
    assert interval.low < values.mean() < interval.high


def test_the_interval_covers_the_mean_nineteen_times_out_of_twenty() -> None:
    samples = rng(5).normal(0.3, 1.0, (400, 30))
    intervals = [mean_interval(sample, rng(index)) for index, sample in enumerate(samples)]
    covered = [interval is not None and interval.low <= 0.3 <= interval.high for interval in intervals]
    assert 0.90 <= np.mean(covered) <= 0.98


def test_the_interval_over_seeds_and_images_is_wider_than_over_seeds_alone() -> None:
    generator = rng(11)
    luck_N = generator.normal(0, 0.06, 1000)  # per image: favours one model, whatever the seed
    chance_SN = 0.02 + luck_N + generator.normal(0, 0.005, (20, 1))
    differences_SN = (generator.random((20, 1000)) < chance_SN).astype(np.int8)
    differences_SN -= (generator.random((20, 1000)) < -chance_SN).astype(np.int8)
    both = two_way_interval(differences_SN, rng())
    seeds = mean_interval(100 * differences_SN.mean(axis=1), rng())
    assert both is not None
    assert seeds is not None
    assert both.low < seeds.low < 100 * differences_SN.mean() < seeds.high < both.high
    assert both == two_way_interval(differences_SN, rng())


def test_the_interval_over_seeds_and_images_has_the_spread_of_both_directions() -> None:
    """For a mean of independent row and column effects, the two variances add up."""
    generator = rng(13)
    rows_S, columns_N = generator.random(40) < 0.5, generator.random(60) < 0.5
    differences_SN = rows_S[:, None].astype(np.int8) - columns_N[None, :].astype(np.int8)
    interval = two_way_interval(differences_SN, rng())
    assert interval is not None
    expected = 100 * math.sqrt(rows_S.var() / 40 + columns_N.var() / 60)
    assert (interval.high - interval.low) / (2 * 1.96) == pytest.approx(expected, rel=0.05)


def test_the_interval_over_seeds_and_images_does_not_depend_on_how_many_resamples_are_held_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    differences_SN = rng(3).integers(-1, 2, (30, 777)).astype(np.int8)
    held = two_way_interval(differences_SN, rng())
    monkeypatch.setattr("catdog.analysis.intervals.AT_ONCE", 10_000)
    assert two_way_interval(differences_SN, rng()) == held


@pytest.mark.parametrize("values", [[], [0.3], [0.3, 0.5], [0.3, 0.3, 0.3]])
def test_too_little_data_gives_no_number(values: list[float]) -> None:
    array = np.array(values)
    assert mean_interval(array, rng()) is None
    assert correlation(array, array) is None
    assert two_way_interval(np.zeros((len(values), 10), dtype=np.int8), rng()) is None
    assert (sign_flip_p(array, rng()) is None) == (not values)
    assert detectable_difference(array) is None
    assert (probability_of_improvement(array, array) is None) == (not values)


def test_three_values_are_enough_for_an_interval() -> None:
    interval = mean_interval(np.array([0.1, 0.2, 0.6]), rng())
    assert interval is not None
    assert 0.1 <= interval.low < 0.3 < interval.high <= 0.6
    assert two_way_interval(np.ones((3, 10), dtype=np.int8), rng()) == Interval(100, 100)


def test_intervals_of_deviations_and_shares_follow_the_tables_of_chi_squared_and_f() -> None:
    """Quantiles at 2.5 and 97.5 %: 0.48442 and 11.143 of chi-squared with 4 degrees; 0.11230 and 4.7181 of F(4, 9)."""
    five, ten = [-2.0, -1.0, 0.0, 1.0, 2.0], [0.0] * 5 + [2.0] * 5  # variances 5/2 and 10/9
    deviation = std_interval(five)
    assert deviation is not None
    assert (deviation.low, deviation.high) == pytest.approx((math.sqrt(10 / 11.143), math.sqrt(10 / 0.48442)), rel=1e-4)
    found = variance_share(five, ten)
    assert found is not None
    share, interval = found
    assert share == pytest.approx(2.25)
    assert (interval.low, interval.high) == pytest.approx((2.25 / 4.7181, 2.25 / 0.11230), rel=1e-4)


def test_pairs_without_any_difference_have_p_one() -> None:
    assert sign_flip_p(np.zeros(5), rng()) == 1.0


@pytest.mark.slow
def test_one_in_twenty_sweeps_without_a_better_variant_raises_a_false_alarm() -> None:
    """2,000 sweeps of 10 seeds and 8 equal variants; the noise is skewed and partly shared within a seed."""
    alarms, family_alarms = 0, 0
    generator = rng(17)
    for _ in range(2000):
        shared_S = generator.gamma(2.0, 0.2, 10)
        accuracy_VS = 92 + shared_S + generator.gamma(2.0, 0.15, (8, 10))
        p_values = [sign_flip_p(variant - accuracy_VS[0], generator) for variant in accuracy_VS[1:]]
        primary, *others = [p for p in p_values if p is not None]
        alarms += primary < 0.05
        family_alarms += min(holm(others)) < 0.05
    assert 0.035 <= alarms / 2000 <= 0.065
    assert family_alarms / 2000 <= 0.06
