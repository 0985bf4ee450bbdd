"""The driver's side of a sweep: resolve the plan, check the inputs on a worker, let Tune run the pending trials."""

import dataclasses
import functools
import os
import uuid
from collections.abc import Callable, Sequence

import ray
from ray import tune
from rich.console import Console

from catdog.config.sweep_options import SweepConfig, require_all_seeds
from catdog.config.variants import VariantSpec
from catdog.data.datasets.registry import check_dataset
from catdog.data.prepare import DatasetInfo, prepare_dataset
from catdog.formatting import ReportProgress, counted, now
from catdog.runs.code_record import Probe
from catdog.runs.cost import Launch, total_cost
from catdog.runs.looks import UNDECIDED, Look, store_look
from catdog.runs.paths import WEIGHTS, RunPaths
from catdog.runs.provenance import code_tree, package_versions
from catdog.runs.status import RunStatus, open_run
from catdog.runs.trial_files import delete_outvoted
from catdog.runs.weights_digest import local_weights
from catdog.storage import Store, StoreLocation, give_up_on_interrupt
from catdog.sweep.callback import SweepCallback, SweepStopper
from catdog.sweep.cluster import Cluster
from catdog.sweep.code_check import check_code, code_of
from catdog.sweep.lease import RunLease
from catdog.sweep.notifications import INTERRUPTED, Notifier
from catdog.sweep.pausing import pause_trials
from catdog.sweep.plan import Plan, ResolvedRun, make_plan, resolve_run, whole_run_yaml
from catdog.sweep.progress import SweepProgress, show_progress
from catdog.sweep.report_refresh import refresh_report
from catdog.sweep.trackers import open_tracker, require_tracker
from catdog.sweep.trainable import prepare_worker, train_trial
from catdog.sweep.trial_retries import LostTrials
from catdog.sweep.tune_loop import run_in_turn
from catdog.sweep.usage_meter import Budget, Meter
from catdog.trial.context import RunContext


def run_sweep(
    config: SweepConfig,
    command: tuple[str, ...],
    console: Console,
    notifier: Notifier,
    refresh: Callable[[Store, RunStatus], object] = lambda store, run_status: None,
    take_look: Callable[[Store, RunStatus], Look | None] | None = None,
) -> RunStatus:
    """Run a sweep's pending trials; returns the status of the whole run. Ray starts only if needed.

    `notifier` tells of what cannot wait until the end, which is the caller's to tell. `refresh` is called from time to
    time while trials run, with the store and the run's status. With `--until-decided`, only the trials that the next
    look needs are run, `take_look` says what it finds (None if none is left), and so on.

    Raises:
        UserError: a mistake in options, data, weights or store, before any trial starts; while trials run, another
            sweep took over the run or the store refuses writes.
        KeyboardInterrupt: the user stopped it; the same command resumes from here.
    """

    def report_progress(message: str) -> None:
        console.print(message, soft_wrap=True)

    if take_look is None:
        require_all_seeds(config)
    check_dataset(config).check()  # before anything starts
    location = StoreLocation.of(config.store, config.store_patience)
    store = location.open()
    store.check()
    require_tracker(config.tracker)
    with Cluster(config, location, report_progress) as cluster:
        run = _resolve(config, store, cluster, report_progress)
        while True:
            with (
                RunLease(store, config.run_name, uuid.uuid4().hex).hold(report_progress) as lease,
                give_up_on_interrupt(store),
            ):
                plan = make_plan(config, store, run, command)
                delete_outvoted(store, plan.damage)
                if plan.pending and _is_spent(plan, config, report_progress):
                    return open_run(store, config.run_name, keep=True)
                if plan.pending:
                    cluster.start()
                    context = RunContext.of(config, location, run.identity, cluster.trial_resources.gpus)
                    _prepare(context, plan, cluster, console)
                    plan = _with_checked_code(context, plan, cluster)
                lease.ask()
                _put_manifest(store, plan, config)
                _report_pending(plan, cluster.slots, report_progress)
                if plan.pending:
                    with refresh_report(store, config.run_name, refresh):
                        _run_trials(config, context, plan, cluster, lease, console, notifier)
                run_status = open_run(store, config.run_name, keep=True)  # a report follows
                _delete_leftovers(store, run_status)
                look = take_look(store, run_status) if take_look is not None and config.until_decided else None
                lease.ask()
                if look is not None:
                    store_look(store, config.run_name, look)
                    _tell(look, report_progress, notifier)
                if config.keep_weights in ("auto", "best"):
                    _keep_best_weights(store, run_status)
            if look is None:
                return run_status
            del run_status  # what it kept for the look is large, and the trials of the next may take hours


