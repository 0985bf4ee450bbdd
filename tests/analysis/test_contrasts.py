"""Contrasts between a run's variants: pairing by seed, the primary contrast, the family, and the verdicts."""

import dataclasses
import re

import numpy as np
import pytest

from catdog.analysis.contrasts import compare
from catdog.analysis.intervals import Interval
from catdog.analysis.predictions import Predictions, read_predictions
from catdog.analysis.significance import holm
from catdog.analysis.verdicts import Answer, Contrast, pairing_line
from catdog.formatting import format_points, format_range
from catdog.storage import MemoryStore
from tests.helpers.made_runs import favoured_on_images, make_run

THREE = ("baseline", "attention", "multi-attention")


def contrasts(**options: object) -> list[Contrast]:
    store = MemoryStore()
    labels = options.pop("labels", THREE)
    seeds = options.pop("seeds", range(12))
    run_status = make_run(store, labels, seeds, **options)  # type: ignore[arg-type]
    return compare(run_status, read_predictions(store, run_status))


def only(found: list[Contrast]) -> Contrast:
    (contrast,) = found
    return contrast


def test_pairs_are_trials_of_one_seed_complete_on_both_sides() -> None:
    attention, multi = contrasts(missing=[("baseline", 3)], failed=[("attention", 0)], diverged=[("attention", 5)])
    assert attention.seeds == (1, 2, 4, 6, 7, 8, 9, 10, 11)
    assert multi.seeds == (0, 1, 2, 4, 5, 6, 7, 8, 9, 10, 11)


def test_a_clear_gain_is_called_better_and_a_clear_loss_worse() -> None:
    attention, multi = contrasts(effect={"multi-attention": 3.0, "attention": -3.0}, seeds=range(30), test_images=1000)
    assert multi.is_primary
    assert multi.words == "multi-attention is better than baseline on this test set, and on new images like these."
    assert re.search(
        r"Its 95 % interval is \+\S+ to \+\S+ on this test set and \+\S+ to \+\S+ on new images", multi.figures
    )
    assert multi.verdict == f"{multi.words} {multi.figures}"
    assert attention.words == "attention is worse than baseline on this test set, and on new images like these."
    assert "; Holm-adjusted p < 0.001. Its Holm-adjusted 95 % interval is −" in attention.figures
    assert multi.interval is not None
    assert multi.mean is not None
    assert multi.interval.low < multi.mean < multi.interval.high
    assert multi.interval_new_images is not None
    assert multi.interval_new_images.low < multi.interval.low
    assert multi.probability_of_improvement is not None
    assert multi.probability_of_improvement > 0.9


def test_the_intervals_on_new_images_are_adjusted_by_their_own_p() -> None:
    """se has the smallest p over seeds, gem that over images: 0.035, too large for the first of a family of two."""
    labels, effect = ("baseline", "multi-attention", "se", "gem"), {"se": 9.0, "gem": 7.0}
    run_status = make_run(MemoryStore(), labels, range(10), effect=effect, test_images=300)
    gains = {"se": (10, 10), "gem": (19, 8), "multi-attention": (0, 0)}
    _, se, gem = compare(run_status, favoured_on_images(labels, 10, gains))
    assert se.difference is not None
    assert gem.difference is not None
    assert se.difference.level < gem.difference.level == 0.05
    assert gem.words == "gem is better than baseline on this test set; whether on new images, too, is open."
    _, se, gem = compare(run_status, favoured_on_images(labels, 10, gains | {"se": (30, 0)}))
    assert gem.words == "gem is better than baseline on this test set, and on new images like these."
    assert se.words == "se is better than baseline on this test set, and on new images like these."


def test_where_new_images_add_no_uncertainty_the_verdict_says_why() -> None:
    multi = only(contrasts(labels=("baseline", "multi-attention"), seeds=range(8)))
    none = dataclasses.replace(multi, images_add=False).figures
    assert (
        " on new images, which add no uncertainty: the difference varies between images no more than chance explains. "
        in none
    )
    assert "add no" not in dataclasses.replace(multi, images_add=True).figures


def test_no_gain_is_undecided_and_states_the_detectable_difference() -> None:
    multi = only(contrasts(labels=("baseline", "multi-attention"), seeds=range(20)))
    assert multi.words == "multi-attention against baseline: undecided."
    power = f" Were the true difference {multi.detectable:.2f} points, 80 % of runs with 20 pairs would find it."
    assert multi.figures.endswith(power)
    assert "quivalen" not in multi.verdict


