"""What a sweep will do: which trials, how many images, roughly how long and at what cost.

Needs no Ray, and torch only for networks that no preset has, stages and frozen backbones. `print_plan` is what
`--dry-run` prints.
"""

import dataclasses
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.console import Console

from catdog.config.head_registry import VARIANTS
from catdog.config.presets import PRESETS
from catdog.config.recipe import NAMED_WEIGHTS, Precision, Recipe
from catdog.config.recipe_file import recipe_yaml
from catdog.config.sweep_options import SweepConfig, format_seeds
from catdog.data.datasets.registry import check_dataset, warn_of_enlarged_images
from catdog.data.prepare import DatasetInfo, check_split, expected_dataset, find_dataset, second_tasks
from catdog.data.split import VALIDATION_SHARE
from catdog.errors import UserError
from catdog.formatting import counted, format_bytes, format_seconds
from catdog.runs.cost import Canary, CanaryStep, read_canary
from catdog.runs.looks import next_look, read_looks
from catdog.runs.manifest import (
    DataDescription,
    Identity,
    Manifest,
    PlannedTrial,
    plan_run,
    read_manifest,
    result_format,
)
from catdog.runs.paths import RunPaths, TrialPaths
from catdog.runs.status import RunStatus, read_run_status
from catdog.runs.tuning import Tuning, read_tuning
from catdog.runs.weights_digest import local_weights, weights_digest
from catdog.storage import Store, StoreLocation
from catdog.sweep.code_check import changed_code, code_of, concerned
from catdog.sweep.feature_room import feature_bytes
from catdog.system.process import usable_cores

REFERENCE_IMAGES_PER_SECOND = {"demo": 540.0, "pets-frozen": 4600.0, "pets-cpu": 22.0}
"""By preset: training images per second of one single-threaded trial, with two at once on two cores of an AMD EPYC."""


@dataclass(frozen=True)
class Plan:
    """The requested trials, and those still pending."""

    run_status: RunStatus
    """Of the whole run, which has more trials than requested now if it was extended before."""
    requested: tuple[PlannedTrial, ...]
    """In running order: all variants of the first seed, then of the second, and so on."""
    pending: tuple[PlannedTrial, ...]
    train_images: int
    """Per epoch."""

    @property
    def images(self) -> int:
        """Return how many images the pending trials will train on."""
        return sum(self.recipe_of(trial).epochs for trial in self.pending) * self.train_images

    @property
    def damage(self) -> dict[TrialPaths, str]:
        """Return what is wrong with the results of pending trials that have one."""
        run, trials = RunPaths(self.run_status.manifest.run), self.run_status.trials
        return {
            run.trial(one.planned.variant.folder, one.planned.seed): one.damage
            for one in trials
            if one.damage is not None and one.planned in self.pending
        }

    def recipe_of(self, trial: PlannedTrial) -> Recipe:
        """Return a trial's recipe."""
        return self.run_status.manifest.identity.of(trial.variant).recipe


@dataclass(frozen=True)
class ResolvedRun:
    """A run's dataset and identity, once data and weights are found and the precision is settled."""

    dataset: DatasetInfo
    identity: Identity


def resolve_run(
    config: SweepConfig,
    store: Store,
    dataset_info: Callable[[], DatasetInfo],
    device_precision: Callable[[], Precision],
    check_weights: Callable[[str | None], None] = lambda digest: None,
) -> ResolvedRun:
    """Resolve the run that `config` describes: first its weights, then its data, then its precision.

    With precision `auto` an existing run keeps its own, and a new one gets that of `device_precision`. `check_weights`
    is called with the sha256 of a weights file (or None) before any time is spent on the data.
    """
    warn_of_enlarged_images(config)
    digest = weights_digest(config.recipe.weights)
    check_weights(digest)
    dataset = dataset_info()
    recipe = dataclasses.replace(config.recipe, dataset=dataset.name)
    if recipe.precision == "auto":
        existing = read_manifest(store, config.run_name)
        precision = existing.identity.recipe.precision if existing else device_precision()
        recipe = dataclasses.replace(recipe, precision=precision)
    if recipe.weights not in NAMED_WEIGHTS:
        recipe = dataclasses.replace(recipe, weights="file")
    groups = second_tasks(config, dataset)
    check_split(recipe, dataset.title or dataset.name, dataset.has_validation)
    form = result_format(recipe)
    identity = Identity(recipe, dataset.fingerprint, digest, config.threads, form, groups, config.workers)
    return ResolvedRun(dataset, identity)


