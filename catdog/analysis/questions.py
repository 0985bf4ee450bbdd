"""The two questions about a contrast, each a test with the interval that belongs to it."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from catdog.analysis.intervals import Interval
from catdog.analysis.sign_flips import SubsetMeans

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Difference:
    """Is there a difference?"""

    def p(self, means: SubsetMeans) -> float:
        """Return the two-sided p of no difference."""
        return means.p()

    def interval(self, means: SubsetMeans, level: float) -> Interval | None:
        """Return the interval that excludes zero exactly if p is below `level`."""
        return means.interval(level)

    def hypotheses(self, differences: Array) -> list[tuple[Array, bool]]:
        """Return what is tested: the differences from the mean under test, and whether on both sides."""
        return [(differences, True)]

    def answer(self, interval: Interval | None) -> str | None:
        """Return `better` or `worse`, or None if the interval says neither."""
        return None if interval is None or not interval.excludes_zero else "better" if interval.low > 0 else "worse"


@dataclass(frozen=True)
class Equivalence:
    """Is the difference smaller than what matters? Two one-sided tests, each at the level (Schuirmann 1987)."""

    smallest_effect: float
    """In points."""

    def p(self, means: SubsetMeans) -> float:
        """Return the larger p of the two."""
        return max(means.p_above(-self.smallest_effect), means.p_below(self.smallest_effect))

    def interval(self, means: SubsetMeans, level: float) -> Interval | None:
        """Return the interval that lies between ± the smallest effect exactly if p is below `level`."""
        return means.interval(2 * level)

    def hypotheses(self, differences: Array) -> list[tuple[Array, bool]]:
        """Return what is tested: that the mean is at most minus the smallest effect, and that it is at least that."""
        return [(differences + self.smallest_effect, False), (self.smallest_effect - differences, False)]

    def answer(self, interval: Interval | None) -> str | None:
        """Return `equivalent`, or None if the interval does not say so."""
        effect = self.smallest_effect
        return "equivalent" if interval is not None and -effect < interval.low and interval.high < effect else None
