"""One trial, (variant, seed), from start to result: plain Python that a debugger, a test and Ray call the same way.

A background thread uploads contact sheets and checkpoints during training. `result.json` is written last, so its
presence means that the trial is finished. A trial that finds its own checkpoint resumes from it; one that finds its
result returns it.
"""

import functools
import time
from collections.abc import Callable

import torch

from catdog.config.variants import VariantSpec
from catdog.errors import DivergedError
from catdog.runs.history import EpochRecord
from catdog.runs.manifest import PlannedTrial
from catdog.runs.places import by_place
from catdog.runs.results import TrialResult
from catdog.runs.trial_files import read_result
from catdog.storage import BackgroundUploads
from catdog.training.loop import fit
from catdog.training.precision import autocast_for, flush_denormals
from catdog.trial.checkpoint import checkpoint_bytes
from catdog.trial.contact_sheet import contact_sheet
from catdog.trial.context import RunContext
from catdog.trial.outcome import Outcome, build_result, queue_epochs, score
from catdog.trial.setup import Trial, set_up


def run_trial(
    context: RunContext,
    variant: VariantSpec,
    seed: int,
    on_epoch: Callable[[EpochRecord], None] = lambda record: None,
    before_final_writes: Callable[[], None] = lambda: None,
) -> TrialResult:
    """Run one trial to its end; store and return its result.

    `before_final_writes` is called before the trial's last files, and again before its result; raise to abort them.

    Raises:
        UserError: data or weights are missing or invalid.
        StoreError: the store was unavailable for longer than uploads retry.
    """
    context, store = context.of_variant(variant), context.location.open()
    where = context.trial_paths(variant, seed)
    finished = read_result(store, where, PlannedTrial(variant, seed), context.identity)
    if finished is not None:
        return finished
    with flush_denormals():
        trial = set_up(context, variant, seed, store)
        result = _train_and_score(trial, on_epoch, before_final_writes)
    store.put(where.result, result.to_json())
    store.delete(where.checkpoint)
    store.delete(where.failure)
    return result


def _train_and_score(
    trial: Trial, on_epoch: Callable[[EpochRecord], None], before_final_writes: Callable[[], None]
) -> TrialResult:
    with BackgroundUploads(trial.store) as uploads:
        diverged: int | None = None
        try:
            _train(trial, uploads, on_epoch)
        except DivergedError as error:
            diverged = error.epoch
        finishing = time.perf_counter()
        before_final_writes()
        queue_epochs(trial, uploads)
        outcome = score(trial, uploads) if diverged is None else Outcome("diverged", best_epoch=diverged)
        uploads.flush()
    before_final_writes()
    return build_result(trial, outcome, uploads, time.perf_counter() - finishing)


def _train(trial: Trial, uploads: BackgroundUploads, on_epoch: Callable[[EpochRecord], None]) -> None:
    """Train to the last epoch, queuing a contact sheet after each and a checkpoint when one is due."""
    state, saved_at = trial.state, time.monotonic()
    for record in fit(state, trial.batches, trial.recipe, trial.derive_seed, trial.device):
        _queue_contact_sheet(trial, record, uploads)
        due = time.monotonic() - saved_at >= trial.context.checkpoint_seconds
        if due and state.next_epoch < trial.recipe.epochs:
            uploads.put(trial.where.checkpoint, checkpoint_bytes(trial.config_hash, state, trial.probe_history))
            saved_at = time.monotonic()
        on_epoch(record)


@torch.inference_mode()
def _queue_contact_sheet(trial: Trial, record: EpochRecord, uploads: BackgroundUploads) -> None:
    """Record this epoch's masks of the probe images, and queue its contact sheet."""
    model = trial.state.evaluated.eval()
    with autocast_for(trial.recipe.precision, trial.device):
        output = model(trial.batches.some("validation", trial.inputs.probe_positions))
    places = by_place(output.masks_BMHW, output.stage_masks)
    if not places:
        return
    masks, predicted = {place: one.half().cpu() for place, one in places.items()}, output.logits_BK.argmax(dim=1).cpu()
    trial.probe_history.masks.append(masks)
    trial.probe_history.predicted_P.append(predicted)
    title = f"{trial.variant.label} · seed {trial.seed} · epoch {record.epoch} · validation {record.val_accuracy:.1f} %"
    # Drawn and encoded on the upload thread.
    arrays = {place: one.numpy() for place, one in masks.items()}
    draw = functools.partial(contact_sheet, trial.probes, arrays, predicted.numpy(), title)
    uploads.put(trial.where.snapshot(record.epoch), draw)
