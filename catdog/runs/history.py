"""history.csv: one row an epoch, and how the masks were."""

import dataclasses
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import pandas as pd

ALIKE = 0.99
"""Masks with a mean cosine above this are one mask, however many there are."""
IN_CORNERS = 3.0
"""Masks with this many times the corners' share of the area in the corners look at the border, not at the animal."""


@dataclass(frozen=True)
class MaskHealth:
    """How the masks of one epoch look, averaged over the validation images; see `catdog.training.mask_health`."""

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


COLUMNS = [f.name for kind in (EpochRecord, MaskHealth) for f in fields(kind) if f.name != "mask_health"]
"""Of history.csv."""


def history_csv(history: Sequence[EpochRecord]) -> bytes:
    """Return history.csv: one row an epoch; of a trial that diverged in its first one, the header alone."""
    return pd.DataFrame([record.row() for record in history], columns=COLUMNS).to_csv(index=False).encode()


def read_history(data: bytes) -> pd.DataFrame:
    """Read history.csv; raises `ValueError` when it is not one."""
    history = pd.read_csv(io.BytesIO(data))
    if lacking := [column for column in COLUMNS if column not in history]:
        raise ValueError(f"it has no column {', '.join(lacking)}")
    return history


def epoch_row(history: pd.DataFrame, epoch: int | None) -> dict[str, Any] | None:
    """Return the row of one epoch; None where there is none."""
    rows = history[history["epoch"] == epoch].to_dict("records")
    return {str(name): value for name, value in rows[0].items()} if rows else None
