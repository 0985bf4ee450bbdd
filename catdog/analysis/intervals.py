"""Means, deviations and their 95 % intervals. Arrays in, numbers out.

Shapes: n values, S seeds, N images. Everything random comes from the generator that is handed in. Sources: Efron 1987
(BCa intervals), Owen 2007 (resampling in two directions, the "pigeonhole bootstrap").
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy

Array = npt.NDArray[np.float64]

CONFIDENCE = 0.95
RESAMPLES = 10_000
FEWEST_FOR_AN_INTERVAL = 3
"""Values; of fewer nothing can be resampled that would say more than the values do."""
DIGITS = 9
"""Behind the point. Accuracies are shares of counted images: what differs less is equal, but for rounding."""


@dataclass(frozen=True)
class Summary:
    """Mean and sample standard deviation (ddof 1) of n values; None where n is too small for it."""

    n: int
    mean: float | None
    std: float | None


@dataclass(frozen=True)
class Interval:
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
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

    None where there are fewer than three values, or all are equal: the resamples then say nothing.
    """
    if len(values) < FEWEST_FOR_AN_INTERVAL or are_equal(values):
        return None
    result = scipy.stats.bootstrap(
        (values,), np.mean, confidence_level=CONFIDENCE, n_resamples=RESAMPLES, method="BCa", rng=rng
    )
    low, high = result.confidence_interval
    return Interval(float(low), float(high))


def two_way_interval(differences_SN: npt.NDArray[np.int8], rng: np.random.Generator) -> Interval | None:
    """Return the 95 % percentile interval of the mean when seeds and images are both drawn again.

    `differences_SN` says of each seed and image whether our model is right where the other is not (1), the other way
    round (-1), or neither (0); the interval is in percentage points. None with fewer than three seeds.
    """
    seeds, images = differences_SN.shape
    if seeds < FEWEST_FOR_AN_INTERVAL or not differences_SN.any():
        return None
    resamples = RESAMPLES // 2
    picked_RS = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=resamples).astype(np.float32)
    by_image_RN = picked_RS @ differences_SN.astype(np.float32)
    means = np.empty(resamples)
    for resample in range(resamples):
        means[resample] = by_image_RN[resample, rng.integers(images, size=images)].mean()
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(100 * means / seeds, [tail, 100 - tail])
    return Interval(float(low), float(high))


def std_interval(values: Sequence[float] | Array) -> Interval | None:
    """Return the 95 % interval of the standard deviation of `values` (n,), if they are normal; None where it is 0.

    From the chi-squared distribution of the sample variance; n = 5 leaves a factor of 4.8 between its ends, n = 30 1.7.
    """
    n = len(values)
    if n < 2 or np.ptp(values) == 0:
        return None
    tail = (1 - CONFIDENCE) / 2
    squares = np.var(values, ddof=1) * (n - 1)
    low, high = (float(np.sqrt(squares / scipy.stats.chi2.ppf(share, n - 1))) for share in (1 - tail, tail))
    return Interval(low, high)


def variance_share(part: Sequence[float] | Array, whole: Sequence[float] | Array) -> tuple[float, Interval] | None:
    """Return the variance of `part` (n,) over that of `whole` (m,) and its 95 % interval, if both are normal.

    From the F distribution of the ratio of two sample variances; None where one of them is 0.
    """
    if min(len(part), len(whole)) < 2 or np.ptp(part) == 0 or np.ptp(whole) == 0:
        return None
    ratio = float(np.var(part, ddof=1) / np.var(whole, ddof=1))
    tail = (1 - CONFIDENCE) / 2
    low, high = (float(scipy.stats.f.ppf(share, len(part) - 1, len(whole) - 1)) for share in (tail, 1 - tail))
    return ratio, Interval(ratio / high, ratio / low)


def are_equal(values: Array) -> bool:
    """Return whether `values` (n,) differ by no more than rounding."""
    return bool(np.ptp(values) < 10.0**-DIGITS)
