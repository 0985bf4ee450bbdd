"""What a run is to decide, declared by its first launch: the reference, the primary contrast, the smallest effect."""

from collections.abc import Sequence
from dataclasses import dataclass

from catdog.formatting import format_size, readable_time

REFERENCE, PRIMARY = "baseline", "multi-attention"


@dataclass(frozen=True)
class Declaration:
    """Which contrasts a run tests, and what it takes for no difference."""

    reference: str
    """The label of the variant that all others are compared with."""
    primary: str | None
    """The label whose contrast is tested alone at 5 %; None if the run has no other variant than the reference."""
    smallest_effect: float | None = None
    """The smallest difference of Test accuracy that matters, in percentage points."""
    looks: tuple[int, ...] = ()
    """After how many of the planned seeds the sweep may stop (`--until-decided`); none if it runs all of them."""
    seeds: tuple[int, ...] = ()
    """The planned seeds in their order, if there are looks; at the last look all have ended."""
    declared_at: str | None = None
    """None if nobody declared it: it follows from the labels."""

    @property
    def when(self) -> str:
        """Return when it was declared, as `on 2026-01-01 20:00 UTC`."""
        return f"on {readable_time(self.declared_at or '')}"

    @property
    def words(self) -> str:
        """Return what is declared, as a phrase."""
        contrast = "none" if self.primary is None else f"{self.primary} − {self.reference}"
        effect = "none" if self.smallest_effect is None else f"{format_size(self.smallest_effect)} points"
        looks = f", looks after {', '.join(map(str, self.looks))} seeds" if self.looks else ""
        return f"primary contrast {contrast}, smallest effect that matters {effect}{looks}"

    def problem(self, labels: Sequence[str]) -> str | None:
        """Return why a run of these variants cannot have declared this, or None."""
        if self.reference not in labels or self.primary not in (None, *labels) or self.primary == self.reference:
            return "the declared reference and primary variant are not two of its variants"
        if self.smallest_effect is not None and not 0 < self.smallest_effect <= 100:
            return f"the smallest effect is {self.smallest_effect}"
        if self.looks and not (list(self.looks) == sorted(set(self.looks)) and self.looks[-1] == len(self.seeds)):
            return "its looks are not at rising numbers of its seeds"
        if len(set(self.seeds)) < len(self.seeds) or any(not 0 <= seed < 10**9 for seed in self.seeds):
            return "its planned seeds are listed twice, or beyond 0 to 999999999"
        return None


def by_rule(labels: Sequence[str], reference: str | None = None, primary: str | None = None) -> Declaration:
    """Return what follows from a run's labels where nothing else is given.

    The reference is the baseline if there is one, else the first variant; primary is multi-attention, else the first
    other variant.
    """
    reference = reference or (REFERENCE if REFERENCE in labels else labels[0])
    others = [label for label in labels if label != reference]
    return Declaration(reference, primary or (PRIMARY if PRIMARY in others else next(iter(others), None)))