@pytest.mark.parametrize(
    ("n", "words", "figures"),
    [
        (0, "nothing can be said.", "The two have no seed in common that is complete."),
        (1, "nothing can be said.", " percentage points in one pair, which says nothing of other seeds."),
        (2, "undecided.", "With 2 pairs p cannot be below 0.5 (6 are needed)."),
        (5, "undecided.", "With 5 pairs p cannot be below 0.062 (6 are needed)."),
    ],
)
def test_the_verdict_on_too_few_pairs_says_so(n: int, words: str, figures: str) -> None:
    missing = [("baseline", seed) for seed in range(n, 6)]
    contrast = only(contrasts(labels=("baseline", "se"), seeds=range(6), missing=missing, effect={"se": 5.0}))
    assert contrast.n == n
    assert contrast.words == f"se against baseline: {words}"
    assert contrast.figures.endswith(figures)
    assert contrast.outcome == "undecided"
    assert contrast.interval is None
    for forbidden in ("nan", "None", "-"):
        assert forbidden not in contrast.verdict


def test_a_family_needs_more_pairs_than_a_test_alone_and_detects_less() -> None:
    labels = ("baseline", "multi-attention", "se", "eca", "gem", "max")
    few, enough = (contrasts(labels=labels, seeds=range(n))[1] for n in (6, 8))
    assert few.interval is None
    assert few.figures.endswith("With 6 pairs p cannot be below 0.12 as one of 4 tests (8 are needed).")
    assert enough.interval is not None
    assert enough.figures.endswith(" would find it if tested alone.")


@pytest.mark.parametrize(
    ("effect", "smallest", "outcome", "words"),
    [
        (0.0, 2.0, "equivalent", "is equivalent to baseline on this test set: within the 2.00 points that matter."),
        (
            1.0,
            4.0,
            "better, equivalent",
            "is better than baseline on this test set, by less than the 4.00 points that matter",
        ),
        (
            -1.0,
            4.0,
            "worse, equivalent",
            "is worse than baseline on this test set, by less than the 4.00 points that matter",
        ),
        (3.0, 0.5, "better", "is better than baseline on this test set"),
        (0.0, 0.05, "undecided", "against baseline: undecided."),
    ],
)
def test_a_declared_smallest_effect_lets_variants_be_equivalent(
    effect: float, smallest: float, outcome: str, words: str
) -> None:
    contrast = only(
        contrasts(
            labels=("baseline", "se"),
            seeds=range(20),
            test_images=1000,
            effect={"se": effect},
            smallest_effect=smallest,
        )
    )
    assert contrast.outcome == outcome
    assert f"se {words}" in contrast.words
    interval, equivalence = contrast.interval_equivalence, contrast.equivalence
    assert interval is not None
    assert equivalence is not None
    assert (equivalence.p < 0.05) == (-smallest < interval.low and interval.high < smallest)
    assert contrast.interval is not None
    assert contrast.interval.low <= interval.low <= interval.high <= contrast.interval.high
    assert f"Equivalence: 90 % interval {format_range(interval.low, interval.high)}, p " in contrast.figures


def test_nobody_wins_by_diverging() -> None:
    """Three of ten trials diverged: at chance accuracy, they would turn the gain of the others into a loss."""
    options = {"labels": ("baseline", "se"), "seeds": range(10), "test_images": 1000, "effect": {"se": 3.0}}
    assert only(contrasts(**options)).outcome == "better"
    lucky = only(contrasts(**options, diverged=[("se", seed) for seed in (2, 5, 8)]))
    assert lucky.difference is not None
    assert lucky.difference.p_adjusted < 0.05
    assert lucky.words == "se against baseline: undecided."
    assert lucky.figures.endswith("se is not called better: with 3 diverged seeds at chance accuracy it would not be.")
    fallen = only(contrasts(**options, diverged=[("baseline", 4)]))
    assert (fallen.outcome, fallen.diverged) == ("better", 1), "the reference's divergence adds to the gain"
    both = only(contrasts(**options, diverged=[("se", 4), ("baseline", 4)]))
    assert both.outcome == "better", "two trials at chance accuracy do not differ"


