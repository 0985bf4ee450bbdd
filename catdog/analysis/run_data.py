"""Everything a report shows about a run, read from the store once. Imports neither Ray nor torch."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from catdog.analysis.contrasts import Contrast, compare
from catdog.analysis.localization import attention_table
from catdog.analysis.predictions import Predictions, Track, read_predictions
from catdog.analysis.tables import comparison_table, trials_table
from catdog.runs.artifacts import ProbeMasks, parse_artifact
from catdog.runs.history import read_history
from catdog.runs.manifest import TrialId
from catdog.runs.paths import RunPaths, TrialPaths
from catdog.runs.results import best_run
from catdog.runs.status import RunStatus
from catdog.storage import Store, read_many


@dataclass(frozen=True)
class ReportContent:
    """A run's data, as far as the store has it."""

    run_status: RunStatus
    trials: pd.DataFrame
    """trials.csv."""
    table: pd.DataFrame
    """table.csv."""
    contrasts: list[Contrast]
    attention: pd.DataFrame
    """attention.csv; empty without trimaps or masks."""
    predictions: Predictions | None
    """For the test images."""
    histories: Mapping[TrialId, pd.DataFrame]
    """history.csv of the complete and diverged trials."""
    probe_masks: Mapping[TrialId, ProbeMasks]
    """masks.npz of the complete and diverged trials that have one."""
    contact_sheets: Mapping[str, bytes]
    """By label: the PNG of the variant's best run in its chosen epoch."""


def read_content(store: Store, run_status: RunStatus, track: Track = lambda objects, total: objects) -> ReportContent:
    """Read what a report shows, in parallel; `track` shows progress."""
    predictions = read_predictions(store, run_status, track)
    return ReportContent(
        run_status=run_status,
        trials=trials_table(run_status),
        table=comparison_table(run_status),
        contrasts=compare(run_status, predictions),
        attention=attention_table(store, run_status),
        predictions=predictions,
        histories=_read_histories(store, run_status, track),
        probe_masks=_read_probe_masks(store, run_status, track),
        contact_sheets=_read_contact_sheets(store, run_status),
    )


def _read_histories(store: Store, run_status: RunStatus, track: Track) -> dict[TrialId, pd.DataFrame]:
    owners = {paths.history: trial_id for trial_id, paths in _over(run_status).items()}
    objects = track(read_many(store, owners), len(owners))
    return {owners[key]: parse_artifact(key, data, read_history) for key, data in objects}


def _read_probe_masks(store: Store, run_status: RunStatus, track: Track) -> dict[TrialId, ProbeMasks]:
    """Read the probe masks, keeping the probe images that all trials share once."""
    owners = {paths.masks: trial_id for trial_id, paths in _over(run_status).items()}
    probe_masks: dict[TrialId, ProbeMasks] = {}
    images: npt.NDArray[np.uint8] | None = None
    for key, data in track(read_many(store, owners), len(owners)):
        masks = parse_artifact(key, data, ProbeMasks.from_npz)
        if images is None or not np.array_equal(images, masks.images_PSSC):
            images = masks.images_PSSC
        probe_masks[owners[key]] = dataclasses.replace(masks, images_PSSC=images)
    return probe_masks


def _read_contact_sheets(store: Store, run_status: RunStatus) -> dict[str, bytes]:
    owners = {}
    for label in run_status.manifest.variants:
        best = best_run(run_status.results(label))
        if best is not None and best.best_epoch is not None:
            folder = run_status.manifest.spec(label).folder
            owners[RunPaths(run_status.manifest.run).trial(folder, best.seed).snapshot(best.best_epoch)] = label
    return {owners[key]: data for key, data in read_many(store, owners)}


def _over(run_status: RunStatus) -> dict[TrialId, TrialPaths]:
    """Return the paths of all complete and diverged trials, by label and seed."""
    run = RunPaths(run_status.manifest.run)
    trials = (trial.planned for trial in run_status.trials if trial.result is not None)
    return {(trial.variant.label, trial.seed): run.trial(trial.variant.folder, trial.seed) for trial in trials}
