"""history.csv: one row per epoch, with the health of the masks at every place (see `catdog.runs.places`)."""

import dataclasses
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from catdog.formatting import shorten
from catdog.runs.places import HEAD, at_place, places_of

if TYPE_CHECKING:
    import pandas as pd  # takes a while to import, and a mistake in an option is answered without it

ALIKE = 0.99
"""Masks whose mean cosine exceeds this are in effect one mask."""
NO_PREFERENCE = 0.99
"""Masks whose entropy, relative to a uniform mask's, exceeds this weigh all positions nearly alike.

On a map of P positions whose weights have the coefficient of variation c, the entropy is about 1 - c² / (2 ln P): 0.99
means c = 0.28 on 7 × 7, and 0.32 on 12 × 12. Such a head pools nearly as if it had no mask, even if the mask's maximum,
however faint, lies on the animal. Trained single sigmoid masks reach 0.997 to 0.999; four, which the divergence loss
keeps apart, 0.89 to 0.93.
"""
SIDE_SCORE = re.compile("val_.+_(loss|accuracy)")
"""A column of a side task."""
UNIFORM = "masks with no preference"
IN_CORNERS = 3.0
"""Masks with more than this many times the corners' fair share of mass look at the border, not at the animal."""


@dataclass(frozen=True)
class MaskHealth:
    """Statistics of the masks in one epoch, averaged over the validation images; see `catdog.training.mask_metrics`."""

    mask_mean: float
    mask_entropy: float
    mask_overlap: float
    mask_corner_mass: float
    mask_dead: float


def mask_collapse(health: MaskHealth) -> str | None:
    """Return what is wrong with masks that no longer distinguish positions or differ from each other, or None."""
    if health.mask_dead > 0:
        return "dead masks"
    if health.mask_overlap > ALIKE:
        return "masks alike"
    if health.mask_corner_mass > IN_CORNERS:
        return "masks in the corners"
    if health.mask_entropy > NO_PREFERENCE:
        return UNIFORM
    return None


def at_places(places: Iterable[str]) -> str:
    """Return where masks are, ` at head, layer3`; nothing if that is the head alone."""
    ordered = sorted(set(places), key=lambda place: (place != HEAD, place))
    return "" if ordered == [HEAD] else f" at {', '.join(ordered)}"


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
    mask_health: Mapping[str, MaskHealth] = field(default_factory=dict)
    """By place; without those that have no masks, or masks that cannot be measured."""
    side_scores: Mapping[str, float] = field(default_factory=dict)
    """`val_TASK_loss` and `val_TASK_accuracy` of each side task."""

    def row(self) -> dict[str, Any]:
        """Return the record as one flat row; the columns of the head's masks are None if it has none."""
        row = dataclasses.asdict(self)
        health: dict[str, dict[str, float]] = row.pop("mask_health")
        named = {at_place(name, place): value for place, one in health.items() for name, value in one.items()}
        side_scores: dict[str, float] = row.pop("side_scores")
        return row | dict.fromkeys(HEALTH) | named | side_scores

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "EpochRecord":
        """Return the record of a row made by `row`."""
        places = [place for place in places_of(row, HEALTH[0]) if row[at_place(HEALTH[0], place)] is not None]
        health = {place: MaskHealth(*(row[at_place(name, place)] for name in HEALTH)) for place in places}
        side_scores = {name: value for name, value in row.items() if SIDE_SCORE.fullmatch(name)}
        own = {
            name: value
            for name, value in row.items()
            if name.partition("@")[0] not in HEALTH and name not in side_scores
        }
        return cls(**own, mask_health=health, side_scores=side_scores)

    def report(self, epochs: int) -> dict[str, Any]:
        """Return what a sweep's driver is told of the epoch, one of `epochs`: for its display, and for a tracker."""
        told = ("epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "learning_rate")
        numbers = {name: getattr(self, name) for name in told}
        return {**numbers, **self.side_scores, "epochs": epochs, "collapse": self.collapse()}

    def collapse(self) -> dict[str, list[str]]:
        """Return what is wrong with the masks, and at which places."""
        found: dict[str, list[str]] = {}
        for place, health in self.mask_health.items():
            if (wrong := mask_collapse(health)) is not None:
                found.setdefault(wrong, []).append(place)
        return found


HEALTH = [f.name for f in fields(MaskHealth)]
"""The columns on the head's masks; those of other places follow, named like `mask_mean@layer3`."""
_PARTS = ("mask_health", "side_scores")
COLUMNS = [*(f.name for f in fields(EpochRecord) if f.name not in _PARTS), *HEALTH]
"""The columns of every history.csv; those of other places and side tasks follow, where there are any."""
_ALWAYS_FINITE = ["train_loss", "learning_rate", "train_seconds", "evaluate_seconds"]
"""Just before a trial diverges, the others may not be."""


def history_csv(history: Sequence[EpochRecord]) -> bytes:
    """Return history.csv: one row per epoch; the header alone if the trial diverged in its first epoch."""
    import pandas as pd

    rows = [record.row() for record in history]
    columns = list(dict.fromkeys([*COLUMNS, *(name for row in rows for name in row)]))
    return pd.DataFrame(rows, columns=columns).to_csv(index=False).encode()


def read_history(data: bytes) -> "pd.DataFrame":
    """Read history.csv; raises `ValueError` unless it has a row of numbers for every epoch from 0."""
    import pandas as pd

    history = pd.read_csv(io.BytesIO(data))
    expected = [*COLUMNS, *health_columns(history)]
    if lacking := [column for column in expected if column not in history]:
        raise ValueError(f"it has no column {', '.join(lacking)}")
    if unknown := [column for column in map(str, history) if "@" in column and column not in expected]:
        raise ValueError(f"no trial writes a column {shorten(unknown[0])}")
    if history["epoch"].tolist() != list(range(len(history))):
        raise ValueError("its epochs are not 0, 1, 2, …")
    side_scores = list(filter(SIDE_SCORE.fullmatch, history.columns))
    # Column by column: on tables this small, pandas takes longest for making other tables.
    kinds = history.dtypes.to_dict()
    if len(history) and not all(kinds[name].kind in "biuf" for name in [*numbers(history), *side_scores]):
        raise ValueError("a column of numbers has something else")
    if not all(np.isfinite(history[name].to_numpy(float)).all() for name in _ALWAYS_FINITE):
        raise ValueError("a loss, a learning rate or a time is not finite")
    accuracies = ["train_accuracy", "val_accuracy", *(name for name in side_scores if name.endswith("_accuracy"))]
    if not all(((values >= 0) & (values <= 100)).all() for values in (history[name].to_numpy() for name in accuracies)):
        raise ValueError("an accuracy is not from 0 to 100")
    return history


def health_columns(columns: Iterable[object]) -> list[str]:
    """Return the columns on masks among these columns of a history.csv, of the head first; raises `ValueError`."""
    return [at_place(name, place) for place in places_of(columns, HEALTH[0]) for name in HEALTH]


def numbers(history: "pd.DataFrame") -> list[str]:
    """Return the columns of numbers."""
    columns = dict.fromkeys([*COLUMNS, *health_columns(history)])
    return [column for column in columns if column != "finished_at"]


def epoch_row(history: "pd.DataFrame", epoch: int | None) -> dict[str, Any] | None:
    """Return the row of one epoch; None if there is none."""
    if epoch is None or not 0 <= epoch < len(history):
        return None
    return {str(name): value for name, value in history.iloc[epoch].to_dict().items()}
