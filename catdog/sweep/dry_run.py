"""What `--dry-run` prints: which trials a sweep would run, how many images, roughly how long and at what cost.

Needs no Ray, and torch only for networks that no preset has, stages and frozen backbones.
"""

import os
from dataclasses import dataclass

from rich.console import Console

from catdog.config.head_registry import VARIANTS
from catdog.config.presets import PRESETS
from catdog.config.sweep_options import SweepConfig
from catdog.data.datasets.registry import check_dataset
from catdog.data.prepare import DatasetInfo, expected_dataset, find_dataset
from catdog.data.split import VALIDATION_SHARE
from catdog.errors import UserError
from catdog.formatting import counted, format_bytes, format_seconds
from catdog.runs.canary import Canary, CanaryStep, read_canary
from catdog.runs.manifest import Identity, PlannedTrial
from catdog.runs.weights_digest import local_weights
from catdog.storage import Store, StoreLocation
from catdog.sweep.code_check import changed_code, code_of, concerned
from catdog.sweep.plan import Plan, make_plan, resolve_run
from catdog.system.process import usable_cores

REFERENCE_IMAGES_PER_SECOND = {"demo": 540.0, "pets-frozen": 4600.0, "pets-cpu": 22.0}
"""By preset: training images per second of one single-threaded trial, with two at once on two cores of an AMD EPYC."""


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


def feature_bytes(config: SweepConfig, dataset: DatasetInfo) -> int:
    """Return roughly how many bytes the sweep's features take in the store, and on every node with a cache of its own.

    0 if no backbone is frozen, without importing torch. A backbone has one file of its last maps, and one for each
    choice of places that heads read.
    """
    frozen = [(spec, own) for spec in config.variant_specs if (own := config.recipe.changed(**spec.settings)).freeze]
    if not frozen:
        return 0
    from catdog.data.features import bytes_per_image
    from catdog.models.backbones.build import backbone_places
    from catdog.models.petnet import build_head
    from catdog.models.stages import joined_shape

    sizes: dict[tuple[object, ...], int] = {}
    for spec, recipe in frozen:
        network = (recipe.backbone, recipe.weights, recipe.image_size, recipe.precision)
        places = backbone_places(recipe.backbone, recipe.image_size)
        last = list(places.values())[-1]
        sizes[network] = bytes_per_image(last)
        if "stages" in spec.arguments:
            read = getattr(build_head(spec, last[0], 2, places), "reads", ())
            sizes[*network, read] = bytes_per_image(joined_shape(places, read), with_means=False)
    return sum(sizes.values()) * dataset.feature_images(config.recipe)
