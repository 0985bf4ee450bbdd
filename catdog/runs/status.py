"""The status of a run, from the store alone: its manifest and each trial's result or failure, if any."""

import dataclasses
import functools
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from catdog.errors import UserError
from catdog.formatting import counted, shorten
from catdog.runs.artifacts import SplitPredictions
from catdog.runs.code_record import TOLERANCE
from catdog.runs.cost import Launch
from catdog.runs.looks import Look, next_look, read_looks
from catdog.runs.manifest import Manifest, PlannedTrial, read_manifest
from catdog.runs.paths import RunPaths, TrialPaths
from catdog.runs.results import Failure, Status, TrialResult, best_run
from catdog.runs.trial_files import FileCheck, Track, find_damage, parse_result, untracked
from catdog.storage import Store, read_many

logger = logging.getLogger(__name__)
_HISTORY_BYTES = 10_000
"""Of a history in memory; most of it is pandas' own."""


@dataclass(frozen=True)
class TrialStatus:
    """One planned trial and what is known about it."""

    planned: PlannedTrial
    where: TrialPaths
    config_hash: str
    result: TrialResult | None = None
    failure: Failure | None = None
    unfinished: bool = False
    """It has a checkpoint to resume from."""
    has_weights: bool = False
    """Its network is kept."""
    damage: str | None = None
    """What is wrong with its result, which then does not count."""

    @property
    def status(self) -> Status:
        """Return the result's status, else `failed` or `missing`."""
        if self.result is not None:
            return self.result.status
        return "failed" if self.failure is not None else "missing"


@dataclass(frozen=True)
class RunStatus:
    """All planned trials of a run, by variant as planned, then by seed."""

    manifest: Manifest
    trials: Sequence[TrialStatus]
    launches: Sequence[Launch] = ()
    """What each launch of the sweep has used, in order."""
    looks: Sequence[Look] = ()
    """What each look of a sweep found that may stop early, in order."""
    kept: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)
    """What the files that every trial has hold, by key, if they were read for a report."""

    @functools.cached_property
    def counts(self) -> Counter[Status]:
        """Return the number of trials of each status."""
        return Counter(trial.status for trial in self.trials)

    @property
    def is_complete(self) -> bool:
        """Return whether no trial failed or is missing, and no look is to be taken."""
        return not self.counts["failed"] and not self.counts["missing"] and self.waiting is None

    @property
    def waiting(self) -> str | None:
        """Return a line on the look that a sweep has yet to take, None if it takes no more."""
        declared, manifest = self.manifest.declaration, self.manifest
        needed = next_look(declared, [manifest.spec(name).label for name in manifest.variants], self.looks)
        if not declared.looks or not needed.labels:
            return None
        taken = f"{len(self.looks)} of {counted(len(declared.looks), 'look')} taken"
        return f"{taken}; the next is after {counted(len(needed.seeds), 'seed')}: run the sweep with --until-decided"

    @functools.cached_property
    def finished(self) -> dict[TrialPaths, TrialResult]:
        """Return the results of all complete and diverged trials."""
        return {trial.where: trial.result for trial in self.trials if trial.result is not None}

    def results(self, label: str) -> list[TrialResult]:
        """Return the complete trials of a variant, by its label or its short one, by seed."""
        return self._complete.get(label, [])

    @functools.cached_property
    def best_runs(self) -> dict[str, TrialResult | None]:
        """Return each variant's best run by validation, None of one that has no complete trial."""
        return {label: best_run(self.results(label)) for label in self.manifest.variants}

    @functools.cached_property
    def _complete(self) -> dict[str, list[TrialResult]]:
        found: dict[str, list[TrialResult]] = {}
        for trial in self.trials:
            if trial.result is not None and trial.result.status == "complete":
                for label in {trial.planned.variant.label, trial.planned.variant.title}:
                    found.setdefault(label, []).append(trial.result)
        return found

    def with_short_labels(self) -> "RunStatus":
        """Return the status in which variants are called by their short labels, for tables and figures.

        Keys in the store are not affected.
        """
        manifest = self.manifest

        def name(label: str) -> str:
            return manifest.short_labels.get(label, label)

        return dataclasses.replace(
            self,
            manifest=dataclasses.replace(
                manifest,
                variants=tuple(map(name, manifest.variants)),
                seeds={name(label): seeds for label, seeds in manifest.seeds.items()},
            ),
            trials=[
                dataclasses.replace(trial, result=dataclasses.replace(trial.result, variant=name(trial.result.variant)))
                if trial.result is not None
                else trial
                for trial in self.trials
            ],
            launches=[
                dataclasses.replace(
                    launch, busy_hours={name(label): hours for label, hours in launch.busy_hours.items()}
                )
                for launch in self.launches
            ],
        )


@dataclass
class Known:
    """What was found in the files of a run's undamaged trials, by key: who looks again reads only what is new.

    It is for looks that all keep what the files hold, or that all do not.
    """

    results: dict[str, TrialResult] = field(default_factory=dict)
    checks: dict[str, FileCheck] = field(default_factory=dict)
    """Of files other than results."""
    kept: dict[str, Any] = field(default_factory=dict)
    """What the files hold, if it is kept."""

    @property
    def kept_bytes(self) -> int:
        """Return about how much memory `kept` takes."""
        return sum(one.own_bytes if isinstance(one, SplitPredictions) else _HISTORY_BYTES for one in self.kept.values())


def open_run(
    store: Store, run: str, keep: bool = False, track: Track = untracked, known: Known | None = None
) -> RunStatus:
    """Return the status of an existing run, see `read_run_status`; raises `UserError` if there is none."""
    return read_run_status(store, manifest_of(store, run), keep, track, known)