def _resolve(config: SweepConfig, store: Store, cluster: Cluster, report_progress: ReportProgress) -> ResolvedRun:
    """Resolve the run; what it lacks is made, and for a new run Ray starts meanwhile."""
    is_new = not store.exists(RunPaths(config.run_name).manifest)
    if is_new:
        cluster.start_early()  # a new run always has pending trials

    def check_weights(digest: str | None) -> None:
        _check_backbone(config, digest)
        if is_new and cluster.may_lack_resources:
            cluster.start()  # rejects what no node can give before the data is packed

    def dataset() -> DatasetInfo:
        return prepare_dataset(config, store, report_progress)

    return resolve_run(config, store, dataset, cluster.precision, check_weights)


def _tell(look: Look, report_progress: ReportProgress, notifier: Notifier) -> None:
    found = "; ".join(f"{label} {outcome}" for label, outcome in look.outcomes.items())
    line = f"after {counted(look.planned, 'seed')}: {found}"
    report_progress(line)
    if set(look.outcomes.values()) != {UNDECIDED}:
        notifier.send(f"look {look.planned}", line)


def _check_backbone(config: SweepConfig, digest: str | None) -> None:
    from catdog.models.backbones.build import check_backbone  # imports torch, while Ray starts
    from catdog.models.head_contract import check_external_heads, check_stages

    for backbone, weights, image_size in config.networks:
        check_backbone(
            backbone, local_weights(weights, digest if weights == config.recipe.weights else None), image_size
        )
    check_external_heads(config.variant_specs)
    check_stages(config.variant_specs, config.recipe)


def _is_spent(plan: Plan, config: SweepConfig, report_progress: ReportProgress) -> bool:
    """Return, and say, whether earlier launches have spent the budget: then not even a node is to start."""
    spent = total_cost(plan.run_status.launches, config.hourly_price)
    is_spent = config.max_cost is not None and spent >= config.max_cost
    if is_spent:
        report_progress(f"--max-cost {config.max_cost:g} is reached ({spent:.2f} spent): no trial starts")
    return is_spent


def _report_pending(plan: Plan, slots: int, report_progress: ReportProgress) -> None:
    for trial in plan.run_status.trials:
        if trial.damage is not None and trial.planned in plan.pending:
            report_progress(f"{trial.damage}: {trial.planned.name} will run again")
    if plan.pending:
        done = len(plan.requested) - len(plan.pending)
        report_progress(f"{counted(len(plan.pending), 'trial')} to run, {done} already done; {slots} at once")
    elif not plan.requested:
        report_progress("nothing to run: every contrast is decided, or the last look was taken")
    else:
        report_progress(f"nothing to run: {counted(len(plan.requested), 'trial')} already done")


def _put_manifest(store: Store, plan: Plan, config: SweepConfig) -> None:
    """Store the files of heads, the plan, and the recipe file that makes the whole run again."""
    manifest = plan.run_status.manifest
    paths = RunPaths(manifest.run)
    for file in config.head_files:
        for name, source in file.sources:
            store.put(paths.head_file(file.digest, name), source.encode())
    store.put(paths.manifest, manifest.to_json())
    store.put(paths.recipe, whole_run_yaml(config, manifest).encode())


def _prepare(context: RunContext, plan: Plan, cluster: Cluster, console: Console) -> None:
    """Check data and weights on a worker, and compute a frozen backbone's features, before any trial starts."""
    from catdog.trial.inputs import is_prepared

    contexts = tuple(dict.fromkeys(context.of_variant(trial.variant) for trial in plan.pending))
    if cluster.is_this_machine and all(map(is_prepared, contexts)):
        return
    task = ray.remote(**cluster.trial_resources.for_task, max_retries=3)(prepare_worker)

    def prepare() -> None:
        with console.status("checking data and weights on a worker", spinner="line") as status:
            for message in task.options(num_returns="streaming").remote(contexts):
                text = ray.get(message)
                status.update(console.render_str(text))
                if not console.is_terminal:
                    console.print(text, soft_wrap=True)

    cluster.cards.on_a_working_card(prepare)


