"""Everything a report shows about a run, read from the store once. Imports neither Ray nor torch."""

import dataclasses
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from catdog.analysis.contrasts import compare
from catdog.analysis.localization import attention_table
from catdog.analysis.log_loss import with_log_losses
from catdog.analysis.predictions import Predictions, read_predictions
from catdog.analysis.tables import comparison_table, trials_table
from catdog.analysis.verdicts import Contrast
from catdog.errors import NotFoundError
from catdog.runs.artifacts import ProbeMasks
from catdog.runs.history import read_history
from catdog.runs.manifest import Manifest, TrialId
from catdog.runs.paths import RunPaths, TrialPaths
from catdog.runs.results import TrialResult
from catdog.runs.status import RunStatus
from catdog.runs.trial_files import Track, read_files, untracked
from catdog.storage import Store, read_many, sha256

logger = logging.getLogger(__name__)
MOST_RECIPE_BYTES = 200_000
"""As `config.recipe_file` reads."""
MOST_MASKED = 1000
"""Trials whose masks are read: more than fit into a page, unless theirs are tiny."""


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
    """masks.npz of the complete and diverged trials that have one; of more than `MOST_MASKED`, those of each variant's
    best run and of the first seeds."""
    contact_sheets: Mapping[str, bytes]
    """By label: the PNG of the variant's best run in its chosen epoch."""
    grad_cam_sheets: Mapping[str, bytes]
    """By label, of variants without masks: the PNG of the best run's Grad-CAM maps."""
    recipe_file: str | None
    """The recipe file that makes the run again; None in runs of earlier versions."""


def read_content(store: Store, run_status: RunStatus, track: Track = untracked) -> ReportContent:
    """Read what a report shows, in parallel, with variants by their short labels; `track` shows progress."""
    run_status = run_status.with_short_labels()
    predictions = read_predictions(store, run_status, track)
    return ReportContent(
        run_status=run_status,
        trials=trials_table(run_status),
        table=comparison_table(run_status),
        contrasts=with_log_losses(compare(run_status, predictions), run_status.manifest, predictions),
        attention=attention_table(store, run_status),
        predictions=predictions,
        histories=_read_histories(store, run_status, track),
        probe_masks=_read_probe_masks(store, run_status, track),
        contact_sheets=_read_sheets(store, run_status, lambda where, best: where.snapshot(best.best_epoch or 0)),
        grad_cam_sheets=_read_sheets(store, run_status, lambda where, best: where.grad_cam_sheet),
        recipe_file=_read_recipe(store, run_status.manifest),
    )


def _read_recipe(store: Store, manifest: Manifest) -> str | None:
    """Return the stored recipe file; None if there is none, or no text of a recipe's size."""
    key = RunPaths(manifest.run).recipe
    try:
        data = store.get(key)
        if len(data) > MOST_RECIPE_BYTES:
            raise ValueError(f"{len(data)} bytes")
        return data.decode()
    except NotFoundError:
        return None
    except ValueError as error:
        logger.warning("%s is no recipe file (%s); it is left out", key, error)
        return None


def _read_histories(store: Store, run_status: RunStatus, track: Track) -> dict[TrialId, pd.DataFrame]:
    found = read_files(store, run_status.finished, "history.csv", read_history, track, run_status.kept)
    return {(result.variant, result.seed): history for result, history in found}


def _read_probe_masks(store: Store, run_status: RunStatus, track: Track) -> dict[TrialId, ProbeMasks]:
    """Read the probe masks, keeping the probe images, which all trials of a split share, once."""
    masked = {where: result for where, result in run_status.finished.items() if "masks.npz" in result.files}
    best = run_status.best_runs
    first = set(sorted(masked, key=lambda one: (masked[one] is not best[masked[one].variant], one.seed))[:MOST_MASKED])
    chosen = {where: result for where, result in masked.items() if where in first}
    probe_masks: dict[TrialId, ProbeMasks] = {}
    shared: dict[tuple[str, ...], npt.NDArray[np.uint8]] = {}
    for result, masks in read_files(store, chosen, "masks.npz", ProbeMasks.from_npz, track):
        images = shared.setdefault(tuple(masks.names), masks.images_PSSC)
        probe_masks[result.variant, result.seed] = dataclasses.replace(masks, images_PSSC=images)
    return probe_masks


def _read_sheets(
    store: Store, run_status: RunStatus, sheet_of: Callable[[TrialPaths, TrialResult], str]
) -> dict[str, bytes]:
    """Return one sheet of each variant's best run, by label."""
    owners: dict[str, tuple[str, str]] = {}
    for label, best in run_status.best_runs.items():
        if best is not None:
            where = RunPaths(run_status.manifest.run).trial(run_status.manifest.spec(label).folder, best.seed)
            sheet = sheet_of(where, best)
            owners[sheet] = label, best.files.get(sheet.removeprefix(f"{where.folder}/"), "")
    sheets = {}
    for key, data in read_many(store, owners):
        label, digest = owners[key]
        if sha256(data) == digest and data.startswith(b"\x89PNG\r\n\x1a\n"):
            sheets[label] = data
        else:
            logger.warning("%s is damaged: it is not the PNG that result.json names; it is left out", key)
    return sheets
