"""What each launch of a run used and cost.

All hardware present while a sweep runs is paid for, idle or not. Each launch keeps its own record in the store, so that
the total survives the driver.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from catdog.storage.serialization import from_fields, read_json

Unit = Literal["GPU", "CPU"]
"""What trials occupy and users pay for by the hour: GPUs, or CPU cores if trials use no GPU."""


@dataclass(frozen=True)
class Launch:
    """What one launch of a sweep has used."""

    name: str
    started_at: str
    unit: Unit
    hourly_price: float | None
    """Per unit."""
    seconds: float = 0.0
    unit_hours: float = 0.0
    """Of all units present, idle or not."""
    busy_hours: Mapping[str, float] = field(default_factory=dict)
    """Of units in use by a trial, by variant."""
    closed: bool = False
    """The budget is spent: no more trials start."""
    code: str | None = None
    """Git's hash of the folder catdog/ at launch."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Of Python and of packages."""
    variant_code: Mapping[str, str] = field(default_factory=dict)
    """By variant: the digest of the code that its trials ran."""

    @classmethod
    def from_json(cls, data: bytes) -> "Launch":
        """Read a launch; raises `ValueError` if it is invalid."""
        launch = from_fields(cls, read_json(data))
        amounts = [launch.hourly_price or 0.0, launch.seconds, launch.unit_hours, *launch.busy_hours.values()]
        if not all(0 <= amount < 1e12 for amount in amounts):
            raise ValueError("an amount is negative or makes no sense")
        return launch


@dataclass(frozen=True)
class Spending:
    """The totals of a run's launches for one kind of unit."""

    unit: Unit
    unit_hours: float
    """Of all units present."""
    busy_hours: Mapping[str, float]
    """Of units in use by a trial, by variant."""
    cost: float | None
    """In the currency of --hourly-price; None if a launch has no price."""
    variant_costs: Mapping[str, float] | None
    """The busy part of the cost, by variant; the rest of `cost` was idle."""

    @property
    def idle_share(self) -> float | None:
        """Return the idle share of the unit-hours; None if there are none."""
        if not self.unit_hours:
            return None
        return max(0.0, 1 - sum(self.busy_hours.values()) / self.unit_hours)


def summarise_spending(launches: Sequence[Launch]) -> list[Spending]:
    """Return the totals, one entry per kind of unit."""
    return [
        _sum(unit, [launch for launch in launches if launch.unit == unit])
        for unit in dict.fromkeys(launch.unit for launch in launches)
    ]


def launch_cost(launch: Launch, hourly_price: float | None = None) -> float:
    """Return what a launch cost, at its own price or else at `hourly_price`; 0 without either."""
    return launch.unit_hours * (launch.hourly_price or hourly_price or 0.0)


def total_cost(launches: Sequence[Launch], hourly_price: float | None) -> float:
    """Return what launches cost, each at its own price or else at `hourly_price`."""
    return sum(launch_cost(launch, hourly_price) for launch in launches)


def spending_lines(launches: Sequence[Launch]) -> list[str]:
    """Return one line per kind of unit: what was used and, if there is a price, what that cost."""
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