def _with_checked_code(context: RunContext, plan: Plan, cluster: Cluster) -> Plan:
    """Return the plan with a record of the code; raises `UserError` if it computes other numbers than before."""
    from catdog.sweep.probe import run_probes

    def there(variants: Sequence[VariantSpec]) -> dict[str, Probe]:
        task = ray.remote(**cluster.trial_resources.for_task, max_retries=3)(run_probes)
        return cluster.cards.on_a_working_card(lambda: ray.get(task.remote(context, variants)))

    variants = tuple(dict.fromkeys(trial.variant for trial in plan.pending))
    probes = functools.partial(run_probes, context) if cluster.is_this_machine else there
    manifest = check_code(plan.run_status, variants, context.head_files, probes)
    return dataclasses.replace(plan, run_status=dataclasses.replace(plan.run_status, manifest=manifest))


def _run_trials(
    config: SweepConfig,
    context: RunContext,
    plan: Plan,
    cluster: Cluster,
    lease: RunLease,
    console: Console,
    notifier: Notifier,
) -> None:
    store = context.location.open()
    is_tuning = store.exists(RunPaths(context.run).tuning)
    progress = SweepProgress(context.run, plan.run_status, cluster.slots, hides_test=is_tuning)
    progress.pending = len(plan.pending)
    launch = _launch(lease.launch, config, context, plan, cluster)
    meter = Meter(launch, cluster.trial_resources.units, cluster.count_units)
    budget = Budget(meter, store, RunPaths(context.run), plan.run_status.launches, config.max_cost, progress, notifier)
    # A worker has reached the store by now, so trials retry when it refuses access, as after any transient fault.
    known = dataclasses.replace(context, location=dataclasses.replace(context.location, has_answered=True))
    trainable = tune.with_resources(
        tune.with_parameters(train_trial, context=known, launch=launch.name),
        tune.PlacementGroupFactory([cluster.trial_resources.for_tune]),
    )
    stopper = SweepStopper()
    lost = LostTrials(context, launch.name, config.max_retries)
    callback = SweepCallback(progress, meter, context, lease, stopper, lost, cluster.cards, notifier)
    tracker = open_tracker(config.tracker, context, lambda line: console.print(line, soft_wrap=True))
    # By default Tune requests placement groups for 200 pending trials at once, more than could ever be placed.
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(cluster.slots)
    trial_ids = [(trial.variant.label, trial.seed) for trial in plan.pending]
    with show_progress(progress, console), budget.watching(), give_up_on_interrupt(store):
        while trial_ids and stopper.reason is None:
            try:
                run_in_turn(config, trainable, trial_ids, cluster.slots, [callback, *tracker], stopper)
            except KeyboardInterrupt:
                notifier.send("end", INTERRUPTED, lambda: [progress.line()])
                pause_trials(launch.name)
                raise
            trial_ids = lost.take()
    if stopper.reason is not None:
        raise stopper.reason


def _launch(name: str, config: SweepConfig, context: RunContext, plan: Plan, cluster: Cluster) -> Launch:
    code = code_of({trial.variant for trial in plan.pending}, context.identity, context.head_files)
    return Launch(
        name,
        now(),
        cluster.trial_resources.unit,
        config.hourly_price,
        code=code_tree(),
        versions=package_versions(),
        variant_code={label: one.digest for label, one in code.items()},
    )


def _delete_leftovers(store: Store, run_status: RunStatus) -> None:
    """Delete the leftovers of processes that died just after storing their trial's result."""
    for trial in run_status.trials:
        if trial.result is not None and trial.unfinished:
            store.delete(trial.where.checkpoint)
        if trial.result is not None and trial.failure is not None:
            store.delete(trial.where.failure)


def _keep_best_weights(store: Store, run_status: RunStatus) -> None:
    """Delete the weights of all trials but each variant's best run by validation, and those kept for good."""
    best_runs = run_status.best_runs
    for trial in run_status.trials:
        is_passing = trial.result is not None and WEIGHTS not in trial.result.files
        if trial.has_weights and is_passing and trial.result is not best_runs[trial.planned.variant.label]:
            store.delete(trial.where.weights)
