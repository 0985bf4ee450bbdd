"""The driver's side of a sweep: resolve the plan, check the inputs on a worker, let Tune run what is left."""

import dataclasses
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray import tune
from ray.tune.execution import class_cache
from ray.tune.experiment import Trial
from rich.console import Console

from catdog.claim import Claim
from catdog.config import Identity, SweepConfig
from catdog.context import RunContext
from catdog.errors import StoreError, UserError, first_line
from catdog.ledger import Ledger, best_run, open_ledger
from catdog.paths import RunPaths
from catdog.plan import Plan, make_plan, resolve_identity
from catdog.progress import SweepProgress, showing
from catdog.provenance import code_tree, now, package_versions
from catdog.provision import provide_dataset, provide_weights, weights_digest
from catdog.records import Launch
from catdog.spending import Meter
from catdog.storage import Store, StoreLocation, leaving_at_once
from catdog.sweep.budget import Budget
from catdog.sweep.cluster import Cluster
from catdog.sweep.follow import Cell, Ending, Follow
from catdog.sweep.refreshing import refreshing
from catdog.sweep.trackers import open_tracker
from catdog.sweep.trainable import is_out_of_memory, prepare_worker, run_one

# Tune would hand the driver's credentials to trials in a runtime environment, which Ray logs in plain text.
class_cache.ENV_VARS_TO_PROPAGATE -= {name for name in class_cache.ENV_VARS_TO_PROPAGATE if name.startswith("AWS_")}
# A runtime environment of its own, even one variable, would keep a trial from the workers that are up already.
class_cache.DEFAULT_ENV_VARS.clear()


def run_sweep(
    config: SweepConfig,
    command: tuple[str, ...],
    console: Console,
    refresh: Callable[[Store, Ledger], object] = lambda store, ledger: None,
) -> Ledger:
    """Run what is left of a sweep; returns where the whole run stands then. Ray starts only if something is left.

    `refresh` is called now and then while trials run, with the store and where the run stands.

    Raises:
        UserError: a mistake in options, data, weights or store; no trial was started.
        KeyboardInterrupt: the user stopped it; the same command goes on from here.
    """

    def say(message: str) -> None:
        console.print(message, soft_wrap=True, highlight=False, markup=False)

    location = StoreLocation.of(config.store, config.store_patience)
    store = location.open()
    store.check()
    tracker = open_tracker(config.tracker, config.run_name, say)
    with Cluster(config, location, say) as cluster:
        if not store.exists(RunPaths(config.run_name).manifest):
            cluster.start_early()  # a new run surely has trials to run
        digest = weights_digest(config.recipe.weights)
        _check_backbone(config, digest)
        if cluster.in_doubt:
            cluster.start()  # what no node can give is refused before the data is packed
        dataset = provide_dataset(config, store, say)
        identity = resolve_identity(config, store, dataset, digest, cluster.precision)
        with Claim(store, config.run_name, uuid.uuid4().hex).held(say) as claim, leaving_at_once(store):
            plan = make_plan(config, store, identity, dataset, command)
            if plan.pending:
                cluster.start()
                context = run_context(config, location, identity, cluster.gpus_per_trial)
                _prepare(context, cluster, console)
            _put_manifest(store, plan)
            _say_what_is_left(plan, cluster.slots, say)
            if plan.pending:
                with refreshing(store, config.run_name, refresh):
                    _run_trials(config, context, plan, cluster, claim, tracker, console)
            ledger = open_ledger(store, config.run_name)
            _delete_leftovers(store, ledger)
            if config.keep_weights == "best":
                _keep_best_weights(store, ledger)
    return ledger


def _check_backbone(config: SweepConfig, digest: str | None) -> None:
    from catdog.models.backbones import check_backbone  # with torch: while Ray starts

    check_backbone(config.recipe.backbone, provide_weights(config.recipe.weights, digest), config.recipe.image_size)


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


def _prepare(context: RunContext, cluster: Cluster, console: Console) -> None:
    """Check data and weights on a worker, and compute a frozen backbone's features, before any trial starts."""
    from catdog.inputs import is_prepared

    if cluster.is_this_machine and is_prepared(context):
        return
    resources = cluster.trial_resources
    task = ray.remote(num_cpus=resources["cpu"], num_gpus=resources["gpu"], max_retries=3)(prepare_worker)
    try:
        with console.status("checking data and weights on a worker") as status:
            for message in task.options(num_returns="streaming").remote(context):
                text = ray.get(message)
                status.update(text)
                if not console.is_terminal:
                    console.print(text, soft_wrap=True, highlight=False, markup=False)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, UserError | StoreError):
            raise type(error.cause)(str(error.cause)) from None
        if is_out_of_memory(error.cause):
            raise _lost_worker(error.cause) from None
        raise
    except ray.exceptions.RayError as error:
        raise _lost_worker(error) from None


def _lost_worker(error: Exception) -> UserError:
    return UserError(
        f"the worker that checks data and weights was lost ({first_line(error)}): give nodes more memory, or run the "
        "same command again"
    )


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
        Launch(launch, now(), cluster.unit, config.hourly_price, code=code_tree(), versions=package_versions()),
        cluster.units_per_trial,
        cluster.count_units,
    )
    budget = Budget(meter, store, RunPaths(context.run), plan.ledger.launches, config.max_cost, progress)
    # A worker has been at the store by now: a trial that is refused waits, as for every other fault that may pass.
    known = dataclasses.replace(context, location=dataclasses.replace(context.location, has_answered=True))
    trainable = tune.with_resources(
        tune.with_parameters(run_one, context=known, launch=launch), cluster.trial_resources
    )
    ending = Ending()
    follow = Follow(progress, meter, context, claim, ending, config.max_retries)
    # Tune asks for the places of 200 pending trials at once if nothing is said: more than could ever be had.
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(cluster.slots)
    cells = [(trial.variant.label, trial.seed) for trial in plan.pending]
    with showing(progress, console), budget.watching(), leaving_at_once(store):
        while cells and ending.reason is None:
            follow.lost = []
            _fit(config, trainable, cells, [follow, *tracker], ending)
            cells = follow.lost
    if ending.reason is not None:
        raise ending.reason


def _fit(
    config: SweepConfig,
    trainable: Callable[[dict[str, Any]], None],
    cells: Sequence[Cell],
    callbacks: list[tune.Callback],
    ending: Ending,
) -> None:
    """Let Tune run these trials; its own files go to a scratch folder, since the store is the only truth."""
    scratch = tempfile.mkdtemp(prefix="catdog-tune-")
    grid = [{"variant": label, "seed": seed} for label, seed in cells]
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
                name=config.run_name,
                storage_path=scratch,
                failure_config=tune.FailureConfig(max_failures=config.max_retries),
                callbacks=callbacks,
                stop=ending,
                verbose=0,
            ),
        )
        tuner.fit()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _trial_name(trial: Trial) -> str:
    return f"{trial.config['trial']['variant']} seed {trial.config['trial']['seed']}"


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
