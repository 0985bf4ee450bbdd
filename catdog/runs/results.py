"""result.json, which marks a trial as finished, and the record of a failure."""

import dataclasses
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from catdog.formatting import printable, shorten
from catdog.storage.serialization import from_fields, read_json, to_json

SIDE_ACCURACY = re.compile(r"(val|test)_([A-Za-z0-9_-]+)_accuracy", re.ASCII)
"""A column of a side task, with its split and name."""
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
    """Mean of the classes' accuracies."""
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
    cpu_host: str | None = None
    """The processor of the worker's machine: sums of floats differ between models."""
    weights_package: str | None = None
    """The package and its version that the pretrained weights came with or through."""
    weights_sha256: str | None = None
    """Of the file of pretrained weights."""
    side_accuracies: Mapping[str, float] = field(default_factory=dict)
    """`val_TASK_accuracy` and `test_TASK_accuracy` of each side task; not in the result of a trial without any."""
    files: Mapping[str, str] = field(default_factory=dict)
    """sha256 of the trial's other files, by path below its folder."""

    def to_json(self) -> bytes:
        """Return result.json: the fields, and the sha256 of their JSON."""
        content = dataclasses.asdict(self)
        if not self.side_accuracies:
            del content["side_accuracies"]
        return to_json(content | {"sha256": _digest(content)})

    @classmethod
    def from_json(cls, data: bytes) -> "TrialResult":
        """Read result.json; raises `ValueError` if it is invalid, was altered, or no trial can have written it."""
        try:
            content = read_json(data)
            digest = content.pop("sha256")
            result = from_fields(cls, content)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"not a result.json: {error}") from None
        if digest != _digest(content):
            raise ValueError("its content is not what its sha256 says")
        if problem := result._problem():
            raise ValueError(f"not a result.json: {problem}")
        return result

    def _problem(self) -> str | None:
        """Return what no trial can have written, or None."""
        values = {**vars(self), **self.side_accuracies}
        numbers = {name: value for name, value in values.items() if isinstance(value, int | float)}
        if senseless := [name for name, value in numbers.items() if not 0 <= value < 1e12]:
            return f"{senseless[0]} is {numbers[senseless[0]]:.3g}"
        if above := [name for name, value in numbers.items() if name.endswith("_accuracy") and value > 100]:
            return f"{above[0]} is above 100"
        if self.status not in ("complete", "diverged"):
            return f"status is {self.status}"
        accuracies = {self.val_accuracy is None, self.test_accuracy is None}
        if self.best_epoch is None or accuracies != {self.status == "diverged"}:
            return "an accuracy or the epoch is missing, or of a diverged trial"
        texts = {name: value for name, value in vars(self).items() if isinstance(value, str)}
        if unreadable := [name for name, text in texts.items() if text != printable(text)]:
            return f"{unreadable[0]} holds control characters"
        if strange := [name for name in self.side_accuracies if not SIDE_ACCURACY.fullmatch(name)]:
            return f"side_accuracies names {shorten(repr(strange[0]))}"
        if strange := [name for name in self.files if not re.fullmatch(r"(snapshots/)?[\w-]+\.\w+", name, re.ASCII)]:
            return f"files names {shorten(repr(strange[0]))}"
        return None

    def row(self) -> dict[str, Any]:
        """Return the result as one flat row of trials.csv."""
        row = dataclasses.asdict(self)
        del row["files"]
        row |= row.pop("side_accuracies")
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


def best_run(results: Sequence[TrialResult]) -> TrialResult | None:
    """Return the trial with the highest validation accuracy, the lowest seed on ties; never chosen by test accuracy."""
    scored = [result for result in results if result.val_accuracy is not None]
    return max(scored, key=lambda result: (result.val_accuracy or 0.0, -result.seed), default=None)
