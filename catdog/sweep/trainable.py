"""What runs on workers: the check of data and weights, and one trial for Tune.

Errors that would recur are caught, recorded under failures/ and returned as a result; only transient faults (an
unavailable store, a process that ran out of memory) raise, and Tune retries.
"""

import queue
import threading
from collections.abc import Iterator
from typing import Any

from ray import tune

from catdog.config.variants import parse_variant
from catdog.errors import NotFoundError, StoreError
from catdog.runs.cost import Launch
from catdog.runs.history import EpochRecord, mask_collapse
from catdog.runs.manifest import PlannedTrial
from catdog.runs.paths import RunPaths
from catdog.storage import Store
from catdog.storage.serialization import to_json
from catdog.sweep.lease import require_lease
from catdog.sweep.trial_retries import describe_failure, failed_attempts, needs_new_process
from catdog.system.process import usable_cores
from catdog.trial.context import RunContext


def prepare_worker(context: RunContext) -> Iterator[str]:
    """Load the trials' inputs on all cores; yields progress messages."""
    messages: queue.Queue[str | None] = queue.Queue()
    errors: list[BaseException] = []

    def work() -> None:
        from catdog.trial.inputs import load_inputs
        from catdog.trial.setup import prepare_process

        try:
            deterministic = context.identity.recipe.deterministic
            device = prepare_process(usable_cores(), context.gpus_per_trial, deterministic)
            load_inputs(context, device, messages.put)
        except BaseException as error:
            errors.append(error)
        finally:
            messages.put(None)

    thread = threading.Thread(target=work)
    thread.start()
    while (message := messages.get()) is not None:
        yield message
    thread.join()
    if errors:
        raise errors[0]


def train_trial(config: dict[str, Any], context: RunContext, launch: str) -> None:
    """Run one trial for Tune. Raises only what Tune should retry: transient faults, errors that spoil the process."""
    from catdog.trial.run import run_trial

    recipe = context.identity.recipe
    variant = parse_variant(config["trial"]["variant"], recipe.variant_defaults())
    trial = PlannedTrial(variant, config["trial"]["seed"])
    store = context.location.open()
    if _is_closed(store, context, launch):
        tune.report({"status": "not started"})
        return
    attempts = failed_attempts(store, context, trial, launch)
    if attempts < 0:
        tune.report({"status": "failed"})
        return

    def on_epoch(record: EpochRecord) -> None:
        collapse = mask_collapse(record.mask_health) if record.mask_health is not None else None
        tune.report({"epoch": record.epoch, "val_accuracy": record.val_accuracy, "collapse": collapse or ""})

    def before_final_writes() -> None:
        require_lease(store, context.run, launch)

    try:
        result = run_trial(context, variant, trial.seed, on_epoch, before_final_writes)
    except StoreError:
        raise
    except Exception as error:
        failure = describe_failure(context, trial, error, launch, attempts + 1)
        store.put(context.trial_paths(variant, trial.seed).failure, to_json(failure))
        if needs_new_process(error):
            raise  # for a fresh process; the next attempt finds the record above
        tune.report({"status": "failed"})
        return
    tune.report(
        {
            "status": result.status,
            "val_accuracy": result.val_accuracy,
            "test_accuracy": result.test_accuracy,
            "seconds": result.seconds,
        }
    )


def _is_closed(store: Store, context: RunContext, launch: str) -> bool:
    """Return whether the driver has closed the launch: no more trials start."""
    try:
        return Launch.from_json(store.get(RunPaths(context.run).launch(launch))).closed
    except (NotFoundError, ValueError):
        return False
