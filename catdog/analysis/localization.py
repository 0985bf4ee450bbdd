"""Where masks look, measured on images with a trimap of the animal: the scores, and a run's attention table.

The pointing game (Zhang 2016) asks whether a mask's maximum lies on the animal; energy inside (Wang 2020), what share
of its mass does; PxAP (Choe 2020), how well its values tell the animal's pixels from the others, over all thresholds.
All are averaged within each class, then over classes, because few classes make up most of the trimaps. Animals are
large and central, so even a mask that ignores the image scores: `lift` is the margin over a uniform mask, and over a
centred Gaussian.

Shapes: T images with a trimap, M masks, H × W positions of the feature map, S side of the trimap in pixels.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from catdog.analysis.intervals import summarise
from catdog.analysis.mask_lifts import ADDED, deletion_columns, lift_columns
from catdog.analysis.pxap import pxap
from catdog.data.trimaps import read_trimaps
from catdog.runs.artifacts import SPLITS, Deletion, Localization, read_attention_npz, read_deletion, read_localization
from catdog.runs.history import epoch_row, read_history
from catdog.runs.manifest import TrialId
from catdog.runs.places import HEAD, at_place, places_of
from catdog.runs.status import RunStatus
from catdog.runs.trial_files import read_files
from catdog.storage import Store

HEALTH = {
    "overlap": "mask_overlap", "entropy": "mask_entropy", "corner_mass": "mask_corner_mass", "dead": "mask_dead",
}  # fmt: skip
"""Table columns taken from the chosen epoch, with their names in history.csv (see `catdog.training.mask_metrics`)."""

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Maps:
    """A kind of maps that trials keep of images with a trimap."""

    variant: str
    """What the table calls a variant with such maps."""
    noun: str
    arrays: str
    """The file of the maps."""
    scores: str
    """The file of their scores, in a trial's published form."""


MAPS = (
    Maps("{}", "masks", "attention.npz", "localization.json"),
    Maps("{} (Grad-CAM)", "maps", "grad-cam.npz", "grad-cam.json"),
)
"""A network's masks; and of a network without masks, Grad-CAM maps (see `catdog.trial.grad_cam`)."""

GAUSSIAN_SIGMA = 0.25
"""As a fraction of the image's side."""


@dataclass(frozen=True)
class LocalizationScores:
    """How much of the masks lies on the animal, in percent: averaged over masks, macro-averaged over classes."""

    pointing: float
    energy: float
    pxap: float


@dataclass(frozen=True)
class Outlines:
    """Where the animals are, in the cells of an H × W grid."""

    shares_THW: Array
    """The fraction of each cell that is on the animal, exact even where a cell edge splits a pixel."""
    centres_THW: npt.NDArray[np.bool_]
    """Whether each cell's central pixel is on the animal."""
    classes_T: npt.NDArray[np.integer]

    @classmethod
    def of(
        cls, animals_TSS: npt.NDArray[np.bool_], classes_T: npt.NDArray[np.integer], height: int, width: int
    ) -> "Outlines":
        """Return the outlines of `animals_TSS` on a grid of `height` × `width` cells."""
        side = animals_TSS.shape[1]
        rows_HS, columns_WS = _coverage(side, height), _coverage(side, width)
        shares = np.einsum("hs,tsr,wr->thw", rows_HS, animals_TSS.astype(np.float32), columns_WS, optimize=True)
        rows, columns = ((np.arange(cells) + 0.5) * side / cells for cells in (height, width))
        centres = animals_TSS[:, rows.astype(int)[:, None], columns.astype(int)[None, :]]
        return cls(shares, np.asarray(centres), classes_T)


def measure(masks_TMHW: npt.NDArray[np.floating], outlines: Outlines) -> LocalizationScores | None:
    """Return how much of the masks lies on the animals; None if there are no images or no mass.

    A mask with several maxima points at each of them in equal shares; one without mass is left out. None, too, if a
    value is below zero: such masks have no shares of a mass.
    """
    masks = masks_TMHW.astype(np.float64)
    if (masks < 0).any():
        return None
    peaks = masks == masks.max(axis=(2, 3), keepdims=True, initial=-np.inf)
    hits_TM = (peaks * outlines.centres_THW[:, None]).sum(axis=(2, 3)) / peaks.sum(axis=(2, 3)).clip(1)
    energy_TM = energy_inside(masks, outlines)
    alive_TM = ~np.isnan(energy_TM)
    if not alive_TM.any():
        return None
    return LocalizationScores(
        pointing=_macro_average(np.where(alive_TM, hits_TM, np.nan), outlines.classes_T),
        energy=_macro_average(energy_TM, outlines.classes_T),
        pxap=100 * pxap(masks, alive_TM, outlines.shares_THW, outlines.classes_T),
    )