def make_plan(config: SweepConfig, store: Store, run: ResolvedRun, command: tuple[str, ...]) -> Plan:
    """Return the plan; raises `UserError` if the run exists with another identity, or other names of its models."""
    description = DataDescription(run.dataset.title or run.dataset.name, run.dataset.class_noun, run.dataset.test_share)
    existing = read_manifest(store, config.run_name)
    looks = read_looks(store, config.run_name, () if existing is None else existing.variants)
    tuning = _tuning(existing, config, store)
    manifest = plan_run(existing, config, run.identity, command, description, looks)
    manifest = dataclasses.replace(manifest, tuning=tuning)
    _check_names(manifest, () if existing is None else existing.variants)
    if tuning is not None:
        tuning.check_seeds(seed for seeds in manifest.seeds.values() for seed in seeds)
    run_status = read_run_status(store, manifest)
    over = {trial.planned for trial in run_status.trials if trial.status in ("complete", "diverged")}
    specs, seeds = config.variant_specs, config.seed_list
    if config.until_decided:
        needed = next_look(manifest.declaration, manifest.variants, looks)
        specs, seeds = tuple(spec for spec in specs if spec.label in needed.labels), needed.seeds
        before = set(seeds[: looks[-1].planned] if looks else ())  # a look has done without their failed trials
        failed = {one.planned for one in run_status.trials if one.status == "failed"}
        over |= {trial for trial in failed if trial.seed in before}
    requested = tuple(PlannedTrial(spec, seed) for seed in seeds for spec in specs)
    pending = tuple(trial for trial in requested if trial not in over)
    return Plan(run_status, requested, pending, count_train_images(run.identity.recipe, run.dataset))


def _check_names(manifest: Manifest, known: Sequence[str]) -> None:
    """Raise `UserError` for a new variant that is the same model as one of these known ones under another name."""
    specs = {label: manifest.spec(label) for label in manifest.variants}
    earlier = [specs.pop(label) for label in known]
    for spec in specs.values():
        if twin := next((one for one in earlier if one.model == spec.model), None):
            raise UserError(f"variant {spec.label!r} is the same model as {twin.label!r} of this run: use that name")
    if earlier and any("stages" in spec.arguments for spec in specs.values()):
        from catdog.models.head_contract import check_stages

        check_stages(tuple(specs.values()), manifest.identity.recipe, earlier)


def _tuning(existing: Manifest | None, config: SweepConfig, store: Store) -> Tuning | None:
    """Return the tuning that the variants come from, if any; raises `UserError` if it is not there, or another."""
    known = None if existing is None else existing.tuning
    if config.tuning is None:
        return known
    tuning = read_tuning(store, config.tuning)
    if tuning is None:
        raise UserError(
            f"--tuning {config.tuning}: {store.url} has no such tuning: copy its {config.tuning}/tuning.json there, "
            "run tune.py, or give --tuning None"
        )
    if known not in (None, tuning):
        raise UserError(f"run {config.run_name!r} has variants of another tuning: choose another --run")
    return tuning


def whole_run_yaml(config: SweepConfig, manifest: Manifest) -> str:
    """Return the recipe file that makes a run again, also elsewhere: all variants and seeds, the settled precision.

    It declares what the run has declared, and names its tuning, whichever launch did. Where some variants have more
    seeds than others, it gives all of them all seeds, or those planned if the run may stop early. Where the images lie
    on this machine is left out: their fingerprint tells them apart.
    """
    declared = manifest.declaration
    specs = [manifest.spec(label) for label in manifest.variants]
    return recipe_yaml(
        config,
        run=manifest.run,
        variants=tuple(f"{spec.short_label}={spec.label}" if spec.short_label else spec.label for spec in specs),
        grid=(),
        tuning=None if manifest.tuning is None else manifest.tuning.run,
        imports=tuple(dict.fromkeys(manifest.imports.values())),
        seeds=format_seeds(
            declared.seeds if declared.looks else {seed for seeds in manifest.seeds.values() for seed in seeds}
        ),
        reference=declared.reference,
        primary=declared.primary,
        smallest_effect=declared.smallest_effect,
        until_decided=bool(declared.looks),
        looks=",".join(map(str, declared.looks)) or None,
        data_root=None,
        precision=manifest.identity.recipe.precision,
    )


def count_train_images(recipe: Recipe, dataset: DatasetInfo) -> int:
    """Return how many images an epoch trains on."""
    few = recipe.train_images_per_class
    each = few * dataset.classes if few and dataset.classes else dataset.train_images
    return min(dataset.train_images, recipe.limit_images or dataset.train_images, each)


@dataclass(frozen=True)
class Estimate:
    """How long the pending trials take one after the other, and what that is based on."""

    seconds: float
    basis: str


