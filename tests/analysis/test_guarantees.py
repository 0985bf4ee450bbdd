"""What docs/statistics.md promises, simulated with the functions that made its figures."""

import runpy

import numpy as np
import pytest

from catdog.analysis.contrasts import compare
from catdog.analysis.power import pairs_needed
from catdog.analysis.sign_flips import SubsetMeans
from catdog.analysis.significance import holm
from catdog.storage import MemoryStore
from tests.helpers.made_runs import favoured_on_images, make_run
from tests.helpers.project import ROOT

pytestmark = pytest.mark.slow
SIMULATE = runpy.run_path(str(ROOT / "docs/simulate_statistics.py"))
REPETITIONS = 2000
ERROR = 2.5 * (0.05 * 0.95 / REPETITIONS) ** 0.5
"""Of a share of 5 %: 2.5 standard errors."""


@pytest.mark.parametrize("shape", ["normal", "t, 3 degrees of freedom"])
@pytest.mark.parametrize("n", [6, 10, 30])
def test_the_interval_over_seeds_holds_the_mean_of_symmetric_differences(shape: str, n: int) -> None:
    assert SIMULATE["seeds_coverage"](shape, n, REPETITIONS) >= 0.95 - ERROR


@pytest.mark.parametrize("n", [6, 10, 30])
def test_for_strongly_skewed_differences_it_holds_the_mean_too_rarely(n: int) -> None:
    """By as much as the documentation says."""
    assert 0.83 <= SIMULATE["seeds_coverage"]("lognormal", n, REPETITIONS) <= 0.92


@pytest.mark.parametrize("scenario", SIMULATE["SCENARIOS"])
@pytest.mark.parametrize("seeds", [10, 30])
def test_the_interval_over_seeds_and_images_is_neither_too_narrow_nor_too_wide(scenario: str, seeds: int) -> None:
    assert SIMULATE["images_coverage"](scenario, seeds, REPETITIONS) == pytest.approx(0.95, abs=0.015 + ERROR)


@pytest.mark.parametrize("images", [0.0, 0.08])
@pytest.mark.parametrize("seeds", [10, 30])
def test_the_interval_of_a_mean_over_sets_holds_it_where_sets_share_their_images(images: float, seeds: int) -> None:
    assert SIMULATE["sets_coverage"](images, seeds, REPETITIONS) == pytest.approx(0.95, abs=0.015 + ERROR)


def test_taking_sets_that_share_their_images_for_independent_would_hold_it_too_rarely() -> None:
    assert SIMULATE["sets_coverage"](0.08, 30, REPETITIONS, jointly=False) < 0.92


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_only_with_a_split_for_each_seed_does_the_interval_hold_the_mean_over_splits(share: float) -> None:
    assert SIMULATE["splits_coverage"](share, 30, REPETITIONS, resampled=True) >= 0.95 - ERROR
    assert SIMULATE["splits_coverage"](share, 30, REPETITIONS, resampled=False) <= 0.7, "by as much as is documented"


@pytest.mark.parametrize("n", [6, 30])
def test_variants_that_differ_by_what_matters_are_seldom_called_equivalent(n: int) -> None:
    assert SIMULATE["false_equivalence"]("normal", n, 0.2, REPETITIONS) <= 0.05 + ERROR


def test_one_in_twenty_sweeps_without_a_better_variant_raises_a_false_alarm() -> None:
    """Of 10 seeds and 8 equal variants; the noise is skewed and partly shared within a seed."""
    alarms, family_alarms = 0, 0
    generator = np.random.default_rng(17)
    for _ in range(REPETITIONS):
        shared_S = generator.gamma(2.0, 0.2, 10)
        accuracy_VS = 92 + shared_S + generator.gamma(2.0, 0.15, (8, 10))
        primary, *others = [SubsetMeans.of(one - accuracy_VS[0], generator).p() for one in accuracy_VS[1:]]
        alarms += primary < 0.05
        family_alarms += min(holm(others)) < 0.05
    assert 0.035 <= alarms / REPETITIONS <= 0.065
    assert family_alarms / REPETITIONS <= 0.06


def test_of_many_contrasts_hardly_any_is_wrongly_said_to_hold_on_new_images() -> None:
    """All are better over seeds, and on other images none is: luck alone says on which images of this test set."""
    labels, seeds, repetitions = ("baseline", "multi-attention", *(f"se:reduction={n}" for n in range(2, 14))), 12, 250
    run_status = make_run(MemoryStore(), labels, range(seeds), test_images=100, effect=dict.fromkeys(labels[1:], 9.0))
    rng, alarms = np.random.default_rng(5), 0
    for _ in range(repetitions):
        gains = {label: (more, 40 - more) for label, more in zip(labels, rng.binomial(40, 0.5, 14), strict=True)}
        _, *others = compare(run_status, favoured_on_images(labels, seeds, gains | {"baseline": (0, 0)}))
        assert {one.outcome for one in others} == {"better"}
        alarms += any("and on new images" in one.words for one in others)
    assert alarms / repetitions <= 0.05 + 2.5 * (0.05 * 0.95 / repetitions) ** 0.5


@pytest.mark.parametrize(("effect", "power"), [(0.5, 0.8), (0.8, 0.9), (1.0, 0.8), (2.0, 0.8)])
def test_the_seeds_that_are_planned_have_the_power_that_was_promised(effect: float, power: float) -> None:
    """Within three points, and no seed more: one of ten changes the power by five points."""
    rng, n = np.random.default_rng(3), pairs_needed(effect, 0.05, power)
    assert n is not None

    def achieved(pairs: int) -> float:
        samples = np.rint(15 * rng.normal(effect, 1.0, (REPETITIONS, pairs)))
        return float(np.mean([SubsetMeans.of(one, rng).p() < 0.05 for one in samples]))

    assert achieved(n) >= power - 0.03
    assert achieved(n - 1) <= power + 0.03


@pytest.mark.parametrize(("contrasts", "most"), [(1, 30), (7, 30), (1, 100)])
def test_looking_early_raises_no_more_false_alarms(contrasts: int, most: int) -> None:
    assert SIMULATE["false_alarms"](contrasts, most, REPETITIONS) <= 0.05 + ERROR


def test_a_large_difference_is_found_early_and_a_middling_one_about_as_surely_as_without_looks() -> None:
    large = SIMULATE["stopped"](1.0, 0.5, 30, 250)
    assert large.shares["better"] >= 0.98
    assert large.seeds <= 17
    middling, error = SIMULATE["stopped"](0.5, 0.5, 30, REPETITIONS // 2), 2**0.5 * ERROR
    assert middling.shares["better"] >= middling.fixed - 0.04 - error
    assert middling.shares["equivalent"] <= 0.05 + error, "its true difference is what matters"
