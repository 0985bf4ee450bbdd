"""Means, standard deviations and their 95 % intervals. Arrays in, numbers out.

Shapes: n values, S seeds, N images. Sources: Satterthwaite 1946 (degrees of freedom of a sum of mean squares), Owen
2007 (two-way data whose effects are of any kind).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy

Array = npt.NDArray[np.float64]

CONFIDENCE = 0.95
FEWEST_FOR_AN_INTERVAL = 3
"""Values; of two, an interval that assumes a distribution is wider than any accuracy."""
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


def bounds(name: str, interval: Interval | None) -> dict[str, float | None]:
    """Return the columns NAME_low and NAME_high of an interval; None in both without one."""
    low, high = (None, None) if interval is None else (interval.low, interval.high)
    return {f"{name}_low": low, f"{name}_high": high}


def summarise(values: Sequence[float] | Array) -> Summary:
    """Return n, mean and sample standard deviation of `values` (n,)."""
    array = np.asarray(values, dtype=np.float64)
    return Summary(
        n=len(array),
        mean=float(array.mean()) if len(array) else None,
        std=float(array.std(ddof=1)) if len(array) > 1 else None,
    )


def t_interval(values: Array) -> Interval | None:
    """Return the 95 % interval of the mean of `values` (n,), assumed normal (Student's t).

    None for fewer than three values, or if all are equal.
    """
    if len(values) < FEWEST_FOR_AN_INTERVAL or are_equal(values):
        return None
    low, high = scipy.stats.t.interval(CONFIDENCE, len(values) - 1, values.mean(), scipy.stats.sem(values))
    return Interval(float(low), float(high))


@dataclass(frozen=True)
class Moments:
    """A mean over seeds and images as a share of the images, the variance of this mean, and its degrees of freedom."""

    mean: float
    variance: float
    freedom: float
    images_add: bool = True
    """Whether images differ by more than chance: if not, the variance is that over seeds alone."""
    seeds_variance: float = 0.0
    """The variance over seeds alone, of `seeds_freedom`: of few seeds, its interval may be the wider one."""
    seeds_freedom: float = math.inf

    @property
    def p(self) -> float:
        """Return the two-sided p of no difference: below `alpha` exactly if the interval excludes zero."""
        if not self.mean:
            return 1.0
        return max(
            float(2 * scipy.stats.t.sf(abs(self.mean) / math.sqrt(variance), freedom)) if variance else 0.0
            for variance, freedom in self._variances
        )

    def interval(self, alpha: float = 1 - CONFIDENCE) -> Interval | None:
        """Return the interval of the mean at 1 − `alpha`, in percentage points; None at level 0."""
        if not alpha:
            return None
        half = max(
            scipy.stats.t.ppf(1 - alpha / 2, freedom) * math.sqrt(variance) for variance, freedom in self._variances
        )
        return Interval(float(100 * (self.mean - half)), float(100 * (self.mean + half)))

    @property
    def _variances(self) -> tuple[tuple[float, float], ...]:
        return (self.variance, self.freedom), (self.seeds_variance, self.seeds_freedom)


def two_way_moments(differences_SN: npt.NDArray[np.int8] | Array) -> Moments | None:
    """Return the moments of the mean of paired differences of right answers, each from -1 to 1.

    Seeds, images and their interaction each have a variance; their mean squares give that of the mean and its degrees
    of freedom. None for fewer than three seeds, or if all differences are 0.
    """
    seeds, images = differences_SN.shape
    if seeds < FEWEST_FOR_AN_INTERVAL or images < 2 or not differences_SN.any():
        return None
    by_seed_S, by_image_N = differences_SN.mean(axis=1), differences_SN.mean(axis=0)
    mean = float(by_seed_S.mean())
    squares = np.array([images * ((by_seed_S - mean) ** 2).sum(), seeds * ((by_image_N - mean) ** 2).sum()])
    total = float(np.square(differences_SN).sum(dtype=np.float64)) - seeds * images * mean**2
    freedoms = np.array([seeds - 1, images - 1, (seeds - 1) * (images - 1)])
    of_seeds, of_images, of_both = np.array([*squares, total - squares.sum()]) / freedoms
    images_add = True
    if of_images > of_both:
        variance = of_seeds + of_images - of_both
        freedom = variance**2 / (np.array([of_seeds, of_images, of_both]) ** 2 / freedoms).sum()
    elif are_equal(by_seed_S):  # nor do seeds: by luck, which the interaction measures
        variance, freedom = of_both, freedoms[2]
    else:  # images make no difference beyond chance
        variance, freedom, images_add = of_seeds, freedoms[0], False
    variance = max(0.0, float(variance))  # rounding may leave less than 0
    over_seeds = float(of_seeds) / (seeds * images), float(freedoms[0])
    return Moments(mean, variance / (seeds * images), float(freedom), images_add, *over_seeds)


def weighted_moments(parts: Sequence[tuple[float, Moments]]) -> Moments:
    """Return the moments of a sum of independent means with weights: variances add (Satterthwaite 1946)."""
    mean = sum(weight * one.mean for weight, one in parts)
    both = _sum_of([(weight**2 * one.variance, one.freedom) for weight, one in parts])
    over_seeds = _sum_of([(weight**2 * one.seeds_variance, one.seeds_freedom) for weight, one in parts])
    return Moments(mean, *both, True, *over_seeds)


def _sum_of(variances: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Return the sum of variances, each with its degrees of freedom, and those of the sum."""
    total = sum(variance for variance, _ in variances)
    squares = sum(variance**2 / freedom for variance, freedom in variances)
    return total, total**2 / squares if squares else math.inf


def std_interval(values: Sequence[float] | Array) -> Interval | None:
    """Return the 95 % interval of the standard deviation of `values` (n,), assumed normal.

    From the chi-squared distribution of the sample variance. Its ends differ by a factor of 4.8 for n = 5, and of 1.7
    for n = 30. None for fewer than two values, or if all are equal.
    """
    n = len(values)
    if n < 2 or are_equal(values):
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
    if min(len(part), len(whole)) < 2 or are_equal(part) or are_equal(whole):
        return None
    ratio = float(np.var(part, ddof=1) / np.var(whole, ddof=1))
    tail = (1 - CONFIDENCE) / 2
    low, high = (float(scipy.stats.f.ppf(share, len(part) - 1, len(whole) - 1)) for share in (tail, 1 - tail))
    return ratio, Interval(ratio / high, ratio / low)


def are_equal(values: Sequence[float] | Array) -> bool:
    """Return whether `values` (n,) differ by no more than rounding error."""
    return bool(np.ptp(values) < 10.0**-DIGITS)
