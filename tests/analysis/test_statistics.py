"""The statistics of contrasts, each against an independent implementation, and on too little data."""

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from catdog.analysis.intervals import (
    Interval,
    Moments,
    std_interval,
    t_interval,
    two_way_moments,
    variance_share,
    weighted_moments,
)
from catdog.analysis.power import detectable_difference
from catdog.analysis.sign_flips import SubsetMeans
from catdog.analysis.significance import (
    correlation,
    holm,
    probability_of_improvement,
)

Array = npt.NDArray[np.float64]
VALUES = st.lists(st.floats(-5, 5).map(lambda value: round(value, 2)), min_size=1, max_size=8)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def two_way_interval(differences_SN: npt.NDArray[np.int8]) -> Interval | None:
    moments = two_way_moments(differences_SN)
    return moments and moments.interval()


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_agrees_with_statsmodels(p_values: list[float]) -> None:
    assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1].tolist())


@given(VALUES, VALUES)
def test_the_probability_of_improvement_counts_pairs(ours: list[float], theirs: list[float]) -> None:
    """As rliable defines it: the share of all pairs in which ours is higher; ties count half."""
    wins = [(a > b) + 0.5 * (a == b) for a in ours for b in theirs]
    assert probability_of_improvement(np.array(ours), np.array(theirs)) == pytest.approx(np.mean(wins))


@pytest.mark.parametrize(
    ("n", "scale"),
    [(8, 1.0), (9, 1.0), (10, 0.3), (30, 2.0), (125, 0.3), (1000, 1.0), (20_000, 1.0)],
)
def test_the_detectable_difference_agrees_with_statsmodels(n: int, scale: float) -> None:
    differences = rng(n).normal(0, scale, n)
    effect = TTestPower().solve_power(nobs=n, alpha=0.05, power=0.8, alternative="two-sided")
    assert detectable_difference(differences) == pytest.approx(effect * differences.std(ddof=1), rel=1e-4)


@pytest.mark.parametrize("n", [8, 14])
def test_the_sign_flip_test_finds_the_detectable_difference_in_about_four_of_five_runs(n: int) -> None:
    spread, generator = rng(n).normal(0, 1, n), rng(1)
    effect = detectable_difference(spread)
    assert effect is not None
    samples = np.rint(20 * generator.normal(effect / spread.std(ddof=1), 1, (1000, n)))
    found = [SubsetMeans.of(one, generator).p() < 0.05 for one in samples]
    assert np.mean(found) == pytest.approx(0.8, abs=0.04)


def test_of_fewer_than_eight_pairs_it_finds_less_and_no_detectable_difference_is_given() -> None:
    assert detectable_difference(rng(7).normal(0, 1, 7)) is None


def test_the_interval_over_seeds_and_images_is_wider_than_over_seeds_alone() -> None:
    generator = rng(11)
    luck_N = generator.normal(0, 0.06, 1000)  # per image: favours one model, whatever the seed
    chance_SN = 0.02 + luck_N + generator.normal(0, 0.005, (20, 1))
    differences_SN = (generator.random((20, 1000)) < chance_SN).astype(np.int8)
    differences_SN -= (generator.random((20, 1000)) < -chance_SN).astype(np.int8)
    both = two_way_interval(differences_SN)
    seeds = t_interval(100 * differences_SN.mean(axis=1))
    assert both is not None
    assert seeds is not None
    assert both.low < seeds.low < 100 * differences_SN.mean() < seeds.high < both.high


def test_the_interval_over_seeds_and_images_has_the_spread_of_both_directions() -> None:
    """For a mean of independent row and column effects, the two variances add up."""
    generator = rng(13)
    rows_S, columns_N = generator.random(40) < 0.5, generator.random(60) < 0.5
    differences_SN = rows_S[:, None].astype(np.int8) - columns_N[None, :].astype(np.int8)
    interval = two_way_interval(differences_SN)
    assert interval is not None
    expected = 100 * math.sqrt(rows_S.var() / 40 + columns_N.var() / 60)
    assert (interval.high - interval.low) / (2 * 1.96) == pytest.approx(expected, rel=0.05)