def estimate(config: SweepConfig, plan: Plan, canary: Canary | None) -> Estimate | None:
    """Estimate from this run's finished trials, else from the canary, else from a preset's speed; None if unknown."""
    finished: dict[str, list[float]] = {}
    for trial in plan.run_status.trials:
        if trial.result is not None:
            finished.setdefault(trial.planned.variant.label, []).append(trial.result.seconds)
    if finished:
        count = sum(map(len, finished.values()))
        work = sum(_work(plan, trial.planned) for trial in plan.run_status.trials if trial.result is not None)
        per_work = sum(map(sum, finished.values())) / work
        means = {label: sum(seconds) / len(seconds) for label, seconds in finished.items()}
        total = sum(means.get(trial.variant.label, per_work * _work(plan, trial)) for trial in plan.pending)
        return Estimate(total, f"from the {counted(count, 'finished trial')} of this run")
    if canary is not None and canary.identity == plan.run_status.manifest.identity:
        steps = {step.variant: step for step in canary.steps if step.error is None}
        if all(trial.variant.label in steps for trial in plan.pending):
            alone = sum(_trial_seconds(plan, trial, steps[trial.variant.label]) for trial in plan.pending)
            total = alone / canary.identity.workers
            return Estimate(total, f"from the doctor's short trials on {canary.device}")
    for name, rate in REFERENCE_IMAGES_PER_SECOND.items():
        known, recipes = PRESETS[name].recipe, [plan.recipe_of(trial) for trial in plan.pending]
        if all((recipe.backbone, recipe.freeze) == (known.backbone, known.freeze) for recipe in recipes):
            pixels = sum(recipe.epochs * (recipe.image_size / known.image_size) ** 2 for recipe in recipes)
            seconds = pixels * plan.train_images / (rate * config.cpus)
            return Estimate(seconds, f"from the speed of {name} on two cores of an AMD EPYC")
    return None


def _work(plan: Plan, trial: PlannedTrial) -> float:
    """Return what a trial's duration grows with, as far as its recipe says: epochs, and an image's pixels."""
    recipe = plan.recipe_of(trial)
    return recipe.epochs * (1.0 if recipe.freeze else float(recipe.image_size**2))


def _trial_seconds(plan: Plan, trial: PlannedTrial, step: CanaryStep) -> float:
    """Estimate a trial's duration from the speed of its canary: training, and validation in every epoch."""
    assert step.train_images_per_second is not None
    assert step.evaluate_images_per_second is not None
    epochs = plan.recipe_of(trial).epochs
    validation = plan.train_images * VALIDATION_SHARE / (1 - VALIDATION_SHARE)
    return epochs * (plan.train_images / step.train_images_per_second + validation / step.evaluate_images_per_second)


