"""result.json, which marks a trial as finished, and the record of a failure.

A damaged result does not count: its trial runs again. `result.json` holds the sha256 of itself and of the trial's other
files. Every file that tables depend on is checked against it; contact sheets, from which nothing is computed, need only
exist.
"""

import dataclasses
import hashlib
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from catdog.errors import NotFoundError
from catdog.runs.paths import TrialPaths
from catdog.storage import Store, digest_many
from catdog.storage.serialization import from_fields, read_json, to_json

logger = logging.getLogger(__name__)

Status = Literal["complete", "failed", "diverged", "missing"]


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(to_json(content)).hexdigest()


@dataclass(frozen=True)
class TrialResult:
    """The outcome of a trial: result.json, and a row of trials.csv. Accuracies in percent, None if diverged."""

    variant: str
    seed: int
    status: Status
    val_accuracy: float | None
    test_accuracy: float | None
    best_epoch: int | None
    """Chosen by validation accuracy, the earliest on ties; for a diverged trial, the epoch in which it diverged."""
    epochs: int
    """Epochs trained."""
    seconds: float
    """Of training and evaluation, over all attempts recorded in checkpoints."""
    config_hash: str
    val_class_accuracy: float | None = None
    """Mean of the breeds' accuracies."""
    test_class_accuracy: float | None = None
    val_loss: float | None = None
    parameters: int | None = None
    head_parameters: int | None = None
    feature_channels: int | None = None
    feature_height: int | None = None
    feature_width: int | None = None
    device: str | None = None
    precision: str | None = None
    threads: int | None = None
    images_trained: int | None = None
    setup_seconds: float | None = None
    train_seconds: float | None = None
    evaluate_seconds: float | None = None
    finish_seconds: float | None = None
    finished_at: str | None = None
    worker_host: str | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    """sha256 of the trial's other files, by path below its folder."""

    def to_json(self) -> bytes:
        """Return result.json: the fields, and the sha256 of their JSON."""
        content = dataclasses.asdict(self)
        return to_json(content | {"sha256": _digest(content)})

    @classmethod
    def from_json(cls, data: bytes) -> "TrialResult":
        """Read result.json; raises `ValueError` if it is invalid or was altered."""
        try:
            content = read_json(data)
            digest = content.pop("sha256")
            result = from_fields(cls, content)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"not a result.json: {error}") from None
        if digest != _digest(content):
            raise ValueError("its content is not what its sha256 says")
        return result

    def row(self) -> dict[str, Any]:
        """Return the result as one flat row of trials.csv."""
        row = dataclasses.asdict(self)
        del row["files"]
        return row


@dataclass(frozen=True)
class Failure:
    """Why a trial has no result."""

    variant: str
    seed: int
    config_hash: str
    error: str
    message: str
    traceback: str
    attempts: int
    launch: str
    """The launch in which the trial failed; the next launch retries it."""
    log: str
    failed_at: str

    @classmethod
    def from_json(cls, data: bytes) -> "Failure":
        """Read a failure; raises `ValueError` if it is invalid."""
        return from_fields(cls, read_json(data))


def read_result(store: Store, where: TrialPaths, config_hash: str) -> TrialResult | None:
    """Return the trial's result if it has this config hash and is undamaged, else None."""
    try:
        result = TrialResult.from_json(store.get(where.result))
    except NotFoundError:
        return None
    except ValueError as error:
        logger.warning("%s: %s", where.result, error)
        return None
    if result.config_hash != config_hash:
        return None
    keys = set(store.list(f"{where.folder}/"))
    damage = find_damage(where, result, keys, digest_many(store, checked_keys(where, result)))
    if damage:
        logger.warning("%s", damage)
    return None if damage else result


def checked_keys(where: TrialPaths, result: TrialResult) -> list[str]:
    """Return the keys of the trial's files whose content is checked."""
    return [f"{where.folder}/{name}" for name in result.files if not name.startswith("snapshots/")]


def find_damage(
    where: TrialPaths, result: TrialResult, keys: Collection[str], digests: Mapping[str, str]
) -> str | None:
    """Return what is wrong with the trial's files, or None; `keys` exist, `digests` are their sha256."""
    checked = set(checked_keys(where, result))
    for name, digest in result.files.items():
        key = f"{where.folder}/{name}"
        if key not in keys:
            return f"{key} is missing"
        if key in checked and digests.get(key) != digest:
            return f"{key} is damaged: its sha256 is not what result.json says"
    return None


def best_run(results: Sequence[TrialResult]) -> TrialResult | None:
    """Return the trial with the highest validation accuracy, the lowest seed on ties; never chosen by test accuracy."""
    scored = [result for result in results if result.val_accuracy is not None]
    return max(scored, key=lambda result: (result.val_accuracy or 0.0, -result.seed), default=None)