def energy_inside(masks_TMHW: npt.NDArray[np.floating], outlines: Outlines) -> Array:
    """Return the share of each mask's mass that is on the animal, (T, M); NaN for a mask without mass."""
    mass_TM = masks_TMHW.sum(axis=(2, 3))
    inside_TM = (masks_TMHW * outlines.shares_THW[:, None]).sum(axis=(2, 3))
    return np.where(mass_TM > 0, inside_TM / np.where(mass_TM > 0, mass_TM, 1), np.nan)


def uniform_mask(height: int, width: int) -> Array:
    """Return a uniform mask (H, W)."""
    return np.ones((height, width))


def gaussian_mask(height: int, width: int) -> Array:
    """Return a centred Gaussian mask (H, W)."""
    y, x = (np.arange(height) + 0.5) / height - 0.5, (np.arange(width) + 0.5) / width - 0.5
    return np.exp(-(y[:, None] ** 2 + x[None, :] ** 2) / (2 * GAUSSIAN_SIGMA**2))


def _macro_average(values_TM: Array, classes_T: npt.NDArray[np.integer]) -> float:
    """Return the mean over classes of each class's mean, in percent, ignoring NaN."""
    means = []
    for label in np.unique(classes_T):
        values = values_TM[classes_T == label]
        if np.isfinite(values).any():
            means.append(float(np.nanmean(values)))
    return 100 * float(np.mean(means))


def _coverage(pixels: int, cells: int) -> npt.NDArray[np.float32]:
    """Return the fraction of each cell (rows) that each pixel covers: weights for averaging over a cell's area."""
    edges = np.arange(cells + 1) * pixels / cells
    starts, ends = np.arange(pixels), np.arange(pixels) + 1
    overlap = np.minimum(edges[1:, None], ends) - np.maximum(edges[:-1, None], starts)
    return np.asarray(np.clip(overlap, 0, None) * cells / pixels, dtype=np.float32)


def attention_table(store: Store, run_status: RunStatus) -> pd.DataFrame:
    """Return attention.csv: one row per split with trimaps and variant with masks. Means over trials, in percent.

    Column `part` names the split; `images` and `breeds` are the fewest of a trial, whose seed may have Validation
    images of its own; `*_lift_*` are points above a mask that ignores the image. A run with masks at other places than
    the head has a row for each, and a column `place`. The table is empty without trimaps or maps. Variants without
    masks have a row for Grad-CAM if their trials have its maps. What trials of earlier versions lack (PxAP, deletion)
    has columns only if some trials of the run have it.
    """
    histories = read_files(store, run_status.finished, "history.csv", read_history, kept=run_status.kept)
    chosen = {(result.variant, result.seed): epoch_row(history, result.best_epoch) for result, history in histories}
    read = read_files(store, run_status.finished, "deletion.json", read_deletion)
    deletions = {(result.variant, result.seed): splits for result, splits in read}
    localizations = [(maps, localize(store, run_status, maps)) for maps in MAPS]
    rows = []
    for split in SPLITS:
        kinds = [
            (maps, place, _measured(at_place(split, place), localized, deletions if maps is MAPS[0] else {}))
            for maps, localized in localizations
            for place in dict.fromkeys([HEAD, *places_of((name for by in localized.values() for name in by), split)])
        ]
        for label in run_status.manifest.variants:
            trial_ids = [(label, result.seed) for result in run_status.results(label)]
            for maps, place, measured in kinds:
                values = [measured[one] | _health(chosen[one], place) for one in trial_ids if one in measured]
                if values:
                    name = maps.variant.format(label)
                    counts = {
                        "trials": len(values),
                        **{count: _fewest(values, count) for count in ("images", "breeds")},
                    }
                    added = lift_columns(name if place == HEAD else f"{name} at {place}", maps.noun, values)
                    row = {"variant": name, "part": split, "place": place, **counts, **_means(values), **added}
                    rows.append(row)
    table = pd.DataFrame(rows)
    integers = [name for name in ("images", "breeds", "deletion_trials") if rows]
    unmeasured = [name for name in ADDED if rows and table[name.removesuffix("_std")].isna().all()]
    unused = ["place"] if rows and {row["place"] for row in rows} == {HEAD} else []
    return table.astype(dict.fromkeys(integers, "Int64")).drop(columns=[*unmeasured, *unused])


