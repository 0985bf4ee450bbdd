"""The rows that stages pass to each other, and their JSON.

`EpochRecord` goes from training to the trial, `TrialResult` and `Failure` from the trial through the store to the
table, `Manifest` from the sweep to everybody who reads a run.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from catdog.config import Identity, check_run_name
from catdog.errors import UserError
from catdog.fields import from_fields, read_json
from catdog.variants import VariantSpec, parse_variant

Status = Literal["complete", "failed", "diverged", "missing"]
Unit = Literal["GPU", "CPU"]
"""What trials take up and what is paid for by the hour: GPUs, or CPU cores where trials use no GPU."""

ALIKE = 0.99
"""Masks with a mean cosine above this are one mask, however many there are."""
IN_CORNERS = 3.0
"""Masks with this many times the corners' share of the area in the corners look at the border, not at the animal."""


def to_json(content: Any) -> bytes:
    """Return a dataclass or dictionary as indented JSON; numbers that are not finite become null."""
    if dataclasses.is_dataclass(content) and not isinstance(content, type):
        content = dataclasses.asdict(content)
    return (json.dumps(_finite(content), indent=1, ensure_ascii=False) + "\n").encode()


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(to_json(content)).hexdigest()


@dataclass(frozen=True)
class MaskHealth:
    """How the masks of one epoch look, averaged over the validation images; see `catdog.models.losses.mask_health`."""

    mask_mean: float
    mask_entropy: float
    mask_overlap: float
    mask_corner_mass: float
    mask_dead: float


def mask_collapse(health: MaskHealth) -> str | None:
    """Return what is wrong with masks that stopped telling positions or each other apart; None if nothing is."""
    if health.mask_dead > 0:
        return "dead masks"
    if health.mask_overlap > ALIKE:
        return "masks alike"
    if health.mask_corner_mass > IN_CORNERS:
        return "masks in the corners"
    return None


@dataclass(frozen=True)
class EpochRecord:
    """One epoch of one trial: a row of history.csv. Accuracies in percent."""

    epoch: int
    train_loss: float
    train_accuracy: float
    val_loss: float
    val_accuracy: float
    learning_rate: float
    """Of the head, at the end of the epoch."""
    train_seconds: float
    evaluate_seconds: float
    finished_at: str
    """When the epoch was computed (UTC, ISO 8601): a resumed trial keeps the times of its earlier epochs."""
    mask_health: MaskHealth | None = None

    def row(self) -> dict[str, Any]:
        """Return the record as one flat row."""
        row = dataclasses.asdict(self)
        health = row.pop("mask_health") or {f.name: None for f in dataclasses.fields(MaskHealth)}
        return row | health

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "EpochRecord":
        names = {f.name for f in dataclasses.fields(MaskHealth)}
        health = {name: row[name] for name in names}
        masked = all(value is not None for value in health.values())
        return cls(
            **{key: value for key, value in row.items() if key not in names},
            mask_health=MaskHealth(**health) if masked else None,
        )


@dataclass(frozen=True)
class TrialResult:
    """The outcome of a trial: result.json, and a row of trials.csv. Accuracies in percent, None where diverged."""

    variant: str
    seed: int
    status: Status
    val_accuracy: float | None
    test_accuracy: float | None
    best_epoch: int | None
    """Chosen by validation accuracy, the earliest of equals; of a diverged trial the epoch it diverged in."""
    epochs: int
    """Epochs that were trained."""
    seconds: float
    """Of training and evaluation, over all attempts that the checkpoints remember."""
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
    """sha256 of the trial's other files, by their path below its folder."""

    def to_json(self) -> bytes:
        """Return result.json: the fields, and the sha256 of their JSON."""
        content = dataclasses.asdict(self)
        return to_json(content | {"sha256": _digest(content)})

    @classmethod
    def from_json(cls, data: bytes) -> "TrialResult":
        """Read result.json; raises `ValueError` when it is not one, or is not as it was written."""
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
    """Which start of the sweep this happened in: the next one tries again."""
    log: str
    failed_at: str

    @classmethod
    def from_json(cls, data: bytes) -> "Failure":
        """Read a failure; raises `ValueError` when it is not one."""
        return from_fields(cls, read_json(data))


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
class PlannedTrial:
    """One cell of the grid."""

    variant: VariantSpec
    seed: int

    @property
    def name(self) -> str:
        return f"{self.variant.label} seed {self.seed}"


@dataclass(frozen=True)
class Manifest:
    """The plan of a run: what it is, and all trials that were ever asked of it."""

    run: str
    preset: str
    identity: Identity
    variants: tuple[str, ...]
    """Labels, in the order in which they were planned."""
    seeds: Mapping[str, tuple[int, ...]]
    """The seeds of each variant."""
    created_at: str
    commands: tuple[tuple[str, ...], ...]
    """The commands that made the run what it is, in their order."""
    versions: Mapping[str, str]
    code: str | None
    """The commit of the code, or the hash of its folder (`provenance.code_version`)."""

    def planned(self) -> list[PlannedTrial]:
        """Return all trials, by variant as planned, then by seed."""
        specs = {label: self.spec(label) for label in self.variants}
        return [PlannedTrial(specs[label], seed) for label in self.variants for seed in self.seeds[label]]

    def spec(self, label: str) -> VariantSpec:
        return parse_variant(label, self.identity.recipe.variant_defaults())

    def extended(self, variants: tuple[str, ...], seeds: tuple[int, ...], command: tuple[str, ...]) -> "Manifest":
        """Return the manifest with these variants × seeds, asked for by `command`, added to its plan."""
        labels = (*self.variants, *(label for label in variants if label not in self.variants))
        union = {
            label: set(self.seeds.get(label, ())) | (set(seeds) if label in variants else set()) for label in labels
        }
        return dataclasses.replace(
            self,
            variants=labels,
            seeds={label: tuple(sorted(union[label])) for label in labels},
            commands=self.commands if command in self.commands else (*self.commands, command),
        )

    def to_json(self) -> bytes:
        return to_json(dataclasses.asdict(self) | {"identity": self.identity.to_json()})

    @classmethod
    def from_json(cls, data: bytes) -> "Manifest":
        """Read manifest.json; raises `UserError` when it is not one."""
        try:
            manifest = from_fields(cls, read_json(data))
            check_run_name(manifest.run)
            manifest.planned()
        except (KeyError, ValueError, UserError) as error:
            raise UserError(
                f"manifest.json of the run is damaged ({error}): restore it, or choose another --run"
            ) from None
        return manifest