def test_the_primary_contrast_stands_alone_and_the_others_form_a_family() -> None:
    found = contrasts(labels=("baseline", "attention", "multi-attention", "se", "attention-relu"), effect={"se": 1.0})
    others = [contrast for contrast in found if not contrast.is_primary]
    answers = [contrast.difference for contrast in others if contrast.difference is not None]
    assert len(answers) == 3
    assert [answer.p_adjusted for answer in answers] == holm([answer.p for answer in answers])
    primary = only([contrast for contrast in found if contrast.is_primary])
    assert primary.variant == "multi-attention"
    assert primary.difference is not None
    assert primary.difference.p_adjusted == primary.difference.p


def test_variants_whose_accuracies_share_nothing_are_said_to_gain_nothing_from_pairing() -> None:
    contrast = dataclasses.replace(only(contrasts(labels=("baseline", "se"), seeds=range(30))), correlation=-0.033)
    assert contrast.is_pairing_idle
    line = pairing_line([contrast])
    assert line is not None
    assert line == (
        "Pairing by seed gained hardly anything for se − baseline (−0.03): the accuracies of one seed hardly correlate."
    )
    assert not dataclasses.replace(contrast, correlation=0.1).is_pairing_idle
    assert not dataclasses.replace(contrast, seeds=(0, 1, 2)).is_pairing_idle
    assert pairing_line([dataclasses.replace(contrast, correlation=None)]) is None


def test_a_contrast_does_not_depend_on_the_others() -> None:
    alone = only(contrasts(labels=("baseline", "multi-attention")))
    among = only([contrast for contrast in contrasts() if contrast.is_primary])
    assert alone == among


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.006, "+1.01"), (-0.25, "−0.25"), (0.005, "+0.01"), (0.0049, "+0.005"), (-0.003, "−0.003"),
        (-0.00042, "−0.0004"), (0.0, "0.00"), (-0.0, "0.00"), (1e-14, "0.00"),
    ],
)  # fmt: skip
def test_only_zero_is_printed_as_zero(value: float, text: str) -> None:
    assert format_points(value) == text


def test_no_bound_of_an_interval_but_zero_is_printed_as_zero() -> None:
    contrast = only(contrasts(labels=("baseline", "se"), seeds=range(6)))
    answer = Answer(0.4, 0.4, 0.05, Interval(-0.22, -0.003), None, stands=True)
    near = dataclasses.replace(contrast, mean=-0.004, difference=answer, detectable=0.002, smallest_effect=0.004)
    start = (
        "The mean difference is −0.004 percentage points, n = 6 pairs; p = 0.400. Its 95 % interval is −0.22 to −0.003 "
    )
    assert near.figures.startswith(start)
    assert "Were the true difference 0.002 points, " in near.figures
    surely = dataclasses.replace(
        near,
        difference=dataclasses.replace(answer, says="worse"),
        interval_new_images=Interval(-0.3, 0.0004),
        images_add=True,
    )
    assert surely.words == "se is worse than baseline on this test set; whether on new images, too, is open."
    assert "−0.30 to +0.0004 on new images." in surely.figures
    equal = dataclasses.replace(near, equivalence=dataclasses.replace(answer, says="equivalent"))
    assert equal.words.endswith("within the 0.004 points that matter.")


def test_predictions_are_read_back_by_variant_and_seed() -> None:
    store = MemoryStore()
    run_status = make_run(store, THREE, range(4), missing=[("attention", 2)], test_images=200)
    predictions = read_predictions(store, run_status)
    assert isinstance(predictions, Predictions)
    assert predictions.seeds == {"baseline": (0, 1, 2, 3), "attention": (0, 1, 3), "multi-attention": (0, 1, 2, 3)}
    for label in THREE:
        accuracy_S = 100 * predictions.correct_SN(label).mean(axis=1)
        assert accuracy_S == pytest.approx([result.test_accuracy for result in run_status.results(label)])
        by_breed = predictions.class_accuracy_SK(label)
        counts = np.bincount(predictions.labels_N, minlength=len(predictions.classes))
        assert (by_breed @ counts) / counts.sum() == pytest.approx(accuracy_S)
        confusion = predictions.confusion_KK(label, 0)
        assert np.trace(confusion) / confusion.sum() * 100 == pytest.approx(accuracy_S[0])
        assert (confusion.sum(axis=1) == counts).all()
        mean_KK = np.mean(
            [predictions.confusion_KK(label, row) for row in range(len(predictions.seeds[label]))], axis=0
        )
        assert predictions.mean_confusion_KK(label).tolist() == mean_KK.tolist()
