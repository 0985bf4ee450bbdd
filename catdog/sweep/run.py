"""The driver's side of a sweep: resolve the plan, check the inputs on a worker, let Tune run what is left."""

import logging
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.execution import class_cache
from ray.tune.experiment import Trial
from rich.console import Console

from catdog.aggregation import open_ledger
from catdog.claim import Claim
from catdog.config import Identity, SweepConfig
from catdog.context import RunContext
from catdog.errors import StoreError, StoreRefusedError, UserError, first_line
from catdog.ledger import Ledger
from catdog.models.backbones import check_backbone
from catdog.paths import RunPaths
from catdog.plan import Plan, make_plan, resolve_identity
from catdog.progress import SweepProgress, showing
from catdog.provenance import now
from catdog.provision import provide_dataset, provide_weights, weights_digest
from catdog.records import Launch, PlannedTrial, to_json
from catdog.spending import Meter
from catdog.statistics import best_run
from catdog.storage import Store, StoreLocation, leaving_at_once
from catdog.sweep.budget import Budget
from catdog.sweep.cluster import Cluster
from catdog.sweep.trackers import open_tracker
from catdog.sweep.trainable import describe_failure, failed_attempts, prepare_worker, run_one
from catdog.variants import parse_variant

logger = logging.getLogger(__name__)

# Tune would hand the driver's credentials to trials in a runtime environment, which Ray logs in plain text.
class_cache.ENV_VARS_TO_PROPAGATE -= {name for name in class_cache.ENV_VARS_TO_PROPAGATE if name.startswith("AWS_")}


def run_sweep(config: SweepConfig, command: tuple[str, ...], console: Console) -> Ledger:
    """Run what is left of a sweep; returns where the whole run stands then. Ray starts only if something is left.

    Raises:
        UserError: a mistake in options, data, weights or store; no trial was started.
        KeyboardInterrupt: the user stopped it; the same command goes on from here.
    """

    def say(message: str) -> None:
        console.print(message, soft_wrap=True, highlight=False)

    location = StoreLocation.of(config.store, config.store_patience)
    store = location.open()
    store.check()
    tracker = open_tracker(config.tracker, config.run_name, say)
    digest = weights_digest(config.recipe.weights)
    check_backbone(config.recipe.backbone, provide_weights(config.recipe.weights, digest), config.recipe.image_size)
    with Cluster(config, location, say) as cluster:
        if cluster.in_doubt:
            cluster.start()  # what no node can give is refused before the data is packed
        dataset = provide_dataset(config, store, say)
        identity = resolve_identity(config, store, dataset, digest, cluster.precision)
        with Claim(store, config.run_name, uuid.uuid4().hex).held(say) as claim, leaving_at_once(store):
            plan = make_plan(config, store, identity, dataset, command)
            if plan.pending:
                cluster.start()
                context = run_context(config, location, identity, cluster.gpus_per_trial)
                _prepare_on_worker(context, cluster, console)
            _put_manifest(store, plan)
            _say_what_is_left(plan, cluster.slots, say)
            if plan.pending:
                _run_trials(config, context, plan, cluster, claim, tracker, console)
            ledger = open_ledger(store, config.run_name)
            _delete_leftovers(store, ledger)
            if config.keep_weights == "best":
                _keep_best_weights(store, ledger)
    return ledger


def _say_what_is_left(plan: Plan, slots: int, say: Callable[[str], None]) -> None:
    for entry in plan.ledger.entries:
        if entry.damage is not None and entry.trial in plan.pending:
            say(f"{entry.damage}: {entry.trial.name} will run again")
    if plan.pending:
        done = len(plan.requested) - len(plan.pending)
        say(f"{len(plan.pending)} trials to run, {done} already done; {slots} at once")
    else:
        say(f"all {len(plan.requested)} trials are already done")


def run_context(config: SweepConfig, location: StoreLocation, identity: Identity, gpus_per_trial: float) -> RunContext:
    weights = config.recipe.weights
    is_file = identity.weights_digest is not None and "://" not in weights
    return RunContext(
        run=config.run_name,
        location=location,
        identity=identity,
        weights=os.path.abspath(os.path.expanduser(weights)) if is_file else weights,
        gpus_per_trial=gpus_per_trial,
        checkpoint_seconds=config.checkpoint_seconds,
        keep_weights=config.keep_weights,
    )


def _put_manifest(store: Store, plan: Plan) -> None:
    store.put(RunPaths(plan.ledger.manifest.run).manifest, plan.ledger.manifest.to_json())


def _prepare_on_worker(context: RunContext, cluster: Cluster, console: Console) -> None:
    """Check data and weights on a worker, and compute a frozen backbone's features, before any trial starts."""
    resources = cluster.trial_resources
    task = ray.remote(num_cpus=resources["cpu"], num_gpus=resources["gpu"], max_retries=3)(prepare_worker)
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


