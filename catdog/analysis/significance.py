"""Families of tests, and what else is said of paired accuracies. Arrays in, numbers out.

Shapes: n pairs or values. Sources: Holm 1979, Agarwal 2021 (probability of improvement).
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import scipy

from catdog.analysis.intervals import FEWEST_FOR_AN_INTERVAL, are_equal

Array = npt.NDArray[np.float64]
SIGNIFICANCE = 0.05


def smallest_p(n: int) -> float:
    """Return the smallest p that a two-sided sign-flip test of n pairs can give."""
    return min(1.0, 2.0 ** (1 - n))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p-values of a family, adjusted by Holm's step-down method."""
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(np.argsort(p_values, kind="stable")):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def holm_levels(p_values: Sequence[float]) -> list[float]:
    """Return the level at which each of a family is tested: `SIGNIFICANCE` / m for the smallest p, then / (m − 1), ….

    From the first that is not rejected on, all have its level. So p is below its level exactly if the adjusted p is
    below `SIGNIFICANCE`, and an interval at this level excludes zero exactly then.
    """
    levels, level, rejecting = [0.0] * len(p_values), SIGNIFICANCE, True
    for rank, index in enumerate(np.argsort(p_values, kind="stable")):
        if rejecting:
            level = SIGNIFICANCE / (len(p_values) - rank)
            rejecting = p_values[index] < level
        levels[index] = level
    return levels


def probability_of_improvement(ours: Array, theirs: Array) -> float | None:
    """Return the probability that a random one of `ours` (n,) exceeds one of `theirs` (m,); ties count half."""
    if not (len(ours) and len(theirs)):
        return None
    return float(scipy.stats.mannwhitneyu(ours, theirs).statistic / (len(ours) * len(theirs)))


def correlation(ours: Array, theirs: Array) -> float | None:
    """Return Pearson's correlation of pairs (n,), (n,); None for fewer than three, or if one side is constant.

    It measures the gain from pairing, which multiplies the variance of a difference by 1 - correlation.
    """
    if len(ours) < FEWEST_FOR_AN_INTERVAL or are_equal(ours) or are_equal(theirs):
        return None
    return float(np.corrcoef(ours, theirs)[0, 1])
