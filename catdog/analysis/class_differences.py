"""How two variants differ on each class, over seeds, with intervals that hold for all classes together (Bonferroni).

Shapes: S seeds that are complete on both sides, K classes.
"""

from dataclasses import dataclass

import numpy as np
import scipy

from catdog.analysis.intervals import DIGITS, FEWEST_FOR_AN_INTERVAL, Interval
from catdog.analysis.predictions import Predictions
from catdog.analysis.significance import SIGNIFICANCE
from catdog.analysis.verdicts import Contrast


@dataclass(frozen=True)
class ClassDifference:
    """A class's mean Test accuracy of two variants, in percent, and the difference in points."""

    label: int
    images: int
    ours: float
    theirs: float
    mean: float
    interval: Interval | None
    """Of the mean over seeds, at 95 % for all classes together; None for fewer than three seeds, or equal ones."""
    seeds: int

    @property
    def is_clear(self) -> bool:
        """Return whether the difference is told from zero."""
        return self.interval is not None and self.interval.excludes_zero

    @property
    def is_constant(self) -> bool:
        """Return whether all seeds, three or more, have the same difference, which is not zero."""
        return self.interval is None and self.seeds >= FEWEST_FOR_AN_INTERVAL and abs(self.mean) > 10.0**-DIGITS


def class_differences(predictions: Predictions, contrast: Contrast) -> list[ClassDifference]:
    """Return a contrast's difference on each class that Test has, the largest first; none without pairs.

    The intervals are Student's, each at 95 % / K: with 95 % all of them hold. None exceeds 100 points, which no
    difference of accuracies does.
    """
    names = (contrast.variant, contrast.reference)
    rows = [{seed: row for row, seed in enumerate(predictions.seeds[name])} for name in names]
    seeds = [seed for seed in contrast.seeds if all(seed in there for there in rows)]
    if not seeds:
        return []
    ours_SK, theirs_SK = (
        predictions.class_accuracy_SK(name)[[there[seed] for seed in seeds]]
        for name, there in zip(names, rows, strict=True)
    )
    images_K = np.bincount(predictions.labels_N, minlength=len(predictions.classes))
    difference_SK = ours_SK - theirs_SK
    mean_K = difference_SK.mean(axis=0)
    half_K = np.zeros(len(mean_K))
    if len(seeds) >= FEWEST_FOR_AN_INTERVAL:
        level = SIGNIFICANCE / np.count_nonzero(images_K)
        standard_error_K = difference_SK.std(axis=0, ddof=1) / np.sqrt(len(seeds))
        half_K = scipy.stats.t.isf(level / 2, len(seeds) - 1) * standard_error_K
    low_K, high_K = (np.clip(end_K, -100, 100) for end_K in (mean_K - half_K, mean_K + half_K))
    found = [
        ClassDifference(
            k,
            int(images_K[k]),
            float(ours_SK[:, k].mean()),
            float(theirs_SK[:, k].mean()),
            float(mean_K[k]),
            Interval(float(low_K[k]), float(high_K[k])) if half_K[k] > 10.0**-DIGITS else None,
            len(seeds),
        )
        for k in np.flatnonzero(images_K).tolist()
    ]
    return sorted(found, key=lambda one: -one.mean)
