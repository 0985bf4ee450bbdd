"""How far masks are above masks that ignore the image, with 95 % intervals over seeds, and in words.

The measures are those of `catdog.analysis.localization` and `catdog.trial.deletion`. For deletion, the cells of a
uniform mask are random ones, and those of a centred Gaussian the central ones.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from catdog.analysis.intervals import FEWEST_FOR_AN_INTERVAL, Interval, bounds, summarise, t_interval
from catdog.runs.artifacts import Deletion

MEASURES = {"pointing": "pointing", "energy": "energy", "pxap": "PxAP", "deletion": "deletion"}
"""Measures of masks by their columns, with what sentences call them."""
BLIND = {"uniform": "a uniform mask", "gaussian": "a centred Gaussian"}
"""Masks that ignore the image, by their columns."""
LATER = ("pxap", "deletion")
"""Measures that trials of earlier versions may lack."""

ADDED = (
    *(f"{name}{column}" for name in LATER for column in ("", "_std", "_lift_uniform", "_lift_gaussian")),
    "deletion_trials",
    *(f"{name}_lift_{blind}_{end}" for name in MEASURES for blind in BLIND for end in ("low", "high")),
    "verdict",
)
"""The columns of `lift_columns`."""

Values = Sequence[Mapping[str, Any]]
"""Columns of each trial; a measure that a trial lacks is missing or None."""


@dataclass(frozen=True)
class Lift:
    """How far a variant's masks are above a mask that ignores the image, over n trials."""

    n: int
    mean: float | None
    interval: Interval | None

    @classmethod
    def of(cls, values: Values, column: str) -> "Lift":
        """Return the lift in this column, of the trials that have it."""
        found = _found(values, column)
        return cls(len(found), summarise(found).mean, t_interval(np.array(found)))

    @property
    def verb(self) -> str:
        """Return what the masks do to the mask that ignores the image, as far as the interval shows it."""
        if self.interval is None or not self.interval.excludes_zero:
            return "are not shown to differ from"
        return "beat" if self.interval.low > 0 else "fall below"


def deletion_columns(deletion: Deletion) -> dict[str, float]:
    """Return a trial's fall of the log-odds, and its lifts."""
    return {
        "deletion": deletion.masks,
        "deletion_lift_uniform": deletion.masks - deletion.random,
        "deletion_lift_gaussian": deletion.masks - deletion.centre,
    }


def lift_columns(name: str, noun: str, values: Values) -> dict[str, Any]:
    """Return the columns `ADDED` of a table's row: the later measures, all intervals and the verdict.

    All are None for trials that have none of the later measures. `name` is that of the row, `noun` what was measured.
    """
    row: dict[str, Any] = dict.fromkeys(ADDED)
    if not any(_found(values, measure) for measure in LATER):
        return row
    for measure in LATER:
        summary = summarise(_found(values, measure))
        row |= {measure: summary.mean, f"{measure}_std": summary.std}
    row["deletion_trials"] = len(_found(values, "deletion")) or None
    lifts = {}
    for measure in MEASURES:
        lifts[measure] = [Lift.of(values, f"{measure}_lift_{blind}") for blind in BLIND]
        for blind, lift in zip(BLIND, lifts[measure], strict=True):
            column = f"{measure}_lift_{blind}"
            row |= {column: lift.mean} if measure in LATER else {}
            if lift.interval is not None:
                row |= bounds(column, lift.interval)
    row["verdict"] = f"{name}: {verdict(noun, {measure: pair for measure, pair in lifts.items() if pair[0].n})}"
    return row


def verdict(noun: str, lifts: Mapping[str, Sequence[Lift]]) -> str:
    """Return whether masks beat both masks that ignore the image, by measure, as one sentence.

    `lifts` holds each measure's lift over a uniform mask and over a centred Gaussian.
    """
    counts = sorted({lift.n for pair in lifts.values() for lift in pair})
    seeds = f"{' to '.join(str(n) for n in dict.fromkeys([counts[0], counts[-1]]))} seed{'s' * (counts[-1] > 1)}"
    if counts[-1] < FEWEST_FOR_AN_INTERVAL:
        return f"{seeds}, too few to say whether the {noun} beat {' or '.join(BLIND.values())}."
    groups: dict[tuple[str, ...], list[str]] = {}
    for measure, pair in lifts.items():
        groups.setdefault(tuple(lift.verb for lift in pair), []).append(MEASURES[measure])
    winning = groups.pop(("beat", "beat"), [])
    both = f"beat both {' and '.join(BLIND.values())}"
    parts = [f"the {noun} {both} in {_listed(winning)}" if winning else f"in no measure do the {noun} {both}"]
    for verbs, measures in groups.items():
        if len(set(verbs)) == 1:
            parts.append(f"in {_listed(measures)} they {verbs[0]} either")
        else:
            said = (f"{verb} {blind}" for verb, blind in zip(verbs, BLIND.values(), strict=True))
            parts.append(f"in {_listed(measures)} they {' and '.join(said)}")
    return f"{'; '.join(parts)} (95 % intervals over {seeds})."


def mask_verdicts(attention: pd.DataFrame) -> list[str]:
    """Return the verdicts on test images, each once for all rows it holds of; none for trials of earlier versions."""
    if "verdict" not in attention:
        return []
    names: dict[str, list[str]] = {}
    for sentence in attention.loc[attention["part"] == "test", "verdict"].dropna():
        name, _, said = sentence.partition(": ")
        names.setdefault(said, []).append(name)
    return [f"{', '.join(rows)}: {said}" for said, rows in names.items()]


def _found(values: Values, column: str) -> list[float]:
    return [one[column] for one in values if one.get(column) is not None]


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
