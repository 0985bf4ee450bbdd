"""Where the masks of a run's variants look: the attention table, from the store alone."""

import io
import logging
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from catdog import paths
from catdog.attention import Looks, Outlines, gaussian_mask, measure, uniform_mask
from catdog.errors import NotFoundError
from catdog.ledger import Ledger
from catdog.records import TrialResult
from catdog.statistics import summarise
from catdog.storage import Store, read_many

logger = logging.getLogger(__name__)

PARTS = ("validation", "test")
HEALTH = {
    "overlap": "mask_overlap", "entropy": "mask_entropy", "corner_mass": "mask_corner_mass", "dead": "mask_dead",
}  # fmt: skip
"""The table's columns that are those of history.csv in the chosen epoch (`catdog.models.losses.mask_health`)."""


@dataclass(frozen=True)
class Trimaps:
    """The outlined animals of a dataset."""

    rows: Mapping[str, int]
    """By image name."""
    labels_T: npt.NDArray[np.int64]
    animals_TSS: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Measured:
    """Where the masks of one trial look, on the images of one part."""

    variant: str
    part: str
    images: int
    breeds: int
    values: Mapping[str, float]


def attention_table(store: Store, ledger: Ledger) -> pd.DataFrame:
    """Return one row for each variant with masks and each part that has trimaps: means over trials, in percent.

    `*_lift_*` are points above a mask that knows nothing. Without trimaps, or without masks, the table is empty.
    """
    trimaps = _read_trimaps(store, ledger.manifest.identity.fingerprint)
    measured = list(_measure_trials(store, ledger, trimaps)) if trimaps is not None else []
    rows = []
    for part in PARTS:
        for label in ledger.manifest.variants:
            trials = [one for one in measured if (one.variant, one.part) == (label, part)]
            if trials:
                counts = {"trials": len(trials), "images": trials[0].images, "breeds": trials[0].breeds}
                rows.append({"variant": label, "part": part, **counts, **_means([one.values for one in trials])})
    return pd.DataFrame(rows)


def _means(values: Sequence[Mapping[str, float]]) -> dict[str, float | None]:
    """Return the means over trials, and the standard deviations of the two measures themselves."""
    row: dict[str, float | None] = {}
    for name in values[0]:
        summary = summarise([one[name] for one in values])
        row[name] = summary.mean
        if name in ("pointing", "energy"):
            row[f"{name}_std"] = summary.std
    return row


def _read_trimaps(store: Store, fingerprint: str) -> Trimaps | None:
    try:
        content = np.load(io.BytesIO(store.get(paths.trimaps_key(fingerprint))))
        names, labels, animals = content["names"], content["labels"], content["animals"]
    except NotFoundError:
        return None
    except (KeyError, OSError, ValueError, zipfile.BadZipFile) as error:
        logger.warning("the trimaps are damaged (%s): attention is not measured", error)
        return None
    return Trimaps({name: row for row, name in enumerate(names.tolist())}, labels, animals) if len(names) else None


def _measure_trials(store: Store, ledger: Ledger, trimaps: Trimaps) -> Iterator[Measured]:
    run = paths.RunPaths(ledger.manifest.run)
    results = [result for label in ledger.manifest.variants for result in ledger.results(label)]
    places = [run.trial(ledger.manifest.spec(result.variant).folder, result.seed) for result in results]
    owners = {where.attention: result for where, result in zip(places, results, strict=True)}
    histories = dict(read_many(store, [where.history for where in places]))
    health = {
        where.attention: _health(histories[where.history], result)
        for where, result in zip(places, results, strict=True)
        if where.history in histories
    }
    grids: dict[tuple[str, int, int], tuple[Outlines, Looks, Looks]] = {}
    for key, data in read_many(store, owners):
        content = np.load(io.BytesIO(data))
        for part in PARTS:
            names, masks = content[f"{part}_images"].tolist(), content[f"{part}_masks"]
            if not names:
                continue
            grid = (part, *masks.shape[2:])
            if grid not in grids:
                rows = [trimaps.rows[name] for name in names]
                outlines = Outlines.of(trimaps.animals_TSS[rows], trimaps.labels_T[rows], *masks.shape[2:])
                grids[grid] = outlines, *_blind(outlines)
            outlines, uniform, gaussian = grids[grid]
            looks = measure(masks, outlines)
            if looks is not None:
                breeds = len(np.unique(outlines.breeds_T))
                values = _row(looks, uniform, gaussian) | health.get(key, {})
                yield Measured(owners[key].variant, part, len(names), breeds, values)


def _blind(outlines: Outlines) -> tuple[Looks, Looks]:
    """Return what a uniform mask and a centred Gaussian score."""
    count, height, width = outlines.shares_THW.shape
    scores = []
    for mask in (uniform_mask(height, width), gaussian_mask(height, width)):
        looks = measure(np.broadcast_to(mask, (count, 1, height, width)), outlines)
        assert looks is not None
        scores.append(looks)
    return scores[0], scores[1]


def _row(looks: Looks, uniform: Looks, gaussian: Looks) -> dict[str, float]:
    return {
        "pointing": looks.pointing,
        "pointing_lift_uniform": looks.pointing - uniform.pointing,
        "pointing_lift_gaussian": looks.pointing - gaussian.pointing,
        "energy": looks.energy,
        "energy_lift_uniform": looks.energy - uniform.energy,
        "energy_lift_gaussian": looks.energy - gaussian.energy,
    }


def _health(history_csv: bytes, result: TrialResult) -> dict[str, float]:
    """Return what the masks were like in the chosen epoch."""
    history = pd.read_csv(io.BytesIO(history_csv))
    chosen = history[history["epoch"] == result.best_epoch]
    return {column: float(chosen[name].iloc[0]) for column, name in HEALTH.items()}
