"""What may be said of a list of accuracies. Arrays in, numbers out."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from catdog.records import TrialResult


@dataclass(frozen=True)
class Summary:
    """Mean and sample standard deviation (ddof 1) of n values; None where n is too small for it."""

    n: int
    mean: float | None
    std: float | None


def summarise(values: Sequence[float]) -> Summary:
    """Return n, mean and sample standard deviation of `values` (n,)."""
    array = np.asarray(values, dtype=np.float64)
    return Summary(
        n=len(array),
        mean=float(array.mean()) if len(array) else None,
        std=float(array.std(ddof=1)) if len(array) > 1 else None,
    )


def best_run(results: Sequence[TrialResult]) -> TrialResult | None:
    """Return the run with the highest validation accuracy, of equals the one with the lowest seed; never by test."""
    scored = [result for result in results if result.val_accuracy is not None]
    return max(scored, key=lambda result: (result.val_accuracy or 0.0, -result.seed), default=None)