def manifest_of(store: Store, run: str) -> Manifest:
    """Return the plan of an existing run; raises `UserError` if there is none, or if it cannot be used."""
    manifest = read_manifest(store, run)
    if manifest is None:
        raise UserError(f"--run {run}: there is no such run in {store.url}; check --run and --store")
    return manifest


def read_run_status(
    store: Store, manifest: Manifest, keep: bool = False, track: Track = untracked, known: Known | None = None
) -> RunStatus:
    """Read all results and failures of a run, in parallel; `track` shows progress.

    A result does not count if its config hash is different, or if it or one of its files is damaged. To `keep` what the
    files hold spares a report that follows at once reading them again. What is `known` from an earlier look is not read
    again, and what is found now is known from then on: a finished trial that another replaces meanwhile goes unnoticed.
    """
    known = Known() if known is None else known
    run = RunPaths(manifest.run)
    keys = set(store.list(run.trials)) | set(store.list(run.failures))
    planned = [(trial, run.trial(trial.variant.folder, trial.seed)) for trial in manifest.planned()]
    before = {where: known.results[where.result] for _, where in planned if where.result in known.results}
    results = {where: result for where, result in before.items() if where.result in keys}
    new = [where for _, where in planned if where not in results]
    wanted = [key for where in new for key in (where.result, where.failure) if key in keys]
    launches = store.list(run.launches)
    contents = dict(read_many(store, [*wanted, *launches]))
    hashes = {where: manifest.identity.trial_hash(trial.variant, trial.seed) for trial, where in planned}
    damage: dict[TrialPaths, str] = {}
    for trial, where in planned:
        if where.result not in contents:
            continue
        try:
            result = parse_result(contents[where.result], trial, manifest.identity)
        except ValueError as error:
            damage[where] = f"{where.result}: {error}"
        else:
            results |= {where: result} if result else {}
    kept = known.kept if keep else None
    damage |= find_damage(store, results, keys, manifest.identity.recipe, kept, track, known.checks)
    known.results = {where.result: result for where, result in results.items() if where not in damage}
    trials = [
        TrialStatus(
            trial,
            where,
            hashes[where],
            result=None if where in damage else results.get(where),
            failure=_parse_failure(where.failure, contents.get(where.failure), trial, hashes[where]),
            unfinished=where.checkpoint in keys,
            has_weights=where.weights in keys,
            damage=damage.get(where),
        )
        for trial, where in planned
    ]
    return RunStatus(
        manifest,
        trials,
        _parse_launches({key: contents[key] for key in launches if key in contents}),
        read_looks(store, manifest.run, manifest.variants),
        known.kept,
    )


def _parse_launches(contents: Mapping[str, bytes]) -> list[Launch]:
    launches = []
    for key, data in contents.items():
        try:
            launches.append(Launch.from_json(data))
        except ValueError as error:
            logger.warning("%s: %s; what it used is not counted", key, error)
    return sorted(launches, key=lambda launch: launch.started_at)


def _parse_failure(key: str, data: bytes | None, trial: PlannedTrial, config_hash: str) -> Failure | None:
    if data is None:
        return None
    try:
        failure = Failure.from_json(data)
        if (failure.variant, failure.seed) != (trial.variant.label, trial.seed):
            raise ValueError(f"it is about {failure.variant} seed {failure.seed}")
    except ValueError as error:
        logger.warning("%s: not a failure record: %s", key, error)
        return None
    return failure if failure.config_hash == config_hash else None


def missing_trials(run_status: RunStatus) -> list[str]:
    """Return one line for each trial that is missing from the averages."""
    lines = []
    for trial in run_status.trials:
        if trial.status == "failed" and trial.failure is not None:
            failure = trial.failure
            lines.append(
                f"failed: {trial.planned.name}: {shorten(failure.error)}: {shorten(failure.message, 500)} "
                f"(attempts: {failure.attempts}; traceback: {trial.where.failure}; log: {failure.log})"
            )
        elif trial.status == "diverged" and trial.result is not None:
            lines.append(f"diverged: {trial.planned.name}: the loss was not finite in epoch {trial.result.best_epoch}")
        elif trial.status == "missing":
            why = trial.damage or ("unfinished" if trial.unfinished else None)
            lines.append(f"missing: {trial.planned.name}{f' ({why})' if why else ''}")
    return lines


def mixed_versions(run_status: RunStatus) -> list[str]:
    """Return one line for each version that differed between launches of a run: it may have changed results.

    And one for each variant whose later trials ran other code, with what its probe found.
    """
    launches, manifest = run_status.launches, run_status.manifest
    seen = {"code (git's trees)": dict.fromkeys(launch.code[:12] for launch in launches if launch.code)}
    for launch in launches:
        for package, version in launch.versions.items():
            seen.setdefault(package, {})[version] = None
    lines = [
        f"launches ran with different {name}: {', '.join(found)}" for name, found in seen.items() if len(found) > 1
    ]
    changed: dict[tuple[str, float], list[str]] = {}
    for label, record in manifest.code_records.items():
        for change in record.changes:
            same = record.code.differences(change.code), change.difference
            changed.setdefault(same, []).append(manifest.spec(label).title)
    return lines + [
        f"trials of {', '.join(titles)} ran with other code ({differences}); a short trial gave the same numbers"
        + (f", but for {100 * difference:.2g} % ({100 * TOLERANCE:g} % is allowed)" if difference else "")
        for (differences, difference), titles in changed.items()
    ]
