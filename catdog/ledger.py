"""Where a run stands, from the store alone: its manifest, and each trial's result, failure or nothing yet."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from catdog.config import Identity, SweepConfig
from catdog.errors import NotFoundError, UserError
from catdog.paths import RunPaths, TrialPaths
from catdog.provenance import code_version, now, package_versions
from catdog.records import Failure, Launch, Manifest, PlannedTrial, Status, TrialResult
from catdog.results import checked_keys, find_damage
from catdog.storage import Store, digest_many, read_many

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """One planned trial and what is known of it."""

    trial: PlannedTrial
    config_hash: str
    result: TrialResult | None = None
    failure: Failure | None = None
    unfinished: bool = False
    """It has a checkpoint to go on from."""
    damage: str | None = None
    """What is wrong with its result, which does not count then."""

    @property
    def status(self) -> Status:
        if self.result is not None:
            return self.result.status
        return "failed" if self.failure is not None else "missing"


@dataclass(frozen=True)
class Ledger:
    """All planned trials of a run, by variant as planned, then by seed."""

    manifest: Manifest
    entries: Sequence[Entry]
    launches: Sequence[Launch] = ()
    """What each launch of the sweep has used, in their order."""

    @property
    def counts(self) -> Counter[Status]:
        return Counter(entry.status for entry in self.entries)

    @property
    def is_complete(self) -> bool:
        """Whether no trial failed, and none is missing."""
        return not self.counts["failed"] and not self.counts["missing"]

    def results(self, label: str) -> list[TrialResult]:
        """Return the complete trials of a variant, by seed."""
        entries = (entry for entry in self.entries if entry.trial.variant.label == label)
        return [entry.result for entry in entries if entry.result is not None and entry.result.status == "complete"]


def read_manifest(store: Store, run: str) -> Manifest | None:
    """Return the run's manifest, or None if there is no such run."""
    try:
        return Manifest.from_json(store.get(RunPaths(run).manifest))
    except NotFoundError:
        return None


def open_ledger(store: Store, run: str) -> Ledger:
    """Return the ledger of an existing run; `UserError` if there is none."""
    manifest = read_manifest(store, run)
    if manifest is None:
        raise UserError(f"--run {run}: there is no such run in {store.url}; check --run and --store")
    return read_ledger(store, manifest)


def read_ledger(store: Store, manifest: Manifest) -> Ledger:
    """Read all results and failures of a run, in parallel.

    A result of another config hash does not count, nor does one that is damaged, or whose files are.
    """
    run = RunPaths(manifest.run)
    keys = set(store.list(run.trials)) | set(store.list(run.failures))
    planned = [(trial, run.trial(trial.variant.folder, trial.seed)) for trial in manifest.planned()]
    wanted = [key for _, where in planned for key in (where.result, where.failure) if key in keys]
    launches = store.list(run.launches)
    contents = dict(read_many(store, [*wanted, *launches]))
    hashes = {where: manifest.identity.trial_hash(trial.variant, trial.seed) for trial, where in planned}
    damage: dict[TrialPaths, str] = {}
    results: dict[TrialPaths, TrialResult] = {}
    for where, config_hash in hashes.items():
        try:
            result = _parse_result(contents.get(where.result), config_hash)
        except ValueError as error:
            damage[where] = f"{where.result}: {error}"
        else:
            results |= {where: result} if result else {}
    digests = digest_many(store, [key for where, result in results.items() for key in checked_keys(where, result)])
    for where, result in results.items():
        if wrong := find_damage(where, result, keys, digests):
            damage[where] = wrong
    entries = [
        Entry(
            trial,
            hashes[where],
            result=None if where in damage else results.get(where),
            failure=_parse_failure(where.failure, contents.get(where.failure), hashes[where]),
            unfinished=where.checkpoint in keys,
            damage=damage.get(where),
        )
        for trial, where in planned
    ]
    return Ledger(manifest, entries, _parse_launches({key: contents[key] for key in launches if key in contents}))


def plan_run(existing: Manifest | None, config: SweepConfig, identity: Identity, command: tuple[str, ...]) -> Manifest:
    """Return the manifest of a run that is new, or extended by what `config` asks for.

    Raises:
        UserError: the run exists with another identity; the message says what differs.
    """
    labels = tuple(spec.label for spec in config.variant_specs)
    if existing is None:
        existing = Manifest(
            run=config.run_name,
            preset=config.preset,
            identity=identity,
            variants=(),
            seeds={},
            created_at=now(),
            commands=(),
            versions=package_versions(),
            code=code_version(),
        )
    elif differences := existing.identity.differences(identity):
        raise UserError(
            f"run {config.run_name!r} exists with another recipe ({'; '.join(differences)}): "
            "choose another --run, or the same settings"
        )
    return existing.extended(labels, config.seed_list, command)


def _parse_result(data: bytes | None, config_hash: str) -> TrialResult | None:
    result = None if data is None else TrialResult.from_json(data)
    return result if result is not None and result.config_hash == config_hash else None


def _parse_launches(contents: Mapping[str, bytes]) -> list[Launch]:
    launches = []
    for key, data in contents.items():
        try:
            launches.append(Launch.from_json(data))
        except ValueError as error:
            logger.warning("%s: %s; what it used is not counted", key, error)
    return sorted(launches, key=lambda launch: launch.started_at)


def _parse_failure(key: str, data: bytes | None, config_hash: str) -> Failure | None:
    if data is None:
        return None
    try:
        failure = Failure.from_json(data)
    except (TypeError, ValueError) as error:
        logger.warning("%s: not a failure record: %s", key, error)
        return None
    return failure if failure.config_hash == config_hash else None


def best_run(results: Sequence[TrialResult]) -> TrialResult | None:
    """Return the run with the highest validation accuracy, of equals the one with the lowest seed; never by test."""
    scored = [result for result in results if result.val_accuracy is not None]
    return max(scored, key=lambda result: (result.val_accuracy or 0.0, -result.seed), default=None)
