"""What runs on workers: the check of data and weights, and one trial for Tune.

Errors that would come again are caught, recorded under failures/ and returned as a result; only what may pass (a
store that stays away, a process that ran out of memory) raises, and Tune tries again.
"""

import os
import platform
import queue
import threading
import traceback
from collections.abc import Iterator
from typing import Any

from ray import tune

from catdog.claim import require_claim
from catdog.context import RunContext
from catdog.cores import usable_cores
from catdog.errors import NotFoundError, StoreError, first_line
from catdog.paths import RunPaths
from catdog.provenance import now
from catdog.records import EpochRecord, Failure, Launch, PlannedTrial, mask_collapse, to_json
from catdog.storage import Store
from catdog.variants import parse_variant


def prepare_worker(context: RunContext) -> Iterator[str]:
    """Yield messages while the inputs of trials are loaded, with all cores."""
    messages: queue.Queue[str | None] = queue.Queue()
    errors: list[BaseException] = []

    def work() -> None:
        from catdog.inputs import load_inputs
        from catdog.trial import prepare_process

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


def run_one(config: dict[str, Any], context: RunContext, launch: str) -> None:
    """The trainable: one trial. Raises only for what may pass (a store that stays away): Tune then tries again."""
    from catdog.trial import run_trial

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

    def before_end() -> None:
        require_claim(store, context.run, launch)

    try:
        result = run_trial(context, variant, trial.seed, on_epoch, before_end)
    except StoreError:
        raise
    except Exception as error:
        failure = describe_failure(context, trial, error, launch, attempts + 1)
        store.put(context.trial_paths(variant, trial.seed).failure, to_json(failure))
        if spoils_process(error):
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
    """Return whether the driver wants no more trials to start."""
    try:
        return Launch.from_json(store.get(RunPaths(context.run).launch(launch))).closed
    except (NotFoundError, ValueError):
        return False


def failed_attempts(store: Store, context: RunContext, trial: PlannedTrial, launch: str) -> int:
    """Return how often the trial failed before; -1 if it did so for good since this sweep was started."""
    try:
        failure = Failure.from_json(store.get(context.trial_paths(trial.variant, trial.seed).failure))
    except (NotFoundError, TypeError, ValueError):
        return 0
    return -1 if failure.launch == launch else failure.attempts


def describe_failure(context: RunContext, trial: PlannedTrial, error: Exception, launch: str, attempts: int) -> Failure:
    return Failure(
        variant=trial.variant.label,
        seed=trial.seed,
        config_hash=context.identity.trial_hash(trial.variant, trial.seed),
        error=type(error).__name__,
        message=first_line(error),
        traceback="".join(traceback.format_exception(error)),
        attempts=attempts,
        launch=launch,
        log=f"{platform.node()}:{os.path.realpath('/proc/self/fd/2')}",
        failed_at=now(),
    )


def is_out_of_memory(error: BaseException) -> bool:
    # On a GPU torch raises an error of its own, on a CPU a RuntimeError like any other.
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "DefaultCPUAllocator" in str(error)
    )


def spoils_process(error: Exception) -> bool:
    """Return whether the next trial in this process would suffer from the error, too: memory, or a broken GPU."""
    broken = ("CUDA error", "CUDNN_STATUS", "CUBLAS_STATUS")
    return (
        is_out_of_memory(error)
        or type(error).__name__ == "AcceleratorError"
        or any(sign in str(error) for sign in broken)
    )
