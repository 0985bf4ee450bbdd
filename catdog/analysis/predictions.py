"""Every complete trial's predictions for the test images, read back from the store.

Shapes: S trials of a variant (its seeds), N test images, K classes.
"""

import functools
import logging
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from catdog.runs.artifacts import SplitPredictions, read_predictions_npz
from catdog.runs.paths import RunPaths
from catdog.runs.status import RunStatus
from catdog.runs.trial_files import Track, read_files, untracked
from catdog.storage import Store

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Predictions:
    """The classes that complete trials predicted for the test images."""

    classes: tuple[str, ...]
    images_N: npt.NDArray[np.str_]
    labels_N: npt.NDArray[np.int16]
    seeds: Mapping[str, tuple[int, ...]]
    """Seeds of the trials included, by variant."""
    predicted_SN: Mapping[str, npt.NDArray[np.int16]]
    """By variant; one row per entry of `seeds`."""
    log_losses: Mapping[str, Mapping[int, float]]
    """Test log-loss in nats, by variant and seed; without trials whose logits float16 could not hold."""

    def correct_SN(self, label: str) -> npt.NDArray[np.bool_]:
        """Return which test images each trial got right."""
        return np.asarray(self.predicted_SN[label] == self.labels_N)

    def class_accuracy_SK(self, label: str) -> npt.NDArray[np.float64]:
        """Return each trial's accuracy on each class's images, in percent."""
        classes = len(self.classes)
        correct = [np.bincount(self.labels_N[correct_N], minlength=classes) for correct_N in self.correct_SN(label)]
        images_K = np.bincount(self.labels_N, minlength=classes)
        return np.asarray(100 * np.reshape(correct, (-1, classes)) / images_K.clip(1))

    def confusion_KK(self, label: str, row: int) -> npt.NDArray[np.int64]:
        """Return one trial's confusion matrix, in images: true classes in rows, predicted classes in columns."""
        return self._confusion_KK(self.predicted_SN[label][row])

    def mean_confusion_KK(self, label: str) -> npt.NDArray[np.float64]:
        """Return the mean of a variant's confusion matrices over its trials."""
        return self._confusion_KK(self.predicted_SN[label]) / len(self.seeds[label])

    @functools.cached_property
    def all_confusions_KK(self) -> npt.NDArray[np.int64]:
        """Return the sum of all trials' confusion matrices."""
        return np.asarray(np.sum([self._confusion_KK(one_SN) for one_SN in self.predicted_SN.values()], axis=0))

    def _confusion_KK(self, predicted: npt.NDArray[np.int16]) -> npt.NDArray[np.int64]:
        """Count predictions (N,) or (S, N) by true and predicted class."""
        classes = len(self.classes)
        cells = self.labels_N.astype(np.int64) * classes + predicted
        return np.bincount(cells.ravel(), minlength=classes**2).reshape(classes, classes)


def read_predictions(store: Store, run_status: RunStatus, track: Track = untracked) -> Predictions | None:
    """Read the predictions of all complete trials, in parallel; None if there are none."""
    found: dict[str, dict[int, npt.NDArray[np.int16]]] = {label: {} for label in run_status.manifest.variants}
    log_losses: dict[str, dict[int, float]] = {label: {} for label in found}
    last: SplitPredictions | None = None
    parse = functools.partial(read_predictions_npz, split="test")
    for result, test in read_files(store, run_status.finished, "predictions.npz", parse, track, run_status.kept):
        found[result.variant][result.seed] = test.predicted_N
        last, log_loss = test, test.log_loss
        if log_loss is not None:
            log_losses[result.variant][result.seed] = log_loss
        else:
            where = RunPaths(run_status.manifest.run).trial(
                run_status.manifest.spec(result.variant).folder, result.seed
            )
            logger.warning("%s: float16 could not hold its logits; its log-loss is left out", where.predictions)
    if last is None:
        return None
    return Predictions(
        classes=last.classes,
        images_N=last.images_N,
        labels_N=last.labels_N,
        seeds={label: tuple(rows) for label, rows in found.items()},
        predicted_SN={
            label: np.array(list(rows.values()), dtype=np.int16).reshape(len(rows), len(last.images_N))
            for label, rows in found.items()
        },
        log_losses=log_losses,
    )
