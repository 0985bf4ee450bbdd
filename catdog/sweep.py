"""The grid on Ray Tune: one grid axis of trials, seed by seed, on a local Ray or an existing cluster (RAY_ADDRESS).

Tune places trials, reuses worker processes and retries after faults of the infrastructure. It keeps no state that
matters: the store is the only truth, so nothing is restored, and starting the same sweep again does what is left.
Errors that would come again are caught in the trial, recorded under failures/, and never retried blindly. This is the
only module that imports Ray.
"""

import os

# Read by Ray when it is imported: token authentication stays on, nothing is sent home, and Tune says nothing of its
# own.
os.environ.setdefault("RAY_AUTH_MODE", "token")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
os.environ.setdefault("TUNE_WARN_THRESHOLD_S", "10")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import logging
import platform
import queue
import shutil
import signal
import tempfile
import threading
import traceback
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import ray
from ray import tune
from ray.tune.experiment import Trial
from rich.console import Console

from catdog import allocator
from catdog.aggregation import open_ledger
from catdog.config import Identity, Precision, SweepConfig
from catdog.context import RunContext
from catdog.errors import NotFoundError, StoreError, UserError
from catdog.ledger import Ledger
from catdog.paths import RunPaths
from catdog.plan import Plan, make_plan, resolve_identity
from catdog.progress import SweepProgress, showing
from catdog.provenance import now
from catdog.provision import provide_dataset, weights_digest
from catdog.records import EpochRecord, Failure, PlannedTrial, to_json
from catdog.statistics import best_run
from catdog.storage import Store, StoreLocation
from catdog.variants import parse_variant

logger = logging.getLogger(__name__)

OBJECT_STORE_BYTES = 128 * 1024 * 1024
"""Enough for a local Ray: data travels through the store and the page cache, never through Ray."""


def run_sweep(config: SweepConfig, command: tuple[str, ...], console: Console) -> Ledger:
    """Run what is left of a sweep; returns where the whole run stands then. Ray starts only if something is left.

    Raises:
        UserError: a mistake in options, data, weights or store; no trial was started.
        KeyboardInterrupt: the user stopped it; the same command goes on from here.
    """

    def say(message: str) -> None:
        console.print(message, soft_wrap=True, highlight=False)

    location = StoreLocation.of(config.store)
    store = location.open()
    store.check()
    digest = weights_digest(config.recipe.weights)
    dataset = provide_dataset(config, store, say)
    with _Cluster(config, location, say) as cluster:
        identity = resolve_identity(config, store, dataset, digest, cluster.precision)
        plan = make_plan(config, store, identity, dataset, command)
        if plan.pending:
            cluster.start()
            context = _context(config, location, identity, cluster.use_gpu)
            _prepare_on_worker(context, cluster, console)
            _put_manifest(store, plan)
            done = len(plan.requested) - len(plan.pending)
            say(f"{len(plan.pending)} trials to run, {done} already done; {cluster.slots} at once")
            _run_trials(config, context, plan, cluster, store, console)
        else:
            _put_manifest(store, plan)
            say(f"all {len(plan.requested)} trials are already done")
    ledger = open_ledger(store, config.run_name)
    if config.keep_weights == "best":
        _keep_best_weights(store, ledger)
    return ledger


