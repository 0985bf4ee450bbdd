"""The sign-flip test that may stop at looks, against an enumeration of all signs."""

import itertools

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats

from catdog.analysis.power import conditional_power, pairs_needed
from catdog.analysis.questions import Difference, Equivalence, FixedEvidence, LookEvidence
from catdog.analysis.sequential import Walk, spent
from catdog.analysis.sign_flips import SubsetMeans

Array = npt.NDArray[np.float64]
COUNTS = st.lists(st.integers(-9, 12), min_size=8, max_size=9)
IMAGE = 100 / 3669


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def all_sums(counts: list[int], two_sided: bool) -> npt.NDArray[np.int64]:
    """The sums of every pattern of signs after each pair; without their sign if both sides count."""
    sums = np.array([np.cumsum(np.multiply(one, counts)) for one in itertools.product((1, -1), repeat=len(counts))])
    return np.abs(sums) if two_sided else sums


@settings(deadline=None, max_examples=40)
@given(COUNTS, st.booleans(), st.sampled_from([0.05, 0.2, 0.5]))
def test_the_bounds_spend_no_more_than_planned_and_all_that_they_can(
    counts: list[int], two_sided: bool, level: float
) -> None:
    """Over all patterns of signs: the share rejected by each look, and what the next smaller bound would reject."""
    ends, n = [4, 6, len(counts)], len(counts)
    walk = Walk.of(np.array(counts) * IMAGE, ends, n, two_sided)
    sums, rejected, before = all_sums(counts, two_sided), np.zeros(2**n, dtype=bool), 0.0
    for end, p, nominal in zip(ends, walk.p_values, walk.nominal_levels(level), strict=True):
        here = sums[:, end - 1]
        share = np.array([(here >= one).mean() for one in here])  # the p of each pattern, as if it were observed
        assert p == pytest.approx(share[0], abs=1e-12), "the first pattern flips nothing"
        allowed, before = spent(end / n, level) - before, spent(end / n, level)
        beyond, left = share <= nominal + 1e-12, ~rejected
        assert (left & beyond).mean() <= allowed + 1e-12
        if (left & ~beyond).any():
            larger = share[left & ~beyond].min()
            assert (left & (share <= larger + 1e-12)).mean() > allowed - 1e-12
        rejected |= beyond


@settings(deadline=None, max_examples=30)
@given(COUNTS, st.booleans())
def test_p_is_the_smallest_level_that_rejects(counts: list[int], two_sided: bool) -> None:
    walk = Walk.of(np.array(counts) * IMAGE, [5, len(counts)], len(counts), two_sided)
    p = walk.p()
    assert 0 < p <= 1
    if p < 1:
        assert walk.rejects(p * 1.0001)
        assert not walk.rejects(p * 0.9999)


@pytest.mark.parametrize("n", [6, 13, 30])
def test_with_a_single_look_at_the_end_it_is_the_sign_flip_test(n: int) -> None:
    differences = np.rint(rng(n).normal(4, 12, n)) * IMAGE
    means = SubsetMeans.of(differences, rng())
    walk = Walk.of(differences, [n], n)
    assert walk.p_values[0] == pytest.approx(means.p(), rel=1e-12)
    assert walk.p() == pytest.approx(means.p(), rel=1e-6)
    looks, fixed = LookEvidence(differences, [n], n, False, rng()), FixedEvidence(means)
    for question in (Difference(), Equivalence(0.31)):
        assert looks.p(question) == pytest.approx(fixed.p(question), rel=0.01)
        wider, interval = looks.interval(question, 0.05), fixed.interval(question, 0.05)
        assert wider is not None
        assert interval is not None
        assert wider.low <= interval.low <= interval.high <= wider.high, "at the largest p below 5 % that zero can have"
        assert (wider.low, wider.high) == pytest.approx((interval.low, interval.high), abs=0.02)


def test_the_level_is_spent_as_obrien_and_fleming_would() -> None:
    """Lan & DeMets' function; at 5 % their table has 0.0031 of one side, 0.0062 in all, at half of the information."""
    assert spent(1.0, 0.05) == pytest.approx(0.05)
    assert spent(0.5, 0.05) == pytest.approx(2 * stats.norm.sf(1.959964 / np.sqrt(0.5)), rel=1e-6)
    assert spent(0.2, 0.05) < 2e-5


@settings(deadline=None, max_examples=30)
@example(177, 6.0)
@given(st.integers(0, 10_000), st.sampled_from([0.0, 6.0, 15.0]))
def test_the_interval_excludes_zero_when_a_look_rejects_it(seed: int, mean: float) -> None:
    differences = np.rint(rng(seed).normal(mean, 15, 30)) * IMAGE
    for ends in ([12], [12, 15], [12, 15, 20, 25, 30]):
        evidence = LookEvidence(differences[: ends[-1]], ends, 30, False, rng())
        interval = evidence.interval(Difference(), 0.05)
        assert (evidence.p(Difference()) < 0.05) == (interval is not None and interval.excludes_zero)


EQUIVALENT = [
    -1, 24, 28, -7, -12, 35, -13, -7, 0, 6, 13, 5, -11, 7, 3, 24, 0, -17, -13, 19, -7, -27, -7, 0, 15, -13, 9, 10,
    -9, -2,
]  # fmt: skip
BETTER = [3, 0, 0, -1, 1, -2, 5, 4, 3, 3, -2, 4, -1, -3, 1, 2, 2, 5, 0, 5, 6, 3, -1, 6, 2]


