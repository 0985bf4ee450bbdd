"""The two questions about a contrast, each a test with its interval, and what pairs answer, also at planned looks."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from catdog.analysis.intervals import Interval
from catdog.analysis.sequential import Walk
from catdog.analysis.sign_flips import SubsetMeans
from catdog.analysis.verdicts import Looked

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


Question = Difference | Equivalence


@dataclass(frozen=True)
class FixedEvidence:
    """The pairs of a sweep whose number of seeds was settled before."""

    means: SubsetMeans

    def p(self, question: Question) -> float:
        """Return the p of a question."""
        return question.p(self.means)

    def interval(self, question: Question, level: float) -> Interval | None:
        """Return the question's interval; it answers the question exactly if p is below `level`."""
        return question.interval(self.means, level)

    def alpha(self, level: float) -> float:
        """Return the level of an interval by another method that belongs to these pairs."""
        return level


@dataclass(frozen=True)
class LookEvidence:
    """The pairs of a sweep that may stop at looks: p and intervals hold at every look, however it went on."""

    differences: Array
    """In points, in the order in which looks counted them."""
    ends: Sequence[int]
    """Pairs up to each look that was taken."""
    planned: int
    """Pairs of the whole design."""
    is_over: bool
    """Whether no look is left."""
    rng: np.random.Generator

    def p(self, question: Question) -> float:
        """Return the smallest level at which any look so far would have answered the question; 1 before the first."""
        return max(walk.p() for walk in self._walks(question))

    def interval(self, question: Question, level: float) -> Interval | None:
        """Return what the intervals of all looks share, each at the level that its look may spend; None before any."""
        walks = self._walks(question)
        nominal = [walk.nominal_levels(level) for walk in walks]
        found: Interval | None = None
        for end, levels in zip(walks[0].ends, zip(*nominal, strict=True), strict=True):
            means = SubsetMeans.of(self.differences[:end], self.rng)
            below, above = (question.interval(means, one * (1 + 1e-9)) for one in (levels[0], levels[-1]))
            if below is None or above is None:
                continue
            here = Interval(below.low, above.high)  # of two one-sided tests, the first bounds it from below
            both = here if found is None else Interval(max(found.low, here.low), min(found.high, here.high))
            found = both if both.low <= both.high else here
        return found

    def alpha(self, level: float) -> float:
        """Return the level of an interval by another method at the last look; 0 before the first."""
        return next(reversed(self._walks(Difference())[0].nominal_levels(level)), 0.0)

    def _walks(self, question: Question) -> list[Walk]:
        return [
            Walk.of(differences, self.ends, self.planned, two_sided, self.is_over)
            for differences, two_sided in question.hypotheses(self.differences)
        ]


Evidence = FixedEvidence | LookEvidence


def evidence_of(differences: Array, seeds: Sequence[int], looked: Looked | None, rng: np.random.Generator) -> Evidence:
    """Return what the differences (n,) of pairs with these seeds say."""
    if looked is None:
        return FixedEvidence(SubsetMeans.of(differences, rng))
    ends = [sum(seed in counted for seed in seeds) for counted in looked.seeds]
    return LookEvidence(differences, ends, looked.planned, looked.next is None, rng)