def test_the_interval_over_seeds_and_images_is_what_it_was_to_the_last_digit() -> None:
    generator = rng(7)
    luck_N, found = generator.normal(0, 0.3, 200), []
    for scale in (0.3, 0.0):
        ours_SN, theirs_SN = generator.random((30, 200)) < 0.3 + scale * luck_N, generator.random((30, 200)) < 0.25
        found.append(two_way_interval(ours_SN.astype(np.int8) - theirs_SN.astype(np.int8)))
    assert found == [
        Interval(2.3466705415989484, 6.15332945840105),
        Interval(3.7316281422461572, 7.401705191087175),
    ]


def test_variances_of_independent_means_add_up() -> None:
    one, other = Moments(0.02, 0.004, 9), Moments(-0.01, 0.001, 199)
    both = weighted_moments([(0.75, one), (0.25, other)])
    assert (both.mean, both.variance) == pytest.approx((0.0125, 0.5625 * 0.004 + 0.0625 * 0.001))
    assert 9 < both.freedom < 208
    alone = weighted_moments([(1.0, one)])
    assert (alone.mean, alone.variance, alone.freedom) == pytest.approx((one.mean, one.variance, one.freedom))
    sure = weighted_moments([(0.5, Moments(0.02, 0.0, 9)), (0.5, Moments(0.04, 0.0, 9))])
    assert sure.interval() == Interval(3.0, 3.0)


@pytest.mark.parametrize("values", [[], [0.3], [0.3, 0.5], [0.3, 0.3, 0.3]])
def test_too_little_data_gives_no_number(values: list[float]) -> None:
    array = np.array(values)
    assert t_interval(array) is None
    assert correlation(array, array) is None
    assert two_way_interval(np.zeros((len(values), 10), dtype=np.int8)) is None
    assert detectable_difference(array) is None
    assert (probability_of_improvement(array, array) is None) == (not values)


def test_three_values_are_enough_for_an_interval() -> None:
    interval = t_interval(np.array([0.1, 0.2, 0.6]))
    assert interval is not None
    assert interval.low < 0.3 < interval.high
    assert two_way_interval(np.ones((3, 10), dtype=np.int8)) == Interval(100, 100)


def test_images_that_favour_neither_variant_add_nothing_to_the_interval_over_seeds() -> None:
    favours_N = np.array([0, 0, 0, 0, 1, 1, 2, 3])  # each image favours ours with one seed only, as any other image
    differences_SN = (np.arange(4)[:, None] == favours_N).astype(np.int8)
    found, seeds = two_way_moments(differences_SN), t_interval(100 * differences_SN.mean(axis=1))
    assert found is not None
    assert seeds is not None
    assert not found.images_add
    interval = found.interval()
    assert interval is not None
    assert (interval.low, interval.high) == pytest.approx((seeds.low, seeds.high))
    differences_SN[:, :4] = 1  # with all seeds
    favoured = two_way_moments(differences_SN)
    assert favoured is not None
    assert favoured.images_add


@pytest.mark.parametrize("seeds", [3, 4, 6])
def test_of_few_seeds_the_interval_over_seeds_and_images_is_never_the_narrower_one(seeds: int) -> None:
    """Images that differ a little add to the variance less than their many degrees of freedom take from Student's t."""
    narrower = 0
    for repetition in range(20):
        luck_N, generator = rng(repetition).normal(0, 0.1, 300), rng(100 + repetition)
        gain_S1 = generator.normal(0, 0.03, (seeds, 1))
        differences_SN = (generator.random((seeds, 300)) < 0.2 + luck_N + gain_S1).astype(np.int8)
        found, over_seeds = two_way_moments(differences_SN), t_interval(100 * differences_SN.mean(axis=1))
        assert found is not None
        assert over_seeds is not None
        both = found.interval()
        assert both is not None
        assert both.high - both.low >= (over_seeds.high - over_seeds.low) * (1 - 1e-9)
        assert (found.p < 0.05) == both.excludes_zero
        alone = Moments(found.mean, found.variance, found.freedom).interval()
        assert alone is not None
        narrower += alone.high < both.high
    assert narrower, "without the bound it would be"


def test_seeds_that_agree_by_luck_leave_the_mean_over_images_uncertain() -> None:
    interval = two_way_interval(np.eye(3, 10, dtype=np.int8))  # each is better on one image, another each time
    assert interval is not None
    assert interval.low < 0 < 10 < interval.high


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


def test_values_that_differ_by_rounding_alone_have_no_deviation() -> None:
    alike = [0.1 + 0.2, 0.3, 0.3]
    assert std_interval(alike) is None
    assert variance_share(alike, [1.0, 2.0]) is None
    assert variance_share([1.0, 2.0], alike) is None
