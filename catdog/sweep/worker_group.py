"""A trial on several workers: Ray Train starts a process for each GPU, and each computes its share of every batch.

The group runs from inside the trial's Tune function, which waits for it and holds no resources of its own. A worker
that is lost or fails ends the group; Tune retries the trial like any other, and it resumes from its checkpoint.
"""

import functools
import os

import ray
import ray.train
from ray.train import (
    ControllerError,
    FailureConfig,
    PreemptionError,
    RunConfig,
    ScalingConfig,
    TrainingFailedError,
)
from ray.train.torch import TorchConfig, TorchTrainer
from ray.tune.integration.ray_train import TuneReportCallback

from catdog.errors import PausedError, WorkerLostError, first_line
from catdog.runs.history import EpochRecord
from catdog.runs.manifest import PlannedTrial
from catdog.runs.results import TrialResult
from catdog.sweep.device_errors import is_fault_of_a_gpu, naming_the_card, naming_the_node
from catdog.sweep.lease import require_lease
from catdog.sweep.pausing import watching_for_pauses
from catdog.sweep.ray_internals import freeing_placement_group, own_placement_group
from catdog.system.scratch import scratch_folder
from catdog.training.data_parallel import Workers
from catdog.trial.context import RunContext
from catdog.trial.device import SIMULATED_GPUS
from catdog.trial.run import join_trial, run_trial

_OF_A_PEER = ("connection closed by peer", "connection reset by peer", "gloo/transport", "nccl", "broken pipe")
"""What torch says on one process when another is gone."""


def run_on_workers(context: RunContext, trial: PlannedTrial, launch: str) -> TrialResult:
    """Run a trial on its workers, from its Tune function; returns its result.

    Raises:
        WorkerLostError: a worker's process or node is gone, or that of Ray Train's controller; or they did not start.
        Exception: what `run_trial` raises on a worker.
    """
    gpus, is_simulated = context.gpus_per_trial, SIMULATED_GPUS in os.environ
    with scratch_folder("catdog-train-") as scratch, freeing_placement_group(_owner(trial, launch)):
        trainer = TorchTrainer(
            functools.partial(_train_share, context, trial, launch, ray.get_runtime_context().get_node_id()),
            # What the host alone decides, such as whether to pause, does not wait for the GPUs.
            torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if gpus and not is_simulated else "gloo"),
            scaling_config=ScalingConfig(
                num_workers=context.identity.workers,
                use_gpu=bool(gpus),
                resources_per_worker={"CPU": context.identity.threads, "GPU": gpus},
            ),
            run_config=RunConfig(
                name=context.run,
                storage_path=str(scratch),
                failure_config=FailureConfig(max_failures=0, max_preemption_failures=0),
                callbacks=[TuneReportCallback()],
            ),
        )
        try:
            result: TrialResult = trainer.fit().return_value
            return result
        except (TrainingFailedError, ray.exceptions.RayError) as error:
            raise _cause(error) from None


def _owner(trial: PlannedTrial, launch: str) -> str:
    return f"{launch}/{trial.name}"


def _train_share(context: RunContext, trial: PlannedTrial, launch: str, driver: str) -> TrialResult | None:
    """Compute this worker's share of the trial; the first one returns the result."""
    train = ray.train.get_context()
    workers = Workers(train.get_world_rank(), train.get_world_size())
    own_placement_group(_owner(trial, launch))
    context.load_heads()
    store = context.location.open()

    epochs = context.identity.of(trial.variant).recipe.epochs

    def on_epoch(record: EpochRecord) -> None:
        ray.train.report(record.report(epochs))

    name = f"{trial.name}, worker {workers.index}"
    with (
        watching_for_pauses(launch, name, driver) as watch,
        naming_the_node(),
        naming_the_card(context.gpus_per_trial),
    ):
        about = (context, trial.variant, trial.seed, on_epoch)
        if workers.index == 0:
            before_final_writes = functools.partial(require_lease, store, context.run, launch)
            return run_trial(*about, before_final_writes, watch.should_pause, workers)
        join_trial(*about, watch.should_pause, workers)
    return None


def _cause(error: TrainingFailedError | ray.exceptions.RayError) -> Exception:
    """Return the error behind the end of a group: a pause, else a worker's own, else that a worker was lost."""
    if isinstance(error, PreemptionError):
        return PausedError("a node of the trial is being reclaimed")
    if isinstance(error, ControllerError):
        reason = error.controller_failure
        return WorkerLostError(
            f"the trial's workers did not start: {first_line(getattr(reason, 'cause', None) or reason)}"
        )
    failures: list[Exception] = list(getattr(error, "worker_failures", {}).values())
    paused = [one for one in failures if isinstance(one, PausedError)]
    own = [one for one in failures if not _is_of_a_lost_worker(one)]
    return next(iter(paused + own), WorkerLostError("one of the trial's workers was lost"))


def _is_of_a_lost_worker(error: Exception) -> bool:
    is_rays = isinstance(error, ray.exceptions.RayError) or type(error).__module__.startswith("ray.")
    # A worker names the card of what its GPU does wrong; one that fails before that does not get so far.
    return is_rays or is_fault_of_a_gpu(error) or any(sign in str(error).lower() for sign in _OF_A_PEER)
