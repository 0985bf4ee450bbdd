"""What a run has used and what that cost: hours of GPUs, or of CPU cores where trials use no GPU.

Everything that is there while a sweep runs is paid for, idle or not; `Meter` integrates both what is there and what
trials use. Each launch of a sweep keeps a record of its own in the store, so that the sum survives the driver. The node
that runs the driver is not counted unless trials run on it.
"""

import dataclasses
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from catdog.records import Launch, Unit


@dataclass(frozen=True)
class Spending:
    """The launches of a run, summed up for one kind of unit."""

    unit: Unit
    unit_hours: float
    """Of all units that were there."""
    busy_hours: Mapping[str, float]
    """Of units that a trial was using, by variant."""
    cost: float | None
    """In the currency of --hourly-price; None where a launch has no price."""
    variant_costs: Mapping[str, float] | None
    """The busy part of the cost, by variant; what is missing from `cost` was idle."""

    @property
    def idle_share(self) -> float | None:
        """The share of the hours in which a unit was there and no trial used it; None before anything was."""
        if not self.unit_hours:
            return None
        return max(0.0, 1 - sum(self.busy_hours.values()) / self.unit_hours)


def summarise_spending(launches: Sequence[Launch]) -> list[Spending]:
    """Return the sums, one entry for every kind of unit that was used."""
    return [
        _sum(unit, [launch for launch in launches if launch.unit == unit])
        for unit in dict.fromkeys(launch.unit for launch in launches)
    ]


def launch_cost(launch: Launch, hourly_price: float | None = None) -> float:
    """Return what a launch cost, at its own price or else at this one; 0 where there is neither."""
    return launch.unit_hours * (launch.hourly_price or hourly_price or 0.0)


def spending_lines(launches: Sequence[Launch]) -> list[str]:
    """Return what was used, and what that cost where there is a price: one line for each kind of unit."""
    lines = []
    for spending in summarise_spending(launches):
        unit = "GPU" if spending.unit == "GPU" else "core"
        idle = "" if spending.idle_share is None else f", {spending.idle_share:.0%} of them idle"
        cost = ""
        if spending.cost is not None and spending.variant_costs is not None:
            shares = [f"{label} {amount:.2f}" for label, amount in spending.variant_costs.items()]
            shares.append(f"idle {spending.cost - sum(spending.variant_costs.values()):.2f}")
            cost = f", cost {spending.cost:.2f} ({', '.join(shares)})"
        count = sum(launch.unit == spending.unit for launch in launches)
        lines.append(f"{spending.unit_hours:.2f} {unit}-hours in {count} launch{'es' * (count > 1)}{idle}{cost}")
    return lines


def _sum(unit: Unit, launches: Sequence[Launch]) -> Spending:
    busy: defaultdict[str, float] = defaultdict(float)
    costs: defaultdict[str, float] = defaultdict(float)
    for launch in launches:
        for label, hours in launch.busy_hours.items():
            busy[label] += hours
            costs[label] += hours * (launch.hourly_price or 0.0)
    priced = all(launch.hourly_price is not None for launch in launches)
    return Spending(
        unit=unit,
        unit_hours=sum(launch.unit_hours for launch in launches),
        busy_hours=dict(busy),
        cost=sum(map(launch_cost, launches)) if priced else None,
        variant_costs=dict(costs) if priced else None,
    )


class Meter:
    """Measures one launch of a sweep while it runs. Called from several threads."""

    def __init__(
        self,
        launch: Launch,
        units_per_trial: float,
        count_units: Callable[[], float],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`count_units` returns how many units the cluster has now."""
        self._launch = launch
        self._units_per_trial = units_per_trial
        self._count_units = count_units
        self._clock = clock
        self._lock = threading.Lock()
        self._began = self._read_at = clock()
        self._running: dict[tuple[str, int], float] = {}
        self._unit_seconds = 0.0
        self._busy_seconds: defaultdict[str, float] = defaultdict(float)
        self._closed = False

    def started(self, label: str, seed: int) -> None:
        with self._lock:
            self._running.setdefault((label, seed), self._clock())

    def ended(self, label: str, seed: int) -> None:
        with self._lock:
            began = self._running.pop((label, seed), None)
            if began is not None:
                self._busy_seconds[label] += (self._clock() - began) * self._units_per_trial

    def close(self) -> None:
        """No more trials are to start."""
        self._closed = True

    def read(self) -> Launch:
        """Return the launch up to now; what the cluster has now is what it had since the last reading."""
        units = self._count_units()
        with self._lock:
            now = self._clock()
            self._unit_seconds += units * (now - self._read_at)
            self._read_at = now
            busy = dict(self._busy_seconds)
            for (label, _), began in self._running.items():
                busy[label] = busy.get(label, 0.0) + (now - began) * self._units_per_trial
            return dataclasses.replace(
                self._launch,
                seconds=now - self._began,
                unit_hours=self._unit_seconds / 3600,
                busy_hours={label: seconds / 3600 for label, seconds in busy.items()},
                closed=self._closed,
            )
