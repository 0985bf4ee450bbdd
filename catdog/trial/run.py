"""One trial, (variant, seed), from start to result: plain Python that a debugger, a test and Ray call the same way.

A background thread uploads contact sheets and checkpoints during training. `result.json` is written last, so its
presence means that the trial is finished. A trial that finds its own checkpoint resumes from it; one that finds its
result returns it.
"""

import functools
import time
from collections.abc import Callable
from contextlib import suppress

import torch

from catdog.config.variants import VariantSpec
from catdog.errors import DivergedError, PausedError
from catdog.runs.history import EpochRecord
from catdog.runs.manifest import PlannedTrial
from catdog.runs.places import by_place
from catdog.runs.results import TrialResult
from catdog.runs.trial_files import read_result
from catdog.storage import BackgroundUploads
from catdog.training.data_parallel import ALONE, Workers
from catdog.training.loop import fit
from catdog.training.precision import autocast_for, flush_denormals
from catdog.trial.checkpoint import checkpoint_bytes
from catdog.trial.contact_sheet import contact_sheet
from catdog.trial.context import RunContext
from catdog.trial.outcome import Outcome, build_result, check_size_of_masks, evaluate_test, queue_epochs, score
from catdog.trial.setup import Trial, set_up
from catdog.trial.sheet_process import sheet_process


def run_trial(
    context: RunContext,
    variant: VariantSpec,
    seed: int,
    on_epoch: Callable[[EpochRecord], None] = lambda record: None,
    before_final_writes: Callable[[], None] = lambda: None,
    should_pause: Callable[[], bool] = lambda: False,
    workers: Workers = ALONE,
) -> TrialResult:
    """Run one trial to its end; store and return its result.

    `before_final_writes` is called before the trial's last files, and again before its result; raise to abort them.
    `should_pause` is asked after each step of training. Of several `workers` that run a trial together, the first does
    this, and the others `join_trial`.

    Raises:
        UserError: data or weights are missing or invalid.
        StoreError: the store was unavailable for longer than uploads retry.
        PausedError: `should_pause` said so; a checkpoint of that step is stored.
    """
    context, store = context.of_variant(variant), context.location.open()
    where = context.trial_paths(variant, seed)
    finished = read_result(store, where, PlannedTrial(variant, seed), context.identity)
    if finished is not None:
        return finished
    with flush_denormals():
        trial = set_up(context, variant, seed, store, workers)
        result = _train_and_score(trial, on_epoch, before_final_writes, should_pause)
    store.put(where.result, result.to_json())
    store.delete(where.checkpoint)
    store.delete(where.failure)
    return result


def join_trial(
    context: RunContext,
    variant: VariantSpec,
    seed: int,
    on_epoch: Callable[[EpochRecord], None],
    should_pause: Callable[[], bool],
    workers: Workers,
) -> None:
    """Compute one worker's share of a trial that another one runs, with the same arguments; writes nothing.

    Raises:
        UserError, PausedError: as `run_trial`.
    """
    context, store = context.of_variant(variant), context.location.open()
    if read_result(store, context.trial_paths(variant, seed), PlannedTrial(variant, seed), context.identity) is None:
        with flush_denormals(), suppress(DivergedError):
            trial = set_up(context, variant, seed, store, workers)
            _train(trial, None, on_epoch, should_pause)
            evaluate_test(trial)


def _train_and_score(
    trial: Trial,
    on_epoch: Callable[[EpochRecord], None],
    before_final_writes: Callable[[], None],
    should_pause: Callable[[], bool],
) -> TrialResult:
    with BackgroundUploads(trial.store) as uploads:
        diverged: int | None = None
        try:
            _train(trial, uploads, on_epoch, should_pause)
        except DivergedError as error:
            diverged = error.epoch
        finishing = time.perf_counter()
        before_final_writes()
        queue_epochs(trial, uploads)
        outcome = score(trial, uploads) if diverged is None else Outcome("diverged", best_epoch=diverged)
        uploads.flush()
    before_final_writes()
    return build_result(trial, outcome, uploads, time.perf_counter() - finishing)


def _train(
    trial: Trial,
    uploads: BackgroundUploads | None,
    on_epoch: Callable[[EpochRecord], None],
    should_pause: Callable[[], bool],
) -> None:
    """Train to the last epoch, queuing a contact sheet after each epoch and a checkpoint when one is due.

    One is due after a step once the last is `checkpoint_seconds` old (0: after each epoch), and before a pause. Without
    `uploads`, nothing is written: another worker does.
    """
    state, saved_at, allowed = trial.state, time.monotonic(), trial.context.checkpoint_seconds

    def is_due() -> bool:
        return time.monotonic() - saved_at >= allowed

    def wants_break() -> bool:
        return should_pause() or (allowed > 0 and is_due())

    for record in fit(state, trial.batches, trial.recipe, trial.derive_seed, trial.device, wants_break):
        if record is not None and uploads is not None:
            _queue_contact_sheet(trial, record, uploads)
        is_unfinished = state.next_epoch < trial.recipe.epochs
        pauses = is_unfinished and state.workers.any(should_pause())
        if is_unfinished and (record is None or pauses or is_due()):
            if uploads is not None:
                uploads.put(trial.where.checkpoint, checkpoint_bytes(trial.config_hash, state, trial.probe_history))
            saved_at = time.monotonic()
        if record is not None:
            on_epoch(record)
        if pauses:
            if uploads is not None:
                uploads.flush()
            raise PausedError(f"paused in epoch {state.next_epoch}")


@torch.inference_mode()
def _queue_contact_sheet(trial: Trial, record: EpochRecord, uploads: BackgroundUploads) -> None:
    """Record this epoch's masks of the probe images, and queue its contact sheet."""
    model = trial.state.evaluated.eval()
    with autocast_for(trial.recipe.precision, trial.device):
        output = model(trial.batches.some("validation", trial.inputs.probe_positions))
    places = by_place(output.masks_BMHW, output.stage_masks)
    if not places:
        return
    if not trial.probe_history.masks:  # the first epoch
        check_size_of_masks(trial, places)
    masks, predicted = {place: one.half().cpu() for place, one in places.items()}, output.logits_BK.argmax(dim=1).cpu()
    trial.probe_history.masks.append(masks)
    trial.probe_history.predicted_P.append(predicted)
    title = f"{trial.variant.title} · seed {trial.seed} · epoch {record.epoch} · validation {record.val_accuracy:.1f} %"
    # Called on the upload thread.
    draw = sheet_process().contact_sheet if trial.device.type == "cuda" else contact_sheet
    arrays = {place: one.numpy() for place, one in masks.items()}
    uploads.put(
        trial.where.snapshot(record.epoch), functools.partial(draw, trial.probes, arrays, predicted.numpy(), title)
    )
