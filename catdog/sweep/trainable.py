"""What runs on workers: the check of data and weights, and one trial for Tune.

Errors that would recur are caught, recorded under failures/ and returned as a result; only transient faults (an
unavailable store, a GPU or a node that fails, a process that ran out of memory) raise, and Tune retries.
"""

import functools
import platform
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ray import tune

from catdog.errors import DeviceError, NotFoundError, PausedError, StoreError, WorkerLostError
from catdog.formatting import ReportProgress
from catdog.runs.cost import Launch
from catdog.runs.history import EpochRecord
from catdog.runs.manifest import PlannedTrial
from catdog.runs.paths import RunPaths
from catdog.runs.results import TrialResult
from catdog.storage import Store
from catdog.storage.serialization import to_json
from catdog.sweep.device_errors import naming_the_card, naming_the_node, needs_new_process, this_card, this_node
from catdog.sweep.lease import read_lease, require_lease
from catdog.sweep.pausing import PauseWatch, preempted, watching_for_pauses
from catdog.sweep.trial_retries import describe_failure, failed_attempts
from catdog.system.kept_thread import in_kept_thread
from catdog.system.process import usable_cores
from catdog.trial.context import RunContext

Report = Callable[[dict[str, Any]], None]


def prepare_worker(contexts: Sequence[RunContext]) -> Iterator[str]:
    """Load the inputs of trials with each of these recipes on all cores; yields progress messages."""

    def work(report_progress: ReportProgress) -> None:
        from catdog.trial.inputs import load_inputs
        from catdog.trial.setup import prepare_process

        for context in contexts:
            context.load_heads()
            deterministic = context.identity.recipe.deterministic
            with naming_the_card(context.gpus_per_trial):
                device = prepare_process(usable_cores(), context.gpus_per_trial, deterministic)
                load_inputs(context, device, report_progress=report_progress)

    yield from in_kept_thread(work)


def train_trial(config: dict[str, Any], context: RunContext, launch: str) -> None:
    """Run one trial for Tune. Raises only what Tune should retry: transient faults, errors that spoil the process.

    Tune calls it in a new thread for each trial; all trials of a worker run in one, which never waits for Tune.
    """

    def work(report: Report) -> None:
        report(_train_trial(config, context, launch, report))

    for result in in_kept_thread(work):
        tune.report(result)


def _train_trial(config: dict[str, Any], context: RunContext, launch: str, report: Report) -> dict[str, Any]:
    """Run one trial; `report` what the driver is told of each epoch, and return what it is told of the end."""
    with naming_the_node():
        context.load_heads()
        variant = context.variant(config["trial"]["variant"])
        store = context.location.open()
    _require_drivers_folder(context, store)
    trial = PlannedTrial(variant, config["trial"]["seed"])
    with watching_for_pauses(launch, trial.name) as watch:
        if watch.node_is_going:
            raise preempted()
        if watch.sweep_is_ending or _is_closed(store, context, launch):
            return {"status": "not started"}
        attempts = failed_attempts(store, context, trial, launch)
        if attempts < 0:
            return {"status": "failed"}
        try:
            result = _run(trial, context, store, launch, watch, report)
        except (StoreError, WorkerLostError, DeviceError):
            raise
        except PausedError:
            watch.look()
            if not watch.sweep_is_ending:
                raise preempted() from None
            return {"status": "not started"}
        except Exception as error:
            failure = describe_failure(context, trial, error, launch, attempts + 1)
            store.put(context.trial_paths(variant, trial.seed).failure, to_json(failure))
            if needs_new_process(error):
                raise  # for a fresh process; the next attempt finds the record above
            return {"status": "failed"}
    card = this_card() if context.gpus_per_trial else this_node()
    return {
        "status": result.status,
        "val_accuracy": result.val_accuracy,
        "test_accuracy": result.test_accuracy,
        "seconds": result.seconds,
        "card": card if context.identity.workers == 1 else None,
    }


def _run(
    trial: PlannedTrial, context: RunContext, store: Store, launch: str, watch: PauseWatch, report: Report
) -> TrialResult:
    """Run the trial in this process, or on workers of its own."""
    if context.identity.workers > 1:
        from catdog.sweep.worker_group import run_on_workers

        return run_on_workers(context, trial, launch)
    from catdog.trial.run import run_trial

    epochs = context.identity.of(trial.variant).recipe.epochs

    def on_epoch(record: EpochRecord) -> None:
        report(record.report(epochs))

    before_final_writes = functools.partial(require_lease, store, context.run, launch)
    with naming_the_node(), naming_the_card(context.gpus_per_trial):
        return run_trial(context, trial.variant, trial.seed, on_epoch, before_final_writes, watch.should_pause)


def _require_drivers_folder(context: RunContext, store: Store) -> None:
    """Raise `StoreError` on a node where the folder is another one, as it may be on one that joined after the check."""
    if not context.location.is_shared and read_lease(store, context.run) is None:
        raise StoreError(f"{platform.node()}: no sweep holds the run in {store.url}: not the driver's folder")


def _is_closed(store: Store, context: RunContext, launch: str) -> bool:
    """Return whether the driver has closed the launch: no more trials start."""
    try:
        return Launch.from_json(store.get(RunPaths(context.run).launch(launch))).closed
    except (NotFoundError, ValueError):
        return False
