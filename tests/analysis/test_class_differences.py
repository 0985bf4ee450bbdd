"""Differences by class: their figures, and how often any of their intervals is wrong."""

import numpy as np
import numpy.typing as npt
import pytest
import scipy

from catdog.analysis.class_differences import class_differences
from catdog.analysis.contrasts import compare
from catdog.analysis.predictions import Predictions, read_predictions
from catdog.analysis.verdicts import Contrast
from catdog.storage import MemoryStore
from tests.helpers.made_runs import make_run


def predictions_of(correct_LSN: npt.NDArray[np.bool_], labels_N: npt.NDArray[np.int16], classes: int) -> Predictions:
    """Return predictions of two variants that are right where `correct_LSN` says so."""
    seeds = tuple(range(correct_LSN.shape[1]))
    predicted = np.where(correct_LSN, labels_N, (labels_N + 1) % classes).astype(np.int16)
    return Predictions(
        tuple(f"class_{k}" for k in range(classes)),
        np.array([f"image_{n}" for n in range(len(labels_N))]),
        labels_N,
        {"baseline": seeds, "se": seeds},
        {"baseline": predicted[0], "se": predicted[1]},
        {},
    )


def contrast_of(seeds: int) -> Contrast:
    empty = {"probability_of_improvement": None, "correlation": None, "interval_new_images": None, "detectable": None}
    return Contrast(
        "se", "baseline", True, tuple(range(seeds)), (0.0,) * seeds, 0.0, None, None, None, ended=(), **empty
    )  # fmt: skip


def test_each_class_has_the_mean_difference_of_its_pairs_and_an_interval_at_its_share_of_five_percent() -> None:
    store = MemoryStore()
    run_status = make_run(store, ["baseline", "se"], range(6), classes=5, test_images=200, effect={"se": 3.0})
    predictions = read_predictions(store, run_status)
    assert predictions is not None
    (contrast,) = compare(run_status, predictions)
    found = class_differences(predictions, contrast)
    assert [one.mean for one in found] == sorted((one.mean for one in found), reverse=True)
    ours_SK, theirs_SK = (predictions.class_accuracy_SK(label) for label in ("se", "baseline"))
    for one in found:
        differences = ours_SK[:, one.label] - theirs_SK[:, one.label]
        assert (one.images, one.mean) == (40, pytest.approx(differences.mean()))
        assert one.ours - one.theirs == pytest.approx(one.mean)
        low, high = scipy.stats.t.interval(1 - 0.05 / 5, 5, differences.mean(), scipy.stats.sem(differences))
        assert one.interval is not None
        assert (one.interval.low, one.interval.high) == (pytest.approx(low), pytest.approx(high))


def test_classes_that_test_lacks_are_left_out_and_two_seeds_or_equal_ones_have_no_interval() -> None:
    labels_N = np.repeat([0, 2], 10).astype(np.int16)
    correct = np.ones((2, 2, 20), bool)
    correct[0, :, :2] = False
    for seeds in (2, 3):
        two = predictions_of(np.repeat(correct[:, :1], seeds, axis=1), labels_N, 3)
        found = class_differences(two, contrast_of(seeds))
        assert [(one.label, one.images, one.mean, one.interval, one.is_constant) for one in found] == [
            (0, 10, 20.0, None, seeds == 3), (2, 10, 0.0, None, False)
        ]  # fmt: skip
    assert class_differences(two, contrast_of(0)) == []


def test_no_interval_of_a_difference_exceeds_a_hundred_points() -> None:
    labels_N = np.repeat(np.arange(4), 2).astype(np.int16)
    correct = np.ones((2, 3, 8), bool)
    correct[1, 0, :2], correct[0, 1, 2:4] = False, False
    found = class_differences(predictions_of(correct, labels_N, 4), contrast_of(3))
    intervals = [one.interval for one in found if one.interval is not None]
    assert [(one.low, one.high) for one in intervals] == [(-100, 100)] * 2


def test_without_any_difference_hardly_a_run_in_twenty_has_a_class_that_differs() -> None:
    rng = np.random.default_rng(0)
    labels_N = (np.arange(400) % 8).astype(np.int16)
    alarms = [
        any(one.is_clear for one in class_differences(predictions_of(correct, labels_N, 8), contrast_of(10)))
        for correct in rng.random((300, 2, 10, 400)) < 0.9
    ]
    assert np.mean(alarms) < 0.08
