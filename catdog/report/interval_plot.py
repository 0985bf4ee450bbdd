"""Means with their intervals, one for each row of a table of the page: names wrap, so none is cut.

Positions are percentages of the plot's width, which may be any; the page draws them (`page.html`).
"""

import math
from collections.abc import Sequence
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
    """The estimates of a table's rows, on one axis."""

    estimates: tuple[Estimate, ...]
    low: float
    """Where the axis begins: a round number, as `high`."""
    high: float
    smallest_effect: float | None = None
    """Below, on either side of zero, a difference does not matter."""

    @classmethod
    def of(cls, estimates: Sequence[Estimate], smallest_effect: float | None = None) -> "IntervalPlot":
        """Return the plot whose axis holds all estimates, their intervals, zero and the smallest effect."""
        ends = [0.0, smallest_effect or 0.0, -(smallest_effect or 0.0)]
        for one in estimates:
            intervals = filter(None, (one.interval, one.wider))
            ends += [one.mean, *(end for found in intervals for end in (found.low, found.high))]
        low = min(ends)
        high = max(ends) if max(ends) > low else 1.0
        step = _step(high - low)
        return cls(tuple(estimates), step * math.floor(low / step), step * math.ceil(high / step), smallest_effect)

    def at(self, value: float) -> str:
        """Return where a value lies, in percent of the width."""
        return f"{100 * (value - self.low) / (self.high - self.low):.2f}%"

    @property
    def band(self) -> tuple[str, str] | None:
        """Return where the differences that do not matter begin, and how wide they are; None without a smallest one."""
        if self.smallest_effect is None:
            return None
        share = 2 * self.smallest_effect / (self.high - self.low)
        return self.at(-self.smallest_effect), f"{100 * share:.2f}%"

    def tick_labels(self) -> list[tuple[str, str, str]]:
        """Return where the ends of the axis and zero lie, their labels, and which end of a label stands there."""
        anchors = {self.low: "start", 0.0: "middle", self.high: "end"}
        is_crowded = 0 < min(-self.low, self.high) < 0.15 * (self.high - self.low)
        return [
            (self.at(tick), f"{tick:+g}".replace("-", "−") if tick else "0", anchor)
            for tick, anchor in anchors.items()
            if not (is_crowded and abs(tick) == min(-self.low, self.high))
        ]


def _step(span: float) -> float:
    """Return the round number of which four cover a span."""
    power = 10.0 ** math.floor(math.log10(span / 4))
    return next(power * factor for factor in (1, 2, 2.5, 5, 10) if 4 * power * factor >= span)