def _measured(
    split: str,
    localized: Mapping[TrialId, Mapping[str, Localization]],
    deletions: Mapping[TrialId, Mapping[str, Deletion]],
) -> dict[TrialId, dict[str, Any]]:
    """Return the measures of each trial on one split; those of deletion alone if the dataset has no outlines."""

    def deleted(trial_id: TrialId) -> dict[str, float]:
        found = deletions.get(trial_id, {}).get(split)
        return {} if found is None else deletion_columns(found)

    unmeasured = dict.fromkeys(field.name for field in dataclasses.fields(Localization))
    found = {one: dataclasses.asdict(by[split]) | deleted(one) for one, by in localized.items() if split in by}
    return found or {
        one: unmeasured | {"images": by[split].images} | deleted(one) for one, by in deletions.items() if split in by
    }


def _fewest(values: Sequence[Mapping[str, Any]], count: str) -> int | None:
    return min((one[count] for one in values if one[count] is not None), default=None)


def _means(values: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """Return means over trials, and standard deviations of pointing and energy."""
    row: dict[str, float | None] = {}
    for name in values[0]:
        if name in ("images", "breeds") or name in ADDED:
            continue
        summary = summarise([one[name] for one in values if one[name] is not None])
        row[name] = summary.mean
        if name in ("pointing", "energy"):
            row[f"{name}_std"] = summary.std
    return row


def localize(store: Store, run_status: RunStatus, maps: Maps = MAPS[0]) -> dict[TrialId, dict[str, Localization]]:
    """Return where the maps of each trial lie, measured, or as the trial's published form says.

    By split and place, named like `test` and `test@layer3`.
    """
    read = read_files(store, run_status.finished, maps.scores, read_localization)
    found = {(result.variant, result.seed): splits for result, splits in read}
    trimaps = read_trimaps(store, run_status.manifest.identity.fingerprint)
    if trimaps is None:
        return found
    grids: dict[tuple[object, ...], tuple[Outlines, LocalizationScores, LocalizationScores]] = {}
    for result, content in read_files(store, run_status.finished, maps.arrays, read_attention_npz):
        splits = found.setdefault((result.variant, result.seed), {})
        for split, attention in content.items():
            names = attention.images
            for place, masks_TMHW in attention.masks.items() if names else ():
                grid = (*names, *masks_TMHW.shape[2:])
                if grid not in grids:
                    rows = trimaps.rows(names)
                    outlines = Outlines.of(trimaps.animals_TSS[rows], trimaps.labels_T[rows], *masks_TMHW.shape[2:])
                    grids[grid] = outlines, *_blind(outlines)
                scores = measure(masks_TMHW, grids[grid][0])
                if scores is not None:
                    splits[at_place(split, place)] = _localization(scores, *grids[grid])
    return found


def _blind(outlines: Outlines) -> tuple[LocalizationScores, LocalizationScores]:
    """Return the scores of a uniform mask and of a centred Gaussian."""
    count, height, width = outlines.shares_THW.shape
    found = []
    for mask in (uniform_mask(height, width), gaussian_mask(height, width)):
        scores = measure(np.broadcast_to(mask, (count, 1, height, width)), outlines)
        assert scores is not None
        found.append(scores)
    return found[0], found[1]


def _localization(
    scores: LocalizationScores, outlines: Outlines, uniform: LocalizationScores, gaussian: LocalizationScores
) -> Localization:
    return Localization(
        images=len(outlines.classes_T),
        breeds=len(np.unique(outlines.classes_T)),
        pointing=scores.pointing,
        pointing_lift_uniform=scores.pointing - uniform.pointing,
        pointing_lift_gaussian=scores.pointing - gaussian.pointing,
        energy=scores.energy,
        energy_lift_uniform=scores.energy - uniform.energy,
        energy_lift_gaussian=scores.energy - gaussian.energy,
        pxap=scores.pxap,
        pxap_lift_uniform=scores.pxap - uniform.pxap,
        pxap_lift_gaussian=scores.pxap - gaussian.pxap,
    )


def _health(chosen: Mapping[str, Any] | None, place: str) -> dict[str, float]:
    """Return what the masks of a place were like in the chosen epoch."""
    return (
        {}
        if chosen is None
        else {column: float(chosen.get(at_place(name, place), np.nan)) for column, name in HEALTH.items()}
    )