def _run_trials(
    config: SweepConfig,
    context: RunContext,
    plan: Plan,
    cluster: Cluster,
    claim: Claim,
    tracker: list[tune.Callback],
    console: Console,
) -> None:
    store, launch = context.location.open(), claim.launch
    progress = SweepProgress(context.run, plan.ledger, cluster.slots)
    progress.pending = len(plan.pending)
    meter = Meter(
        Launch(launch, now(), cluster.unit, config.hourly_price), cluster.units_per_trial, cluster.count_units
    )
    budget = Budget(meter, store, RunPaths(context.run), plan.ledger.launches, config.max_cost, progress)
    trainable = tune.with_resources(
        tune.with_parameters(run_one, context=context, launch=launch), cluster.trial_resources
    )
    grid = [{"variant": trial.variant.label, "seed": trial.seed} for trial in plan.pending]
    ending = _Ending()
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
                callbacks=[_Follow(progress, meter, context, claim, ending), *tracker],
                stop=ending,
                verbose=0,
            ),
        )
        # Tune asks for the places of 200 pending trials at once if nothing is said: more than could ever be had.
        os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(cluster.slots)
        with showing(progress, console), budget.watching(), leaving_at_once(store):
            tuner.fit()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if ending.reason is not None:
        raise ending.reason


def _trial_name(trial: Trial) -> str:
    return f"{trial.config['trial']['variant']} seed {trial.config['trial']['seed']}"


class _Ending(tune.Stopper):
    """Ends the whole sweep as soon as there is a reason."""

    def __init__(self) -> None:
        self.reason: UserError | None = None

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self.reason is not None


class _Follow(tune.Callback):
    """Tells progress and meter what Tune's trials do, and records those that Tune gave up."""

    def __init__(
        self, progress: SweepProgress, meter: Meter, context: RunContext, claim: Claim, ending: "_Ending"
    ) -> None:
        self._progress, self._meter = progress, meter
        self._context, self._claim, self._ending = context, claim, ending
        self._store = context.location.open()

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its callbacks for a restore that never happens

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._end_if_taken_over()
        self._progress.started(*_cell(trial))
        self._meter.started(*_cell(trial))

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        self._end_if_taken_over()
        if "epoch" in result and "status" not in result:
            epochs = self._context.identity.recipe.epochs
            self._progress.epoch(*_cell(trial), result["epoch"], epochs, result["val_accuracy"], result["collapse"])

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        error = _cause(trial)
        self._end_if_refused(error)
        self._progress.interrupted(*_cell(trial), first_line(error))
        self._meter.ended(*_cell(trial))

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        result = trial.last_result
        self._meter.ended(*_cell(trial))
        if result.get("status") == "complete":
            self._progress.finished(*_cell(trial), result["val_accuracy"], result["test_accuracy"], result["seconds"])
        elif result.get("status") == "diverged":
            self._progress.diverged(*_cell(trial), result["seconds"])
        elif result.get("status") == "not started":
            self._progress.left_out(*_cell(trial))
        else:
            self._progress.failed(*_cell(trial))

    def _end_if_taken_over(self) -> None:
        try:
            self._claim.verify()
        except UserError as mistake:
            self._ending.reason = mistake

    def _end_if_refused(self, error: Exception) -> None:
        """End the sweep where the store refuses to be written (a full disk): no trial would fare better."""
        if isinstance(error, StoreRefusedError):
            try:
                self._store.check()
            except UserError as mistake:
                self._ending.reason = mistake
            if self._context.location.is_local:
                self._ending.reason = error

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        error = _cause(trial)
        self._end_if_refused(error)
        label, seed = _cell(trial)
        self._progress.failed(label, seed)
        self._meter.ended(label, seed)
        planned = PlannedTrial(parse_variant(label, self._context.identity.recipe.variant_defaults()), seed)
        failure = describe_failure(self._context, planned, error, self._claim.launch, trial.num_failures)
        where = self._context.trial_paths(planned.variant, seed)
        try:
            if failed_attempts(self._store, self._context, planned, self._claim.launch) >= 0:
                self._store.put(where.failure, to_json(failure))
        except StoreError as refusal:
            logger.error("the failure of %s could not be recorded: %s", planned.name, refusal)


def _cell(trial: Trial) -> tuple[str, int]:
    return trial.config["trial"]["variant"], trial.config["trial"]["seed"]


def _cause(trial: Trial) -> Exception:
    """Return what ended the trial's last attempt, as it was raised where that was in its own code."""
    try:
        error = ray.cloudpickle.loads(Path(trial.pickled_error_file).read_bytes())  # Tune has just written it
    except (OSError, TypeError):
        return RuntimeError("the trial's process was lost")
    return getattr(error, "cause", None) or error


def _delete_leftovers(store: Store, ledger: Ledger) -> None:
    """Delete what processes left that died just after they had put their trial's result."""
    run = RunPaths(ledger.manifest.run)
    for entry in ledger.entries:
        where = run.trial(entry.trial.variant.folder, entry.trial.seed)
        if entry.result is not None and entry.unfinished:
            store.delete(where.checkpoint)
        if entry.result is not None and entry.failure is not None:
            store.delete(where.failure)


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
