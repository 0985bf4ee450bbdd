"""How many seeds a sweep needs to find a difference: from the scatter of an earlier run, or for any scatter."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from catdog.analysis.contrasts import compare
from catdog.analysis.intervals import std_interval
from catdog.analysis.power import MOST_PAIRS, STEPS, pairs_needed
from catdog.analysis.significance import SIGNIFICANCE
from catdog.analysis.stopping import stop_of
from catdog.analysis.verdicts import Contrast
from catdog.errors import UserError
from catdog.formatting import counted, format_size
from catdog.runs.manifest import Identity
from catdog.runs.status import RunStatus

SPREADS = (0.1, 0.2, 0.3, 0.5, 0.8, 1.2)
"""Standard deviations of paired differences, in points, of the table for any scatter."""
SWEEPS = 200
"""Simulated to say how many seeds a sweep needs that may stop early."""
MOST_SIMULATED = 60
"""Pairs of a simulated sweep: each stands for several if there are more, whose mean is as normal as they are."""


@dataclass(frozen=True)
class Target:
    """What is to be found, and how surely."""

    effect: float
    """The true difference of Test accuracy, in points."""
    power: float
    looks_of: Callable[[int], Sequence[int]] | None = None
    """Of at most so many seeds, after how many the sweep may stop; None if it runs all of them."""


def plan_lines(target: Target, run_status: RunStatus, hourly_price: float | None, planned: Identity) -> Iterator[str]:
    """Yield how many seeds each contrast of a run needs by its own scatter, and what all of them cost.

    `planned` is the identity of the sweep that is planned.
    """
    contrasts = compare(run_status, None)
    if not contrasts:
        raise UserError(f"--detect: run {run_status.manifest.run} has one variant, and nothing to compare it with")
    others = sum(not contrast.is_primary for contrast in contrasts)
    yield (
        f"to find a difference of {format_size(target.effect)} points with power {target.power:g}, by the paired "
        f"differences of run {run_status.manifest.run}:"
    )
    known = run_status.manifest.identity
    recipe = dataclasses.replace(planned.recipe, precision=known.recipe.precision)  # which a run settles when it starts
    if changed := known.differences(dataclasses.replace(known, recipe=recipe)):
        yield f"  its recipe was another ({'; '.join(changed)}), so the planned differences may scatter more or less"
    needed = [_needed(target, contrast, others) for contrast in contrasts]
    yield from (f"  {text}" for _, text in needed)
    seeds = [most for most, _ in needed if most is not None]
    if seeds:
        yield f"  in all: {cost_of(max(seeds), run_status, run_status.manifest.variants, hourly_price)}"


def any_scatter_lines(target: Target, contrasts: int) -> Iterator[str]:
    """Yield how many seeds a sweep needs by the standard deviation of its paired differences."""
    yield (
        f"to find a difference of {format_size(target.effect)} points with power {target.power:g}; the standard "
        "deviation of the paired differences is known after a pilot: --pilot 5"
    )
    for spread in SPREADS:
        alone = pairs_needed(target.effect / spread, SIGNIFICANCE, target.power)
        family = pairs_needed(target.effect / spread, SIGNIFICANCE / max(1, contrasts - 1), target.power)
        others = f", {_count(family)} for each of {counted(contrasts - 1, 'other')}" if contrasts > 1 else ""
        yield f"  {format_size(spread)} points: {_seeds(alone)} for the primary contrast{others}"


def _needed(target: Target, contrast: Contrast, others: int) -> tuple[int | None, str]:
    """Return the seeds that a contrast needs, and a line that says so."""
    name, interval = f"{contrast.variant} − {contrast.reference}", std_interval(contrast.differences)
    if interval is None:
        return None, f"{name}: fewer than two pairs, or all alike; run a pilot: --pilot 5"
    spread = float(np.std(contrast.differences, ddof=1))
    level = SIGNIFICANCE if contrast.is_primary else SIGNIFICANCE / others
    most, low, high = (
        pairs_needed(target.effect / sd, level, target.power) for sd in (spread, interval.low, interval.high)
    )
    tested = "primary" if contrast.is_primary else f"one of {others} others" if others > 1 else "the other"
    scatter = f"{format_size(spread)} ({format_size(interval.low)} to {format_size(interval.high)})"
    text = (
        f"{name} ({tested}): standard deviation {scatter} from {counted(contrast.n, 'pair')}: {_seeds(most)} "
        f"({_count(low)} to {_count(high)})"
    )
    if target.looks_of is not None and most is not None:
        text += f"; {_with_looks(target.effect / spread, most, level, target.looks_of)}"
    return most, text


def _with_looks(effect: float, most: int, level: float, looks_of: Callable[[int], Sequence[int]]) -> str:
    """Return how many seeds a sweep that may stop early takes on average, if there is the difference and if not."""
    pairs = min(most, MOST_SIMULATED)
    looks = sorted({max(2, round(look * pairs / most)) for look in looks_of(most)})  # at the same share of the pairs
    rng = np.random.default_rng(most)
    of_pair, means = effect * np.sqrt(most / pairs), []
    for mean in (of_pair, 0.0):
        ends = [
            stop_of(np.rint(STEPS * rng.normal(mean, 1.0, pairs)), STEPS * of_pair, looks, level)[1]
            for _ in range(SWEEPS)
        ]
        means.append(float(np.mean(ends)) * most / pairs)
    return (
        f"with --until-decided {means[0]:.0f} on average if there is this difference, {means[1]:.0f} if there is none"
    )


def cost_of(seeds: int, run_status: RunStatus, labels: Sequence[str], hourly_price: float | None = None) -> str:
    """Return what so many seeds of these variants of a run take, by its own trials."""
    seconds = [np.mean([one.seconds for one in found]) for label in labels if (found := run_status.results(label))]
    hours = seeds * float(np.sum(seconds)) / 3600
    price = "" if hourly_price is None else f", {hours * hourly_price:.2f} at {hourly_price:g} an hour"
    trials = counted(seeds * len(labels), "trial")
    return f"{counted(seeds, 'seed')}, {trials}, about {hours:.2g} hours if trials run one by one{price}"


def _seeds(count: int | None) -> str:
    return f"{_count(count)} seeds"


def _count(count: int | None) -> str:
    return f"more than {MOST_PAIRS:,}" if count is None else f"{count:,}"
