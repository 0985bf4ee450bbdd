"""The sign-flip test of a paired mean, and the interval that belongs to it. Arrays in, numbers out.

Shapes: n pairs, R subsets, S possible sums. Sources: Fisher 1935 (the test), Hartigan 1969 (means of subsets).

If the true mean is θ, and a difference lies as likely above θ as below it by the same distance, then the signs of the
differences from θ are chance. Flipping those of a subset A gives a mean at least as large as the observed one exactly
if the mean of A is at most θ. So the means of all 2ⁿ subsets say everything: their share on one side of θ is the p of
θ, and the θ that are not rejected form an interval between two of them.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
import numpy.typing as npt

from catdog.analysis.intervals import DIGITS, Interval

Array = npt.NDArray[np.float64]

RESAMPLES = 10_000
MOST_CELLS = 1 << 23
"""Of the table of subset sums; eight bytes each."""
TOLERANCE = 10.0**-DIGITS
SMALLEST_STEP = 1000 * TOLERANCE


@dataclass(frozen=True)
class SubsetMeans:
    """The means of the subsets of n paired differences."""

    means: Array
    """Sorted."""
    shares: Array
    """How many of all subsets have this mean; with `empty` they sum to one."""
    empty: float
    """The share of the empty subset, which has no mean: flipping nothing is as extreme as what was observed."""

    @classmethod
    def of(cls, differences: Array, rng: np.random.Generator) -> Self:
        """Return the subset means of `differences` (n,).

        All 2ⁿ of them at any n if the differences are multiples of one step, as those of accuracies are, which count
        images; otherwise up to n = 13, and 10,000 random ones above.
        """
        step = common_step(differences)
        size = np.inf if step is None else (len(differences) + 1) * (np.abs(differences).sum() / step + 1)
        if step is not None and size <= MOST_CELLS:
            means, shares, empty = _of_counts(np.rint(differences / step).astype(np.int64))
            means = means * step
        else:
            means, shares, empty = _of_values(differences, rng)
        order = np.argsort(means, kind="stable")
        return cls(means[order].round(DIGITS), shares[order], empty)

    def p_above(self, value: float) -> float:
        """Return the one-sided p of "the true mean is at most `value`", small if it lies above."""
        return float(self._rising[np.searchsorted(self.means, value + TOLERANCE / 2)])

    def p_below(self, value: float) -> float:
        """Return the one-sided p of "the true mean is at least `value`", small if it lies below."""
        return float(self._falling[np.searchsorted(self.means, value - TOLERANCE / 2)])

    def p(self, value: float = 0.0) -> float:
        """Return the two-sided p of "the true mean is `value`"."""
        return min(1.0, 2 * min(self.p_above(value), self.p_below(value)))

    def interval(self, alpha: float) -> Interval | None:
        """Return the true means whose two-sided p is not below `alpha`; None if no p can be."""
        if 2 * self.empty >= alpha:
            return None
        low = self.means[np.argmax(self._rising[1:] >= alpha / 2)]
        high = self.means[::-1][np.argmax(self._falling[-2::-1] >= alpha / 2)]
        return Interval(float(low), float(high))

    @cached_property
    def _rising(self) -> Array:
        """The share of subsets among the first i means, with the empty one."""
        return self.empty + np.concatenate([[0.0], np.cumsum(self.shares)])

    @cached_property
    def _falling(self) -> Array:
        """The share of subsets from the mean i on, with the empty one."""
        return self.empty + np.concatenate([np.cumsum(self.shares[::-1])[::-1], [0.0]])


def common_step(values: Array) -> float | None:
    """Return the largest number of which all `values` (n,) are multiples, any if all are 0; None if there is none."""
    step = 0.0
    for value in sorted(np.abs(values).tolist()):
        rest = value
        while rest > SMALLEST_STEP / 2:  # Euclid's algorithm
            step, rest = rest, step % rest
        if value > step > 0:  # it multiplies rounding errors: undo that, before a larger value does it again
            step = value / round(value / step)
    if step == 0:
        return None if (np.abs(values) > TOLERANCE).any() else 1.0
    fits = np.abs(values / step - np.rint(values / step)) * step < TOLERANCE
    return step if step >= SMALLEST_STEP and fits.all() else None


def _of_counts(counts: npt.NDArray[np.int64]) -> tuple[Array, Array, float]:
    """Return means, shares and the empty subset's share, by convolution over (size of the subset, sum)."""
    n, lowest = len(counts), int(counts[counts < 0].sum())
    shares_nS = np.zeros((n + 1, int(np.abs(counts).sum()) + 1))
    shares_nS[0, -lowest] = 1.0
    low = high = -lowest
    for size, count in enumerate(sorted(counts.tolist(), key=abs), start=1):
        without = shares_nS[:size, low : high + 1] / 2
        shares_nS[:size, low : high + 1] = without
        shares_nS[1 : size + 1, low + count : high + count + 1] += without
        low, high = min(low, low + count), max(high, high + count)
    sizes, sums = np.nonzero(shares_nS[1:])
    return (sums + lowest) / (sizes + 1), shares_nS[1:][sizes, sums], float(shares_nS[0, -lowest])


def _of_values(differences: Array, rng: np.random.Generator) -> tuple[Array, Array, float]:
    """Return means, shares and the empty subset's share, of all subsets if they are few, else of random ones."""
    n = len(differences)
    if 2**n <= RESAMPLES:
        chosen_Rn = (np.arange(1, 2**n)[:, None] >> np.arange(n)) & 1
    else:
        chosen_Rn = rng.integers(0, 2, (RESAMPLES - 1, n))
    sizes_R = chosen_Rn.sum(axis=1)
    means_R = (chosen_Rn @ differences)[sizes_R > 0] / sizes_R[sizes_R > 0]
    share = 1 / (len(chosen_Rn) + 1)
    return means_R, np.full(len(means_R), share), 1 - share * len(means_R)
