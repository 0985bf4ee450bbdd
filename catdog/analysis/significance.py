"""Whether a difference is more than luck. Arrays in, numbers out.

Shapes: n pairs or values. Everything random comes from the generator that is handed in. Sources: Ernst 2004
(permutation tests), Holm 1979, Agarwal 2021 (probability of improvement).
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import scipy

from catdog.analysis.intervals import DIGITS, FEWEST_FOR_AN_INTERVAL, RESAMPLES, are_equal

Array = npt.NDArray[np.float64]
SIGNIFICANCE = 0.05
POWER = 0.8


def sign_flip_p(differences: Array, rng: np.random.Generator) -> float | None:
    """Return the two-sided p of the mean of paired `differences` (n,), if each could as well have the other sign.

    Exact, over all 2ⁿ signs, up to n = 13; from 10,000 random ones above. None without differences.
    """
    if not len(differences):
        return None
    if len(differences) == 1:
        return 1.0

    def mean(flipped: Array, axis: int) -> Array:
        """Means that only differ by rounding are equal: an accuracy is a count."""
        return np.asarray(flipped.mean(axis=axis).round(DIGITS))

    result = scipy.stats.permutation_test(
        (differences,), mean, permutation_type="samples", n_resamples=RESAMPLES, vectorized=True, rng=rng
    )
    return float(result.pvalue)


def smallest_p(n: int) -> float:
    """Return the smallest p that n paired differences can give in a two-sided sign-flip test."""
    return min(1.0, 2.0 ** (1 - n))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p-values of a family, adjusted by Holm's step-down method."""
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(np.argsort(p_values, kind="stable")):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def probability_of_improvement(ours: Array, theirs: Array) -> float | None:
    """Return how probably a random one of `ours` (n,) is above a random one of `theirs` (m,); equal counts half."""
    if not (len(ours) and len(theirs)):
        return None
    return float(scipy.stats.mannwhitneyu(ours, theirs).statistic / (len(ours) * len(theirs)))


def correlation(ours: Array, theirs: Array) -> float | None:
    """Return Pearson's correlation of pairs (n,), (n,); None where there are fewer than three, or one side is constant.

    What pairing gains: the variance of a difference is 1 - correlation times what it would be without pairs.
    """
    if len(ours) < FEWEST_FOR_AN_INTERVAL or are_equal(ours) or are_equal(theirs):
        return None
    return float(np.corrcoef(ours, theirs)[0, 1])


def detectable_difference(differences: Array) -> float | None:
    """Return the true mean difference that so many pairs find at 5 % in four of five sweeps.

    That of a paired t-test, at the standard deviation of these `differences` (n,); None where that is 0,
    or there are fewer than three.
    """
    n = len(differences)
    if n < FEWEST_FOR_AN_INTERVAL or are_equal(differences):
        return None
    critical = scipy.stats.t.ppf(1 - SIGNIFICANCE / 2, n - 1)

    def shortfall(shift: float) -> float:
        """`shift` is in standard errors, and searched from below: scipy's noncentral t is not finite far above."""
        return float(scipy.stats.nct.sf(critical, n - 1, shift) + scipy.stats.nct.cdf(-critical, n - 1, shift)) - POWER

    largest = 1.0
    while shortfall(largest) < 0:
        largest *= 2
    return float(scipy.optimize.brentq(shortfall, 0.0, largest) * differences.std(ddof=1) / np.sqrt(n))
