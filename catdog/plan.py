"""What a sweep will do before it does it: which trials, how many images, about how long. Without Ray or torch."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

from catdog.config import PRESETS, Identity, Precision, Recipe, SweepConfig
from catdog.cores import usable_cores
from catdog.data.split import VALIDATION_SHARE
from catdog.errors import NotFoundError
from catdog.ledger import Ledger, plan_run, read_ledger, read_manifest
from catdog.paths import RunPaths
from catdog.provision import NAMED_WEIGHTS, Dataset
from catdog.records import Canary, CanaryStep, PlannedTrial
from catdog.storage import Store

REFERENCE_IMAGES_PER_SECOND = {"demo": 540.0, "pets-frozen": 4600.0, "pets-cpu": 22.0}
"""Training images a second of one trial with one thread, seen with two at once on two cores of an AMD EPYC."""


@dataclass(frozen=True)
class Plan:
    """The trials that were asked for, and what is left of them."""

    ledger: Ledger
    """Of the whole run: more than was asked for now, where it was extended before."""
    requested: tuple[PlannedTrial, ...]
    """In the order in which they run: all variants of the first seed, then of the second, and so on."""
    pending: tuple[PlannedTrial, ...]
    train_images: int
    """Of one epoch."""

    @property
    def images(self) -> int:
        """Images that the pending trials will train on."""
        return len(self.pending) * self.ledger.manifest.identity.recipe.epochs * self.train_images


def resolve_identity(
    config: SweepConfig,
    store: Store,
    dataset: Dataset,
    weights_digest: str | None,
    device_precision: Callable[[], Precision],
) -> Identity:
    """Return the identity of the run that `config` describes.

    The precision `auto` is what the run was started with; for a new run it is asked of `device_precision`.
    """
    recipe = config.recipe
    if recipe.precision == "auto":
        existing = read_manifest(store, config.run_name)
        precision = existing.identity.recipe.precision if existing else device_precision()
        recipe = dataclasses.replace(recipe, precision=precision)
    if recipe.weights not in NAMED_WEIGHTS:
        recipe = dataclasses.replace(recipe, weights="file")
    return Identity(recipe, dataset.fingerprint, weights_digest, config.cpus_per_trial)


def make_plan(
    config: SweepConfig, store: Store, identity: Identity, dataset: Dataset, command: tuple[str, ...]
) -> Plan:
    """Return the plan; raises `UserError` when the run exists with another identity."""
    manifest = plan_run(read_manifest(store, config.run_name), config, identity, command)
    ledger = read_ledger(store, manifest)
    over = {entry.trial for entry in ledger.entries if entry.status in ("complete", "diverged")}
    requested = tuple(PlannedTrial(spec, seed) for seed in config.seed_list for spec in config.variant_specs)
    pending = tuple(trial for trial in requested if trial not in over)
    return Plan(ledger, requested, pending, count_train_images(identity.recipe, dataset))


def count_train_images(recipe: Recipe, dataset: Dataset) -> int:
    """Return how many images an epoch has."""
    train = dataset.trainval_images - round(VALIDATION_SHARE * dataset.trainval_images)
    return min(train, recipe.limit_images or train)


@dataclass(frozen=True)
class Estimate:
    """How long the pending trials take, one after the other, and what that is based on."""

    seconds: float
    basis: str


def estimate(config: SweepConfig, plan: Plan, canary: Canary | None) -> Estimate | None:
    """Estimate from this run's finished trials, else from the canary, else from the preset's speed; None if unknown."""
    finished: dict[str, list[float]] = {}
    for entry in plan.ledger.entries:
        if entry.result is not None:
            finished.setdefault(entry.trial.variant.label, []).append(entry.result.seconds)
    if finished:
        count = sum(map(len, finished.values()))
        overall = sum(map(sum, finished.values())) / count
        means = {label: sum(seconds) / len(seconds) for label, seconds in finished.items()}
        total = sum(means.get(trial.variant.label, overall) for trial in plan.pending)
        return Estimate(total, f"from the {count} finished trials of this run")
    if canary is not None and canary.identity == plan.ledger.manifest.identity:
        speeds = {step.variant: _trial_seconds(plan, step) for step in canary.steps if step.error is None}
        if all(trial.variant.label in speeds for trial in plan.pending):
            total = sum(speeds[trial.variant.label] for trial in plan.pending)
            return Estimate(total, f"from the doctor's short trials on {canary.device}")
    rate = REFERENCE_IMAGES_PER_SECOND.get(config.preset)
    reference = PRESETS[config.preset].recipe
    if rate is None or (config.recipe.backbone, config.recipe.freeze) != (reference.backbone, reference.freeze):
        return None
    rate *= (reference.image_size / config.recipe.image_size) ** 2 * config.cpus_per_trial
    return Estimate(plan.images / rate, "from this preset's speed on two cores of an AMD EPYC")


def read_canary(store: Store, run: str) -> Canary | None:
    """Return what the doctor's short trials measured for this run, if there were any."""
    try:
        return Canary.from_json(store.get(RunPaths(run).canary))
    except (NotFoundError, ValueError):
        return None


def _trial_seconds(plan: Plan, step: CanaryStep) -> float:
    """Return about how long a trial takes at the speed of its short one: training, and validation in every epoch."""
    assert step.train_images_per_second is not None
    assert step.evaluate_images_per_second is not None
    epochs = plan.ledger.manifest.identity.recipe.epochs
    validation = plan.train_images * VALIDATION_SHARE / (1 - VALIDATION_SHARE)
    return epochs * (plan.train_images / step.train_images_per_second + validation / step.evaluate_images_per_second)


def local_slots(config: SweepConfig) -> int:
    """Return how many trials this machine's cores run at once."""
    return max(1, usable_cores() // config.cpus_per_trial)


def units_per_trial(config: SweepConfig) -> float:
    """Return how many GPUs a trial takes, or CPU cores where it takes none; `None` GPUs count as one."""
    if config.gpus_per_trial == 0:
        return float(config.cpus_per_trial)
    return 1.0 if config.gpus_per_trial is None else config.gpus_per_trial