@settings(deadline=None, max_examples=15)
@example(EQUIVALENT, 100 / 3669, Equivalence(0.2))
@example(BETTER, 100 / 600, Difference())
@given(
    st.lists(st.integers(-30, 30), min_size=30, max_size=30), st.just(100 / 3669),
    st.sampled_from([Difference(), Equivalence(0.2)]),
)  # fmt: skip
def test_a_question_is_answered_exactly_if_p_is_below_the_level(
    counts: list[int], image: float, question: Difference | Equivalence
) -> None:
    """Differences from a margin, which is no whole number of images, are rounded: p is a percent or two off then."""
    ends = [end for end in (6, 9, 12, 15, 20, 25, 30) if end <= len(counts)]
    evidence = LookEvidence(np.array(counts) * image, ends, 30, False, rng())
    p = evidence.p(question)
    for level in (0.05, 0.05 / 3, 0.05 / 11):
        interval = evidence.interval(question, level)
        if abs(p / level - 1) > 0.05:
            assert (interval is not None and question.answer(interval) is not None) == (p < level)


@settings(deadline=None, max_examples=15)
@example(177, 6.0)
@given(st.integers(0, 10_000), st.sampled_from([0.0, 6.0, 15.0]))
def test_a_larger_level_never_rejects_less(seed: int, mean: float) -> None:
    differences = np.rint(rng(seed).normal(mean, 15, 30)) * IMAGE
    for ends in ([12, 15], [6, 9, 12, 15, 20, 25, 30]):
        walk = Walk.of(differences[: ends[-1]], ends, 30)
        levels = [walk.nominal_levels(level) for level in np.geomspace(1e-4, 0.3, 40)]
        assert (np.diff(levels, axis=0) >= 0).all()


@pytest.mark.parametrize("seed", [77, 373])
def test_the_interval_of_equivalence_lies_within_what_matters_when_both_tests_reject(seed: int) -> None:
    """At the level of each: that of the stricter one would leave these two open, whose p is just below 5 %."""
    generator = rng(seed)
    differences = np.rint(generator.normal(generator.choice([0, 5, 8, 12]), 15, 30)) * IMAGE
    ends = [6, 9, 12, 15, 20, 25, 30][: generator.integers(1, 8)]
    evidence, question = LookEvidence(differences[: ends[-1]], ends, 30, False, rng()), Equivalence(0.3)
    assert 0.04 < evidence.p(question) < 0.05
    assert question.answer(evidence.interval(question, 0.05)) == "equivalent"


def test_before_the_first_look_nothing_is_known() -> None:
    for ends in ([], [0]):
        evidence = LookEvidence(np.array([1.0, 2.0]), ends, 30, False, rng())
        for question in (Difference(), Equivalence(0.2)):
            assert (evidence.p(question), evidence.interval(question, 0.05)) == (1.0, None)
        assert evidence.alpha(0.05) == 0.0


def test_the_last_look_spends_all_that_is_left_though_pairs_were_lost() -> None:
    differences = np.rint(rng(2).normal(7, 15, 26)) * IMAGE
    fixed = SubsetMeans.of(differences, rng()).p()
    assert Walk.of(differences, [26], 30, is_over=True).p() == pytest.approx(fixed, rel=1e-6)
    assert Walk.of(differences, [26], 30).p() > 1.1 * fixed
    early, late = (Walk.of(differences, [12, 26], 30, is_over=over).nominal_levels(0.05) for over in (False, True))
    assert early[0] == late[0]
    assert early[1] < late[1] < 0.05


def test_differences_without_a_common_step_are_counted_finely() -> None:
    differences = rng(4).normal(0.2, 0.4, 20)
    walk = Walk.of(differences, [20], 20)
    assert walk.p_values[0] == pytest.approx(SubsetMeans.of(differences, rng()).p(), abs=0.012)


@pytest.mark.parametrize("difference", [0.0, 0.5])
def test_pairs_that_all_differ_alike_settle_what_comes(difference: float) -> None:
    power = conditional_power(np.full(6, difference), 30, 100.0, 0.05, 0.05)
    assert power == pytest.approx((1.0, 1.0))


def test_conditional_power_is_what_simulated_ends_of_the_sweep_show() -> None:
    seen = rng(8).normal(0.1, 0.4, 12)
    seen *= np.sign(seen.sum()) * 0.4 / seen.std(ddof=1)
    found = conditional_power(seen, 30, 0.2, 0.05, 0.05)
    ends = seen.sum() + rng(9).normal([[0.2], [0.0]], 0.4, (20_000, 2, 18)).sum(axis=2)
    bound, spread = 1.959964 * 0.4 * np.sqrt(30), 1.644854 * 0.4 * np.sqrt(30)
    expected = (ends[:, 0] > bound).mean(), (np.abs(ends[:, 1]) < 30 * 0.2 - spread).mean()
    assert found == pytest.approx(expected, abs=0.012)


def test_pairs_are_counted_up_to_a_hundred_thousand() -> None:
    assert pairs_needed(0.009, 0.05, 0.8) == 96_902
    assert pairs_needed(0.0088, 0.05, 0.8) is None
