"""Means, standard deviations and their 95 % intervals. Arrays in, numbers out.

Shapes: n values, S seeds, N images, R resamples. All randomness comes from the caller's generator. Sources: Efron 1987
(BCa intervals), Owen 2007 (two-way resampling, the "pigeonhole bootstrap").
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy

Array = npt.NDArray[np.float64]

CONFIDENCE = 0.95
RESAMPLES = 10_000
AT_ONCE = 250
"""Resamples of all images held in memory."""
FEWEST_FOR_AN_INTERVAL = 3
"""Values; resampling fewer tells no more than the values themselves."""
DIGITS = 9
"""Decimal places. Accuracies are fractions of counted images: any smaller difference is rounding error."""


@dataclass(frozen=True)
class Summary:
    """Mean and sample standard deviation (ddof 1) of n values; None where n is too small."""

    n: int
    mean: float | None
    std: float | None


@dataclass(frozen=True)
class Interval:
    """A confidence interval."""

    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Return whether zero lies outside the interval."""
        return self.low > 0 or self.high < 0


def summarise(values: Sequence[float] | Array) -> Summary:
    """Return n, mean and sample standard deviation of `values` (n,)."""
    array = np.asarray(values, dtype=np.float64)
    return Summary(
        n=len(array),
        mean=float(array.mean()) if len(array) else None,
        std=float(array.std(ddof=1)) if len(array) > 1 else None,
    )


def mean_interval(values: Array, rng: np.random.Generator) -> Interval | None:
    """Return the 95 % BCa bootstrap interval of the mean of `values` (n,).

    None for fewer than three values, or if all are equal: resampling then tells nothing.
    """
    if len(values) < FEWEST_FOR_AN_INTERVAL or are_equal(values):
        return None
    result = scipy.stats.bootstrap(
        (values,), np.mean, confidence_level=CONFIDENCE, n_resamples=RESAMPLES, method="BCa", rng=rng
    )
    low, high = result.confidence_interval
    return Interval(float(low), float(high))


def t_interval(values: Array) -> Interval | None:
    """Return the 95 % interval of the mean of `values` (n,), assumed normal (Student's t).

    Of a few values it is as wide as it must be, where a bootstrap's is too narrow. None for fewer than three values, or
    if all are equal.
    """
    if len(values) < FEWEST_FOR_AN_INTERVAL or are_equal(values):
        return None
    low, high = scipy.stats.t.interval(CONFIDENCE, len(values) - 1, values.mean(), scipy.stats.sem(values))
    return Interval(float(low), float(high))


def two_way_interval(differences_SN: npt.NDArray[np.int8], rng: np.random.Generator) -> Interval | None:
    """Return the 95 % percentile interval of the mean, in percentage points, resampling both seeds and images.

    `differences_SN` is 1 where only our model is right, -1 where only the other is, else 0. None for fewer than three
    seeds, or if all differences are 0.
    """
    seeds, images = differences_SN.shape
    if seeds < FEWEST_FOR_AN_INTERVAL or not differences_SN.any():
        return None
    resamples = RESAMPLES // 2
    picked_RS = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=resamples).astype(np.float32)
    means = np.empty(resamples)
    for first in range(0, resamples, AT_ONCE):  # sums of a few small integers, exact in any order
        by_image_RN = picked_RS[first : first + AT_ONCE] @ differences_SN.astype(np.float32)
        for row, by_image_N in enumerate(by_image_RN, start=first):
            means[row] = by_image_N[rng.integers(images, size=images)].mean()
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(100 * means / seeds, [tail, 100 - tail])
    return Interval(float(low), float(high))


def std_interval(values: Sequence[float] | Array) -> Interval | None:
    """Return the 95 % interval of the standard deviation of `values` (n,), assumed normal.

    From the chi-squared distribution of the sample variance. Its ends differ by a factor of 4.8 for n = 5, and of 1.7
    for n = 30. None for fewer than two values, or if all are equal.
    """
    n = len(values)
    if n < 2 or np.ptp(values) == 0:
        return None
    tail = (1 - CONFIDENCE) / 2
    squares = np.var(values, ddof=1) * (n - 1)
    low, high = (float(np.sqrt(squares / scipy.stats.chi2.ppf(share, n - 1))) for share in (1 - tail, tail))
    return Interval(low, high)


def variance_share(part: Sequence[float] | Array, whole: Sequence[float] | Array) -> tuple[float, Interval] | None:
    """Return the ratio of the variances of `part` (n,) and `whole` (m,), both assumed normal, and its 95 % interval.

    From the F distribution of the ratio of two sample variances. None if either has fewer than two values, or a
    variance of 0.
    """
    if min(len(part), len(whole)) < 2 or np.ptp(part) == 0 or np.ptp(whole) == 0:
        return None
    ratio = float(np.var(part, ddof=1) / np.var(whole, ddof=1))
    tail = (1 - CONFIDENCE) / 2
    low, high = (float(scipy.stats.f.ppf(share, len(part) - 1, len(whole) - 1)) for share in (tail, 1 - tail))
    return ratio, Interval(ratio / high, ratio / low)


def are_equal(values: Array) -> bool:
    """Return whether `values` (n,) differ by no more than rounding error."""
    return bool(np.ptp(values) < 10.0**-DIGITS)
