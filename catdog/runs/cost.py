"""What each launch of a run used, and what that cost; what the doctor's short trials measured.

Everything that is there while a sweep runs is paid for, idle or not. Each launch keeps a record of its own in the
store, so that the sum survives the driver.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from catdog.errors import NotFoundError
from catdog.runs.manifest import Identity
from catdog.runs.paths import RunPaths
from catdog.storage import Store
from catdog.storage.serialization import from_fields, read_json, to_json

Unit = Literal["GPU", "CPU"]
"""What trials take up and what is paid for by the hour: GPUs, or CPU cores where trials use no GPU."""


@dataclass(frozen=True)
class Launch:
    """What one launch of a sweep has used."""

    name: str
    started_at: str
    unit: Unit
    hourly_price: float | None
    """Of one unit."""
    seconds: float = 0.0
    unit_hours: float = 0.0
    """Of all units that were there, idle or not."""
    busy_hours: Mapping[str, float] = field(default_factory=dict)
    """Of units that a trial was using, by variant."""
    closed: bool = False
    """No more trials start: what the sweep may cost is spent."""
    code: str | None = None
    """Git's name for the folder catdog/ as it was."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Of Python and of packages."""

    @classmethod
    def from_json(cls, data: bytes) -> "Launch":
        """Read a launch; raises `ValueError` when it is not one."""
        return from_fields(cls, read_json(data))


@dataclass(frozen=True)
class CanaryStep:
    """What a worker measured on a short trial of one variant."""

    variant: str
    error: str | None
    """Why the short trial did not end; then nothing else is known."""
    train_images_per_second: float | None = None
    evaluate_images_per_second: float | None = None
    peak_memory_bytes: int | None = None
    """Of the GPU, or of the process on a CPU."""


@dataclass(frozen=True)
class Canary:
    """Short trials of all variants on one worker, before a night is spent."""

    identity: Identity
    device: str
    memory_bytes: int | None
    """Of the whole GPU; None on a CPU."""
    steps: tuple[CanaryStep, ...]

    def to_json(self) -> bytes:
        return to_json(dataclasses.asdict(self) | {"identity": self.identity.to_json()})

    @classmethod
    def from_json(cls, data: bytes) -> "Canary":
        """Read a canary; raises `ValueError` when it is not one."""
        return from_fields(cls, read_json(data))


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


def read_canary(store: Store, run: str) -> Canary | None:
    """Return what the doctor's short trials measured for this run, if there were any."""
    try:
        return Canary.from_json(store.get(RunPaths(run).canary))
    except (NotFoundError, ValueError):
        return None
