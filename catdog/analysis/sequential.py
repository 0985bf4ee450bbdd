"""A test of paired differences that may stop at planned looks, exact for the signs of the differences.

Shapes: n pairs, K looks, S possible sums. Sources: O'Brien & Fleming 1979, Lan & DeMets 1983 (spending the level),
Jennison & Turnbull 1989 (p-values and intervals that hold at every look).

As in `sign_flips`, the signs of the differences from the true mean are chance. Flip them seed by seed, and the sum
walks at random; how often it is beyond a bound at this look, but was not at earlier ones, is counted by convolution. So
the bounds follow from how much of the level may be spent by each look.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
import numpy.typing as npt
import scipy

from catdog.analysis.sign_flips import common_step

Array = npt.NDArray[np.float64]

FINEST = 200
"""Steps of a standard deviation, in which differences are counted that have no common step, or a smaller one."""
SMALLEST_LEVEL = 1e-6
LARGEST_LEVELS = (0.3, 0.9999)
"""Up to the first, a larger level never rejects less; near 1 it may, since the first look has spent all of it."""
LEVEL_STEPS = 30
"""Of the search for a p-value, which halves the range each time: to a fraction of 1e-8."""


def spent(fraction: float, level: float) -> float:
    """Return how much of `level` may be spent by a fraction of the planned pairs: hardly any of it early."""
    return float(2 * scipy.stats.norm.sf(scipy.stats.norm.isf(level / 2) / math.sqrt(min(fraction, 1.0))))


@dataclass(frozen=True)
class Walk:
    """The sums of the differences' flipped signs, up to each look that was taken."""

    counts: npt.NDArray[np.int64]
    """The differences from the mean under test, in the order of the planned seeds, in steps."""
    ends: tuple[int, ...]
    """Pairs up to each look."""
    fractions: tuple[float, ...]
    """These, of the pairs of the whole design."""
    two_sided: bool
    tails_KS: tuple[Array, ...]
    """At each look, the share of walks whose sum is at least as large, by sum."""

    @classmethod
    def of(
        cls, differences: Array, ends: Sequence[int], planned: int, two_sided: bool = True, is_over: bool = False
    ) -> Self:
        """Return the walks of `differences` (n,) with looks after `ends` pairs, of a design of `planned` pairs.

        If the design `is_over`, its last look spends all that is left, though pairs were lost.
        """
        counts = _in_steps(differences)
        ends = tuple(dict.fromkeys(end for end in ends if end))  # a look whose seeds are all lost is none
        fractions = tuple(end / (ends[-1] if is_over and end == ends[-1] else planned) for end in ends)
        shares_S, done, tails = _at_zero(counts), 0, []
        for end in ends:
            shares_S, done = _flipped(shares_S, counts[done:end]), end
            tails.append(np.cumsum(shares_S[::-1])[::-1])
        return cls(counts, ends, fractions, two_sided, tuple(tails))

    @cached_property
    def p_values(self) -> list[float]:
        """Return the p of each look as if it were the only one."""
        zero = len(_at_zero(self.counts)) // 2
        sums = [int(self.counts[:end].sum()) for end in self.ends]
        if self.two_sided:
            sums = [abs(one) for one in sums]
        return [min(1.0, (1 + self.two_sided) * float(t[zero + s])) for t, s in zip(self.tails_KS, sums, strict=True)]

    def nominal_levels(self, level: float) -> list[float]:
        """Return, for each look, the largest p of it alone that rejects: all looks together reject `level` at most.

        What a look cannot spend, because sums are whole, is not handed on to the next: with it, a larger level could
        reject less. So a level, unless it is near 1, rejects exactly if it is above `p`.
        """
        shares_S, done, before, levels = _at_zero(self.counts), 0, 0.0, []
        for end, fraction, tail_S in zip(self.ends, self.fractions, self.tails_KS, strict=True):
            shares_S, done = _flipped(shares_S, self.counts[done:end]), end
            left = (1 + self.two_sided) * np.cumsum(shares_S[::-1])
            may_spend = spent(fraction, level)
            beyond = int(np.searchsorted(left, may_spend - before, side="right"))
            beyond, before = min(beyond, len(shares_S) // 2), may_spend
            if beyond:
                shares_S[-beyond:] = 0.0
                if self.two_sided:
                    shares_S[:beyond] = 0.0
            levels.append(float((1 + self.two_sided) * tail_S[-beyond]) if beyond else 0.0)
        return levels

    def rejects(self, level: float) -> bool:
        """Return whether any look so far rejects at `level`."""
        pairs = zip(self.p_values, self.nominal_levels(level), strict=True)
        return any(p <= nominal * (1 + 1e-9) for p, nominal in pairs)

    def p(self) -> float:
        """Return the smallest level, from `SMALLEST_LEVEL` on, at which any look so far rejects; 1 if none does."""
        largest = next((level for level in LARGEST_LEVELS if self.rejects(level)), None)
        if largest is None:
            return 1.0
        low, high = math.log(SMALLEST_LEVEL), math.log(largest)
        for _ in range(LEVEL_STEPS):
            middle = (low + high) / 2
            low, high = (low, middle) if self.rejects(math.exp(middle)) else (middle, high)
        return math.exp(high)


def _in_steps(differences: Array) -> npt.NDArray[np.int64]:
    step = common_step(differences)
    spread = float(np.sqrt((differences**2).mean())) if len(differences) else 0.0
    if step is None or spread > FINEST * step:
        step = spread / FINEST
    return np.rint(differences / step).astype(np.int64)


def _at_zero(counts: npt.NDArray[np.int64]) -> Array:
    """Return the shares (S,) of the sums before the first pair: all walks are at zero, in the middle."""
    shares_S = np.zeros(2 * int(np.abs(counts).sum()) + 1)
    shares_S[len(shares_S) // 2] = 1.0
    return shares_S


def _flipped(shares_S: Array, counts: npt.NDArray[np.int64]) -> Array:
    for count in np.abs(counts[counts != 0]).tolist():
        half_S, shares_S = shares_S / 2, np.zeros_like(shares_S)
        shares_S[count:] += half_S[:-count]
        shares_S[:-count] += half_S[count:]
    return shares_S
