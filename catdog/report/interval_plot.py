"""Means with their intervals, one for each row of a table of the page: names wrap, so none is cut.

Positions are percentages of the plot's width, which may be any; the page draws them (`page.html`).
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from catdog.analysis.intervals import Interval


@dataclass(frozen=True)
class Estimate:
    """A mean, and what is known of it."""

    mean: float
    interval: Interval | None
    wider: Interval | None = None
    """One that covers more than `interval` does."""
    is_clear: bool = False
    """Whether it is told from zero."""


@dataclass(frozen=True)
class IntervalPlot:
    """The estimates of a table's rows on one axis, with zero in its middle."""

    estimates: tuple[Estimate | None, ...]
    """None: a row without one."""
    reach: float
    """Where the axis ends on both sides: a round number."""
    key: Mapping[str, str]
    """What the marks mean, by kind: `open` and `clear` means, `own` and `wider` intervals, a `small` difference."""
    smallest_effect: float | None = None
    """Below, on either side of zero, a difference does not matter."""

    @classmethod
    def of(
        cls, estimates: Sequence[Estimate | None], key: Mapping[str, str], smallest_effect: float | None = None
    ) -> "IntervalPlot":
        """Return the plot whose axis holds all estimates, their intervals and the smallest effect."""
        drawn = [one for one in estimates if one is not None]
        intervals = {"own": [one.interval for one in drawn], "wider": [one.wider for one in drawn]}
        ends = [smallest_effect or 0.0, *(one.mean for one in drawn)]
        ends += [end for found in itertools.chain(*intervals.values()) if found for end in (found.low, found.high)]
        kinds = {"clear" if one.is_clear else "open" for one in drawn}
        kinds |= {kind for kind, found in intervals.items() if any(found)}
        kinds |= set() if smallest_effect is None else {"small"}
        reach = _round_up(max(map(abs, ends)) or 1.0)
        return cls(
            tuple(estimates), reach, {kind: words for kind, words in key.items() if kind in kinds}, smallest_effect
        )

    def at(self, value: float) -> str:
        """Return where a value lies, in percent of the width."""
        return f"{50 + 50 * value / self.reach:.2f}%"

    @property
    def band(self) -> tuple[str, str] | None:
        """Return where the differences that do not matter begin, and how wide they are; None without a smallest one."""
        if self.smallest_effect is None:
            return None
        return self.at(-self.smallest_effect), f"{100 * self.smallest_effect / self.reach:.2f}%"

    def tick_labels(self) -> list[tuple[str, str]]:
        """Return where five ticks lie, and their labels."""
        ticks = [share * self.reach for share in (-1.0, -0.5, 0.0, 0.5, 1.0)]
        return [(self.at(tick), f"{tick:+g}".replace("-", "−") if tick else "0") for tick in ticks]


def _round_up(value: float) -> float:
    """Return the next number that is round, as its half is."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(float(f"{power * factor:g}") for factor in (1, 2, 3, 4, 5, 6, 8, 10) if power * factor >= value)
