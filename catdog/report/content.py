"""Everything that a report shows, read from the store once. Neither Ray nor torch.

Shapes: E epochs, P probe images, M masks, S side of the probe images in pixels.
"""

import io
import logging
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from catdog.aggregation import comparison_table, trials_table
from catdog.attention_table import attention_table
from catdog.contrasts import Contrast, compare
from catdog.ledger import Ledger, best_run
from catdog.paths import RunPaths, TrialPaths
from catdog.predictions import Predictions, Track, read_predictions
from catdog.storage import Store, read_many

logger = logging.getLogger(__name__)

Cell = tuple[str, int]
"""A trial: label of its variant, seed."""


@dataclass(frozen=True)
class Replay:
    """The masks of one trial's probe images in every epoch."""

    images_PSSC: npt.NDArray[np.uint8]
    labels_P: npt.NDArray[np.int64]
    breeds: tuple[str, ...]
    masks_EPMHW: npt.NDArray[np.float16]
    predicted_EP: npt.NDArray[np.int64]


@dataclass(frozen=True)
class ReportContent:
    """A run, as far as it is there."""

    ledger: Ledger
    trials: pd.DataFrame
    """trials.csv."""
    table: pd.DataFrame
    """table.csv."""
    contrasts: list[Contrast]
    attention: pd.DataFrame
    """attention.csv; empty where there are no trimaps, or no masks."""
    predictions: Predictions | None
    """Of the test images."""
    histories: Mapping[Cell, pd.DataFrame]
    """history.csv of the complete and the diverged trials."""
    replays: Mapping[Cell, Replay]
    """Of the complete trials whose heads have masks."""
    contact_sheets: Mapping[str, bytes]
    """PNGs, by label: that of each variant's best run in its chosen epoch."""


def read_content(store: Store, ledger: Ledger, track: Track = lambda objects, total: objects) -> ReportContent:
    """Read what a report shows, in parallel; `track` is told how far that is."""
    predictions = read_predictions(store, ledger, track)
    return ReportContent(
        ledger=ledger,
        trials=trials_table(ledger),
        table=comparison_table(ledger),
        contrasts=compare(ledger, predictions),
        attention=attention_table(store, ledger),
        predictions=predictions,
        histories=_read_histories(store, ledger, track),
        replays=_read_replays(store, ledger, track),
        contact_sheets=_read_contact_sheets(store, ledger),
    )


def _read_histories(store: Store, ledger: Ledger, track: Track) -> dict[Cell, pd.DataFrame]:
    owners = {paths.history: cell for cell, paths in _over(ledger).items()}
    objects = track(read_many(store, owners), len(owners))
    return {owners[key]: pd.read_csv(io.BytesIO(data)) for key, data in objects}


def _read_replays(store: Store, ledger: Ledger, track: Track) -> dict[Cell, Replay]:
    """The probe images are the same in all trials, and kept once."""
    owners = {paths.masks: cell for cell, paths in _over(ledger).items()}
    replays: dict[Cell, Replay] = {}
    images: npt.NDArray[np.uint8] | None = None
    for key, data in track(read_many(store, owners), len(owners)):
        try:
            content = np.load(io.BytesIO(data))
            if images is None or not np.array_equal(images, content["images"]):
                images = content["images"]
            replays[owners[key]] = Replay(
                images,
                content["labels"],
                tuple(content["breeds"].tolist()),
                content["masks"],
                content["predicted"],
            )
        except (KeyError, OSError, ValueError, zipfile.BadZipFile) as error:
            logger.warning("%s is not readable (%s): its masks are not shown", key, error)
    return replays


def _read_contact_sheets(store: Store, ledger: Ledger) -> dict[str, bytes]:
    owners = {}
    for label in ledger.manifest.variants:
        best = best_run(ledger.results(label))
        if best is not None and best.best_epoch is not None:
            folder = ledger.manifest.spec(label).folder
            owners[RunPaths(ledger.manifest.run).trial(folder, best.seed).snapshot(best.best_epoch)] = label
    return {owners[key]: data for key, data in read_many(store, owners)}


def _over(ledger: Ledger) -> dict[Cell, TrialPaths]:
    """Return the paths of all trials that are over, by label and seed."""
    run = RunPaths(ledger.manifest.run)
    trials = (entry.trial for entry in ledger.entries if entry.result is not None)
    return {(trial.variant.label, trial.seed): run.trial(trial.variant.folder, trial.seed) for trial in trials}
