"""Contrasts between a run's variants: pairing by seed, the primary contrast, the family, and the verdicts."""

import dataclasses

import numpy as np
import pytest

from catdog.analysis.contrasts import Contrast, compare, primary_of, reference_of
from catdog.analysis.intervals import Interval
from catdog.analysis.predictions import Predictions, read_predictions
from catdog.analysis.significance import holm
from catdog.formatting import format_points
from catdog.storage import MemoryStore
from tests.helpers.made_runs import make_run

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


@pytest.mark.parametrize(
    ("labels", "reference", "primary"),
    [
        (THREE, "baseline", "multi-attention"),
        (("se", "attention"), "se", "attention"),
        (("multi-attention", "attention"), "multi-attention", "attention"),
        (("se", "multi-attention", "baseline"), "baseline", "multi-attention"),
        (("baseline",), "baseline", None),
    ],
)
def test_the_reference_and_the_primary_contrast(labels: tuple[str, ...], reference: str, primary: str | None) -> None:
    assert (reference_of(labels), primary_of(labels)) == (reference, primary)


def test_pairs_are_trials_of_one_seed_complete_on_both_sides() -> None:
    attention, multi = contrasts(missing=[("baseline", 3)], failed=[("attention", 0)], diverged=[("attention", 5)])
    assert attention.seeds == (1, 2, 4, 6, 7, 8, 9, 10, 11)
    assert multi.seeds == (0, 1, 2, 4, 5, 6, 7, 8, 9, 10, 11)


def test_a_clear_gain_is_called_better_and_a_clear_loss_worse() -> None:
    attention, multi = contrasts(effect={"multi-attention": 3.0, "attention": -3.0}, seeds=range(30), test_images=1000)
    assert multi.is_primary
    assert multi.verdict.startswith("multi-attention is better than baseline on this test set by ")
    assert ", p < 0.001, n = 30 pairs)" in multi.verdict
    assert multi.verdict.endswith(").")
    assert ", and on new images like these (+" in multi.verdict
    assert attention.verdict.startswith("attention is worse than baseline on this test set by ")
    assert "Holm-adjusted p" in attention.verdict
    assert multi.interval is not None
    assert multi.mean is not None
    assert multi.interval.low < multi.mean < multi.interval.high
    assert multi.interval_new_images is not None
    assert multi.interval_new_images.low < multi.interval.low
    assert multi.probability_of_improvement is not None
    assert multi.probability_of_improvement > 0.9


def test_no_gain_is_not_distinguishable_and_states_the_detectable_difference() -> None:
    multi = only(contrasts(labels=("baseline", "multi-attention"), seeds=range(20)))
    assert multi.verdict.startswith("multi-attention and baseline are not distinguishable: the difference is ")
    assert f"; 20 pairs detect {multi.detectable:.2f} points." in multi.verdict


@pytest.mark.parametrize(
    ("n", "said"),
    [
        (0, "have no seed in common that is complete: nothing can be said."),
        (1, "points in one pair, which says nothing about other seeds."),
        (2, "; with 2 pairs p cannot be below 0.5 (6 are needed)."),
        (5, "; with 5 pairs p cannot be below 0.062 (6 are needed)."),
    ],
)
def test_the_verdict_on_too_few_pairs_says_so(n: int, said: str) -> None:
    missing = [("baseline", seed) for seed in range(n, 6)]
    contrast = only(contrasts(labels=("baseline", "se"), seeds=range(6), missing=missing, effect={"se": 5.0}))
    assert contrast.n == n
    assert contrast.verdict.startswith("se and baseline ")
    assert contrast.verdict.endswith(said)
    assert not contrast.is_significant
    for forbidden in ("nan", "None", "-"):
        assert forbidden not in contrast.verdict


def test_significant_means_an_adjusted_p_below_five_percent() -> None:
    contrast = only(contrasts(labels=("baseline", "se"), seeds=range(3), test_images=50))
    for p, significant in ((0.0499, True), (0.05, False), (1.0, False), (None, False)):
        assert dataclasses.replace(contrast, p_adjusted=p).is_significant is significant


def test_the_primary_contrast_stands_alone_and_the_others_form_a_family() -> None:
    found = contrasts(labels=("baseline", "attention", "multi-attention", "se", "attention-relu"), effect={"se": 1.0})
    others = [contrast for contrast in found if not contrast.is_primary]
    assert [contrast.p_adjusted for contrast in others] == holm([contrast.p for contrast in others])  # type: ignore[misc]
    primary = only([contrast for contrast in found if contrast.is_primary])
    assert primary.variant == "multi-attention"
    assert primary.p_adjusted == primary.p


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
    near = dataclasses.replace(contrast, mean=-0.004, interval=Interval(-0.22, -0.003), detectable=0.002)
    assert "the difference is −0.004 points (95 % interval −0.22 to −0.003, " in near.verdict
    assert near.verdict.endswith("detect 0.002 points.")
    surely = dataclasses.replace(near, p_adjusted=0.001, interval_new_images=Interval(-0.3, 0.0004))
    assert "by 0.004 points" in surely.verdict
    assert surely.verdict.endswith("is open (−0.30 to +0.0004).")


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
        assert [[predictions.mean_confusion(label, true, taken) for taken in range(4)] for true in range(4)] == (
            mean_KK[:4, :4].tolist()
        )
