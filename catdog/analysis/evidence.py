"""What a contrast's pairs say, whether the sweep ran all its seeds or may have stopped at a look."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from catdog.analysis.intervals import Interval
from catdog.analysis.questions import Difference, Equivalence
from catdog.analysis.sequential import Walk
from catdog.analysis.sign_flips import SubsetMeans
from catdog.analysis.verdicts import Looked

Array = npt.NDArray[np.float64]
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
        nominal = [walk.nominal_levels(level) for walk in self._walks(question)]
        found: Interval | None = None
        for end, levels in zip(self._walks(question)[0].ends, zip(*nominal, strict=True), strict=True):
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
