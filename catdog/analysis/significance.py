"""Families of tests, and what else is said of paired accuracies. Arrays in, numbers out.

Shapes: n pairs or values. Sources: Holm 1979, Mogstad 2024 (ranks), Agarwal 2021 (probability of
improvement).
"""

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import scipy

from catdog.analysis.intervals import DIGITS, FEWEST_FOR_AN_INTERVAL, are_equal

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


def holm_levels(p_values: Sequence[float], alphas: Sequence[Callable[[float], float]] | None = None) -> list[float]:
    """Return the level at which each of a family is tested: `SIGNIFICANCE` / m for the smallest p, then / (m − 1), ….

    From the first that is not rejected on, all have its level. So p is below its level exactly if the adjusted p is
    below `SIGNIFICANCE`, and an interval at this level excludes zero exactly then. Where a test may spend only
    some of its level, `alphas` return how much.
    """
    levels, level, rejecting = [0.0] * len(p_values), SIGNIFICANCE, True
    for rank, index in enumerate(np.argsort(p_values, kind="stable")):
        if rejecting:
            level = SIGNIFICANCE / (len(p_values) - rank)
            rejecting = p_values[index] < (level if alphas is None else alphas[index](level))
        levels[index] = level
    return levels


def rank_intervals(samples: Sequence[Array]) -> list[tuple[int, int]]:
    """Return between which ranks each of `samples` (n,) lies by its variance, 1 being the largest, all at 95 %.

    It ranks behind those that have a larger variance, and before those that have a smaller one, by F tests of all pairs
    with Holm's method (Mogstad 2024). Assumes normal samples.
    """
    pairs = list(itertools.combinations(range(len(samples)), 2))
    step = _smallest_step(samples)
    adjusted = holm([_variances_p(samples[one], samples[other], step) for one, other in pairs])
    behind, before = [0] * len(samples), [0] * len(samples)
    for (one, other), p in zip(pairs, adjusted, strict=True):
        if p < SIGNIFICANCE:
            larger, smaller = (one, other) if np.var(samples[one]) > np.var(samples[other]) else (other, one)
            behind[smaller] += 1
            before[larger] += 1
    return [(1 + more, len(samples) - less) for more, less in zip(behind, before, strict=True)]


def _variances_p(first: Array, second: Array, step: float) -> float:
    """Return the two-sided p of equal variances; 1 if either has fewer than two values.

    Values that tie may still differ by less than a `step`: their variance is taken for that of rounding to it.
    """
    if min(len(first), len(second)) < 2 or not step:
        return 1.0
    ours, theirs = (max(float(np.var(one, ddof=1)), step**2 / 12) for one in (first, second))
    below = scipy.stats.f.cdf(ours / theirs, len(first) - 1, len(second) - 1)
    return float(2 * min(below, 1 - below))


def _smallest_step(samples: Sequence[Array]) -> float:
    """Return the smallest distance of two values of any sample; 0 if all are equal."""
    steps = np.diff(np.sort(np.concatenate(samples)))
    return float(min(steps[steps >= 10.0**-DIGITS], default=0.0))


def probability_of_improvement(ours: Array, theirs: Array) -> float | None:
    """Return the probability that a random one of `ours` (n,) exceeds one of `theirs` (m,); ties count half."""
    if not (len(ours) and len(theirs)):
        return None
    return float(scipy.stats.mannwhitneyu(ours, theirs).statistic / (len(ours) * len(theirs)))


def correlation(ours: Array, theirs: Array) -> float | None:
    """Return Pearson's correlation of pairs (n,), (n,); None for fewer than three, or if one side is constant.

    It measures the gain from pairing, which multiplies the variance of a difference by 1 - correlation if both sides
    spread alike, and gains less if they do not.
    """
    if len(ours) < FEWEST_FOR_AN_INTERVAL or are_equal(ours) or are_equal(theirs):
        return None
    return float(np.corrcoef(ours, theirs)[0, 1])