class _Cluster:
    """The Ray that trials run on: the one at RAY_ADDRESS, or one started here for the time of the sweep."""

    def __init__(self, config: SweepConfig, location: StoreLocation, say: Callable[[str], None]) -> None:
        self._config = config
        self._location = location
        self._say = say
        self._ours = False
        self.use_gpu = False
        self.slots = 0

    def __enter__(self) -> "_Cluster":
        return self

    def __exit__(self, *_: object) -> None:
        if self._ours:
            ray.shutdown()

    def start(self) -> None:
        """Connect, and check that trials can be placed."""
        if self.slots:
            return
        if not ray.is_initialized():
            self._ours = True
            quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
            if os.environ.get("RAY_ADDRESS"):
                ray.init(runtime_env={"env_vars": allocator.ENVIRONMENT}, **quiet)
            else:
                self._say("starting a local Ray")
                os.environ.update(allocator.ENVIRONMENT)  # Ray's processes inherit it
                ray.init("local", include_dashboard=False, object_store_memory=OBJECT_STORE_BYTES, **quiet)
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, _interrupt)  # over Ray's own handler, which prints a stack
        nodes = [node for node in ray.nodes() if node["Alive"]]
        if self._location.is_local and len(nodes) > 1:
            raise UserError(
                f"--store {self._location.url}: a folder is not shared by the {len(nodes)} nodes of this cluster; "
                "use s3://bucket/prefix"
            )
        resources = ray.cluster_resources()
        cpus, gpus = resources.get("CPU", 0.0), resources.get("GPU", 0.0)
        if self._config.gpus_per_trial is None and not gpus:
            self._say("no GPU here: trials run on the CPU, which takes long for this preset")
        wanted = self.gpus_per_trial
        if wanted and not gpus:
            raise UserError(
                f"--gpus-per-trial {wanted:g}: there is no GPU here; use --gpus-per-trial 0 to train on the CPU"
            )
        largest = max((node["Resources"].get("CPU", 0.0) for node in nodes), default=0.0)
        if self._config.cpus_per_trial > largest:
            raise UserError(
                f"--cpus-per-trial {self._config.cpus_per_trial}: the largest node here has {largest:g} cores"
            )
        self.use_gpu = wanted > 0
        self.slots = int(min(cpus // self._config.cpus_per_trial, gpus // wanted if wanted else cpus))

    @property
    def gpus_per_trial(self) -> float:
        if self._config.gpus_per_trial is not None:
            return self._config.gpus_per_trial
        return 1.0 if ray.cluster_resources().get("GPU") else 0.0

    @property
    def trial_resources(self) -> dict[str, float]:
        return {"cpu": float(self._config.cpus_per_trial), "gpu": self.gpus_per_trial}

    def precision(self) -> Precision:
        """Return the precision that `auto` stands for here: bfloat16 on GPUs that have it."""
        if self._config.gpus_per_trial == 0:
            return "float32"
        self.start()
        task = ray.remote(num_gpus=self.gpus_per_trial, num_cpus=self._config.cpus_per_trial)(_device_precision)
        precision: Precision = ray.get(task.remote())
        return precision


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _context(config: SweepConfig, location: StoreLocation, identity: Identity, use_gpu: bool) -> RunContext:
    weights = config.recipe.weights
    is_file = identity.weights_digest is not None and "://" not in weights
    return RunContext(
        run=config.run_name,
        location=location,
        identity=identity,
        weights=os.path.abspath(os.path.expanduser(weights)) if is_file else weights,
        use_gpu=use_gpu,
        checkpoint_seconds=config.checkpoint_seconds,
        keep_weights=config.keep_weights,
    )


def _put_manifest(store: Store, plan: Plan) -> None:
    store.put(RunPaths(plan.ledger.manifest.run).manifest, plan.ledger.manifest.to_json())


def _device_precision() -> Precision:
    import torch

    return "bfloat16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "float32"


def _prepare_on_worker(context: RunContext, cluster: _Cluster, console: Console) -> None:
    """Check data and weights on a worker, and compute a frozen backbone's features, before any trial starts."""
    resources = cluster.trial_resources
    task = ray.remote(num_cpus=resources["cpu"], num_gpus=resources["gpu"], max_retries=3)(_prepare)
    try:
        with console.status("checking data and weights on a worker") as status:
            for message in task.options(num_returns="streaming").remote(context):
                text = ray.get(message)
                status.update(text)
                if not console.is_terminal:
                    console.print(text, soft_wrap=True, highlight=False)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, UserError | StoreError):
            raise type(error.cause)(str(error.cause)) from None
        raise


def _prepare(context: RunContext) -> Iterator[str]:
    """Yield messages while the inputs of trials are loaded, with all cores."""
    messages: queue.Queue[str | None] = queue.Queue()
    errors: list[BaseException] = []

    def work() -> None:
        from catdog.inputs import load_inputs
        from catdog.trial import prepare_process

        try:
            deterministic = context.identity.recipe.deterministic
            device = prepare_process(len(os.sched_getaffinity(0)), context.use_gpu, deterministic)
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


def _run_trials(
    config: SweepConfig, context: RunContext, plan: Plan, cluster: _Cluster, store: Store, console: Console
) -> None:
    launch = uuid.uuid4().hex
    progress = SweepProgress(context.run, plan.ledger, cluster.slots)
    progress.pending = len(plan.pending)
    trainable = tune.with_resources(
        tune.with_parameters(_run_one, context=context, launch=launch), cluster.trial_resources
    )
    grid = [{"variant": trial.variant.label, "seed": trial.seed} for trial in plan.pending]
    scratch = tempfile.mkdtemp(prefix="catdog-tune-")
    try:
        tuner = tune.Tuner(
            trainable,
            param_space={"trial": tune.grid_search(grid)},
            tune_config=tune.TuneConfig(
                reuse_actors=True,
                trial_name_creator=_trial_name,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(
                name=context.run,
                storage_path=scratch,
                failure_config=tune.FailureConfig(max_failures=config.max_retries),
                callbacks=[_Follow(progress, context, store, launch)],
                verbose=0,
            ),
        )
        with showing(progress, console):
            tuner.fit()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _trial_name(trial: Trial) -> str:
    return f"{trial.config['trial']['variant']} seed {trial.config['trial']['seed']}"


def _run_one(config: dict[str, Any], context: RunContext, launch: str) -> None:
    """The trainable: one trial. Raises only for what may pass (a store that stays away): Tune then tries again."""
    from catdog.trial import run_trial

    recipe = context.identity.recipe
    variant = parse_variant(config["trial"]["variant"], recipe.variant_defaults())
    trial = PlannedTrial(variant, config["trial"]["seed"])
    store = context.location.open()
    attempts = _attempts(store, context, trial, launch)
    if attempts < 0:
        tune.report({"status": "failed"})
        return

    def on_epoch(record: EpochRecord) -> None:
        tune.report({"epoch": record.epoch, "val_accuracy": record.val_accuracy})

    try:
        result = run_trial(context, variant, trial.seed, on_epoch)
    except StoreError:
        raise
    except Exception as error:
        failure = _failure(context, trial, error, launch, attempts + 1)
        store.put(context.trial_paths(variant, trial.seed).failure, to_json(failure))
        if _is_out_of_memory(error):
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


def _attempts(store: Store, context: RunContext, trial: PlannedTrial, launch: str) -> int:
    """Return how often the trial failed before; -1 if it did so for good since this sweep was started."""
    try:
        failure = Failure.from_json(store.get(context.trial_paths(trial.variant, trial.seed).failure))
    except (NotFoundError, TypeError, ValueError):
        return 0
    return -1 if failure.launch == launch else failure.attempts


def _failure(context: RunContext, trial: PlannedTrial, error: Exception, launch: str, attempts: int) -> Failure:
    return Failure(
        variant=trial.variant.label,
        seed=trial.seed,
        config_hash=context.identity.trial_hash(trial.variant, trial.seed),
        error=type(error).__name__,
        message=(str(error).splitlines() or [""])[0][:300],
        traceback="".join(traceback.format_exception(error)),
        attempts=attempts,
        launch=launch,
        log=f"{platform.node()}:{os.path.realpath('/proc/self/fd/2')}",
        failed_at=now(),
    )


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"


class _Follow(tune.Callback):
    """Tells the progress what Tune's trials do, and records those that Tune gave up."""

    def __init__(self, progress: SweepProgress, context: RunContext, store: Store, launch: str) -> None:
        self._progress, self._context, self._store, self._launch = progress, context, store, launch

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its callbacks for a restore that never happens

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._progress.started(*_cell(trial))

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        if "epoch" in result and "status" not in result:
            epochs = self._context.identity.recipe.epochs
            self._progress.epoch(*_cell(trial), result["epoch"], epochs, result["val_accuracy"])

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._progress.interrupted(*_cell(trial))

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        result = trial.last_result
        if result.get("status") == "complete":
            self._progress.finished(*_cell(trial), result["val_accuracy"], result["test_accuracy"], result["seconds"])
        elif result.get("status") == "diverged":
            self._progress.diverged(*_cell(trial), result["seconds"])
        else:
            self._progress.failed(*_cell(trial))

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        label, seed = _cell(trial)
        self._progress.failed(label, seed)
        planned = PlannedTrial(parse_variant(label, self._context.identity.recipe.variant_defaults()), seed)
        cause = trial.get_error() or RuntimeError("the trial's process was lost")
        failure = _failure(self._context, planned, cause, self._launch, trial.num_failures)
        where = self._context.trial_paths(planned.variant, seed)
        try:
            if _attempts(self._store, self._context, planned, self._launch) >= 0:
                self._store.put(where.failure, to_json(failure))
        except StoreError as error:
            logger.error("the failure of %s could not be recorded: %s", planned.name, error)


def _cell(trial: Trial) -> tuple[str, int]:
    return trial.config["trial"]["variant"], trial.config["trial"]["seed"]


def _keep_best_weights(store: Store, ledger: Ledger) -> None:
    """Delete the weights of all trials but each variant's best run by validation."""
    run = RunPaths(ledger.manifest.run)
    for label in ledger.manifest.variants:
        results = ledger.results(label)
        best = best_run(results)
        folder = ledger.manifest.spec(label).folder
        for result in results:
            if result is not best:
                store.delete(run.trial(folder, result.seed).weights)
