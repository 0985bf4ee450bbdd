"""Tune every variant alike: Optuna proposes points, sweeps on Ray Tune run them, Validation decides.

A point is a variant with other values, so its trials are those of any sweep: stored, resumed, never run twice. Points
are stored before they run, and the next ones follow from the stored ones alone, so an interrupted search goes on as if
it had not been. All variants get the same random numbers: their first points are equal.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from catdog.config.ranges import Range, with_values
from catdog.config.sweep_options import SweepConfig
from catdog.config.variants import parse_variant
from catdog.errors import UserError
from catdog.runs.paths import RunPaths
from catdog.runs.status import RunStatus
from catdog.runs.tuning import Point, Tuning, mean_accuracy, read_tuning
from catdog.storage import Store
from catdog.storage.serialization import to_json

if TYPE_CHECKING:
    import optuna

FIRST_ROUND, LATER_ROUNDS = 10, 5
"""Points of each variant whose trials run side by side: first random ones, then those that learn from all before."""


def require_optuna() -> None:
    """Raise `UserError` if Optuna is not installed."""
    try:
        import optuna  # noqa: F401
    except ImportError:
        raise UserError("tuning needs Optuna: pip install 'catdog-sweep[tune]'") from None


def begin_tuning(config: SweepConfig, ranges: Sequence[Range], budget: int, store: Store) -> Tuning:
    """Return the run's tuning, with the points that it has so far.

    Raises:
        UserError: the run was tuned with other variants, ranges, seeds or a larger budget, or is no tuning.
    """
    run = config.run_name
    fresh = Tuning(
        run,
        budget,
        config.seed_list,
        tuple(one.text for one in ranges),
        {one.label: () for one in config.variant_specs},
    )
    known = read_tuning(store, run)
    if known is None:
        if store.exists(RunPaths(run).manifest):
            raise UserError(f"run {run!r} is a comparison: choose another --run for the tuning")
        return fresh
    for what in ("seeds", "ranges"):
        if getattr(known, what) != getattr(fresh, what):
            raise UserError(f"run {run!r} is tuned with other {what}: choose another --run, or the same {what}")
    if known.variants.keys() != fresh.variants.keys():
        raise UserError(f"run {run!r} tunes {', '.join(known.variants)}: name these, or choose another --run")
    if most := max((len(points) for points in known.variants.values() if len(points) > budget), default=0):
        raise UserError(f"--budget {budget}: run {run!r} has {most} points of each variant already; give at least that")
    return dataclasses.replace(known, budget=budget)


def tune(
    tuning: Tuning,
    config: SweepConfig,
    ranges: Sequence[Range],
    store: Store,
    sweep: Callable[[SweepConfig], RunStatus],
    report_progress: Callable[[Tuning], None] = lambda tuning: None,
) -> tuple[Tuning, bool]:
    """Try points until each variant has its budget; `sweep` runs one round's trials.

    Returns all points, and whether none of their trials is missing: a sweep that spent its budget leaves some out.
    """
    tried: set[str] = set()
    while True:
        waiting = dict.fromkeys(
            point.label for points in tuning.variants.values() for point in points if point.accuracy is None
        )
        if labels := tuple(label for label in waiting if label not in tried):
            points = dataclasses.replace(config, variants=labels, grid=(), reference=None, primary=None)
            run_status = sweep(points)  # what is compared is for the tuned variants to say
            tuning = _stored(_scored(tuning, run_status), store)
            report_progress(tuning)
            if any(trial.status == "missing" and trial.planned.variant.label in labels for trial in run_status.trials):
                return tuning, False
            tried.update(labels)
        count = max(map(len, tuning.variants.values()))
        if count == tuning.budget:
            return tuning, True
        room = next(end for end in _round_ends(tuning.budget) if end > count) - count
        proposed = {
            label: (*points, *_propose(label, points, ranges, config, room))
            for label, points in tuning.variants.items()
        }
        tuning = _stored(dataclasses.replace(tuning, variants=proposed), store)


def _stored(tuning: Tuning, store: Store) -> Tuning:
    store.put(RunPaths(tuning.run).tuning, to_json(tuning))
    return tuning


def _round_ends(budget: int) -> list[int]:
    return [*range(min(FIRST_ROUND, budget), budget, LATER_ROUNDS), budget]


def _scored(tuning: Tuning, run_status: RunStatus) -> Tuning:
    """Return the points with the accuracies that they have by now."""

    def scored(point: Point) -> Point:
        results = {result.seed: result.val_accuracy for result in run_status.results(point.label)}
        accuracies = [results.get(seed) for seed in tuning.seeds]
        return dataclasses.replace(point, accuracy=mean_accuracy(accuracies, len(tuning.seeds)))

    found = {
        label: tuple(scored(point) if point.accuracy is None else point for point in points)
        for label, points in tuning.variants.items()
    }
    return dataclasses.replace(tuning, variants=found)


def _propose(
    label: str, points: Sequence[Point], ranges: Sequence[Range], config: SweepConfig, count: int
) -> list[Point]:
    """Return the next points of a variant."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    distributions = {one.name: _distribution(one) for one in ranges}
    sampler = optuna.samplers.TPESampler(seed=len(points), n_startup_trials=FIRST_ROUND)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for point in points:
        state = optuna.trial.TrialState.FAIL if point.accuracy is None else optuna.trial.TrialState.COMPLETE
        params = {one.name: _number(one, point.values[one.name]) for one in ranges}
        study.add_trial(
            optuna.trial.create_trial(state=state, params=params, distributions=distributions, value=point.accuracy)
        )
    spec = parse_variant(label, config.recipe)
    found = []
    for trial in [study.ask(distributions) for _ in range(count)]:
        values = {one.name: one.word(trial.params[one.name]) for one in ranges}
        found.append(Point(parse_variant(with_values(spec, values), config.recipe).label, values))
    return found


def _distribution(one: Range) -> "optuna.distributions.BaseDistribution":
    import optuna

    if one.choices:
        return optuna.distributions.CategoricalDistribution(one.choices)
    if one.is_integer:
        return optuna.distributions.IntDistribution(int(one.low), int(one.high), log=one.is_logarithmic)
    return optuna.distributions.FloatDistribution(one.low, one.high, log=one.is_logarithmic)


def _number(one: Range, word: str) -> Any:
    return word if one.choices else int(word) if one.is_integer else float(word)