def local_slots(config: SweepConfig) -> int:
    """Return how many trials this machine's cores can run at once."""
    return max(1, usable_cores() // config.cpus)


def units_per_trial(config: SweepConfig) -> float:
    """Return a trial's GPUs, or its CPU cores if it uses no GPU; `None` GPUs count as one."""
    if config.gpus_per_trial == 0:
        return float(config.cpus)
    return 1.0 if config.gpus_per_trial is None else config.gpus_per_trial


def print_plan(console: Console, config: SweepConfig) -> Identity:
    """Print what the sweep would do, and refuse what it would refuse; returns the identity of its run.

    Starts nothing, leaves nothing behind.
    """
    store = StoreLocation.of(config.store).open()
    check_dataset(config).check()
    here, _ = find_dataset(config, store)
    check_here(config, store)
    run = resolve_run(config, store, lambda: here or expected_dataset(config), lambda: "float32")
    plan = make_plan(config, store, run, ())
    expected = estimate(config, plan, read_canary(store, config.run_name))
    *fewer, most = sorted({recipe.epochs for recipe in config.recipes})
    epochs = " or ".join([*map(str, fewer), counted(most, "epoch")])
    rows = {
        "run": f"{config.run_name} in {store.url}",
        "variants": ", ".join(spec.title for spec in config.variant_specs),
        "seeds": f"{len(config.seed_list)} ({config.seeds})",
        "trials": f"{len(plan.requested)}",
        "cached": f"{len(plan.requested) - len(plan.pending)}",
        "to run": f"{len(plan.pending)}",
        "data": f"{config.recipe.dataset} {here.fingerprint}"
        if here
        else f"{config.recipe.dataset}: not here, will be downloaded",
        **({"split": "drawn anew for every seed"} if config.recipe.resamples_split else {}),
        "images to train": f"{plan.images:,} ({counted(len(plan.pending), 'trial')} × {epochs} "
        f"× {counted(plan.train_images, 'image')})",
        **_cached_features(config, run.dataset, store),
        "resources": f"{config.cpus} CPU and {_gpus(config)} GPU per trial",
        "estimated time": _expected_time(config, expected),
        "estimated cost": _expected_cost(config, expected),
    }
    if config.until_decided:
        rows |= _looks(plan, expected)
    variants = concerned(plan.run_status, [trial.variant for trial in plan.pending]) if plan.pending else ()
    changed = changed_code(plan.run_status, code_of(variants, run.identity, config.head_files))
    rows |= {
        f"code of {label}": f"{what}; a short trial will tell whether it computes the same"
        for label, what in changed.items()
    }
    for name, value in rows.items():
        console.print(f"{name:>16}  {value}", soft_wrap=True)
    console.print("nothing was started (--dry-run)")
    return run.identity


def _cached_features(config: SweepConfig, dataset: DatasetInfo, store: Store) -> dict[str, str]:
    """Return a row on the room that features take, if any backbone is frozen."""
    if not any(recipe.freeze for recipe in config.recipes):
        return {}
    size, where = feature_bytes(config, dataset), "the store and on each node" if store.is_shared else "the store"
    return {"cached features": f"about {format_bytes(size)} in {where}" if size else "unknown: the images are not here"}


def _looks(plan: Plan, expected: Estimate | None) -> dict[str, str]:
    """Return when the sweep is looked at, and what waiting for each look costs where many trials run at once."""
    declared, taken = plan.run_status.manifest.declaration, [look.planned for look in plan.run_status.looks]
    left = [look for look in declared.looks if look not in taken]
    most = len(declared.seeds) * len(plan.run_status.manifest.variants)
    when = ", ".join(map(str, declared.looks))
    row = f"after {when} seeds, {len(taken)} taken; at most {counted(most, 'trial')} in all"
    if not plan.requested:
        return {"looks": f"{row}; every contrast is decided, or the last look was taken"}
    each = f" of {format_seconds(expected.seconds / len(plan.pending))}" if expected and plan.pending else ""
    return {
        "looks": f"{row}; the trials above are those up to the next",
        "waiting": f"however many run at once, {counted(len(left), 'trial')}{each} one after the other "
        "if nothing is decided early: none starts before the looks before it",
    }


def check_here(config: SweepConfig, store: Store) -> None:
    """Raise `UserError` for what can be seen without Ray: a folder, cores or a backbone that the sweep would refuse."""
    if not store.is_shared:
        store.check()
    cores = usable_cores()
    if not os.environ.get("RAY_ADDRESS"):
        if config.threads > cores:
            raise UserError(f"--cpus-per-trial {config.cpus_per_trial}: the largest node here has {cores} cores")
        if config.cpus > cores and not config.gpus_per_trial:
            raise UserError(f"{config.workers_option}: the nodes here have room for fewer workers")
    known = {network for preset in PRESETS.values() for network in preset.networks}
    for backbone, weights, image_size in config.networks:
        if (backbone, weights, image_size) not in known:
            from catdog.models.backbones.build import check_backbone  # imports torch, which presets do not need

            check_backbone(backbone, local_weights(weights), image_size)
    specs = config.variant_specs
    if any(spec.name not in VARIANTS or "stages" in spec.arguments for spec in specs):
        from catdog.models.head_contract import check_external_heads, check_stages

        check_external_heads(specs)
        check_stages(specs, config.recipe)


def _expected_time(config: SweepConfig, expected: Estimate | None) -> str:
    if expected is None:
        return "unknown: no trial of this run is finished, and jobs/doctor.py has not measured its speed"
    units = units_per_trial(config)
    if config.gpus_per_trial == 0:
        slots = local_slots(config)
        return f"about {format_seconds(expected.seconds / slots)}, {counted(slots, 'trial')} at once ({expected.basis})"
    hours = {counted(count, "GPU"): expected.seconds * units / count for count in (1, 4, 16)}
    spread = ", ".join(f"{format_seconds(seconds)} on {gpus}" for gpus, seconds in hours.items())
    return f"about {spread} ({expected.basis})"


def _expected_cost(config: SweepConfig, expected: Estimate | None) -> str:
    hours = None if expected is None else expected.seconds * units_per_trial(config) / 3600
    unit = "core" if config.gpus_per_trial == 0 else "GPU"
    if config.hourly_price is None or hours is None:
        return ("unknown" if hours is None else f"{hours:.2f} {unit}-hours") + (
            "; its price: --hourly-price" if config.hourly_price is None else ""
        )
    limit = "" if config.max_cost is None else f"; no trial starts after {config.max_cost:g}"
    return (
        f"about {hours * config.hourly_price:.2f}: {hours:.2f} {unit}-hours at {config.hourly_price:g}, "
        f"without idle time and the head node{limit}"
    )


def _gpus(config: SweepConfig) -> str:
    return "1 (if there is one)" if config.gpus_per_trial is None else f"{config.gpus_per_trial:g}"
