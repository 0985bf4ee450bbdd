"""What a sweep will do before it does it: which trials, how many images, about how long. Without Ray or torch."""

import dataclasses
import os
from collections.abc import Callable
from dataclasses import dataclass

from catdog.config import PRESETS, Identity, Precision, Recipe, SweepConfig
from catdog.data.split import VALIDATION_SHARE
from catdog.ledger import Ledger, plan_run, read_ledger, read_manifest
from catdog.provision import NAMED_WEIGHTS, Dataset
from catdog.records import PlannedTrial
from catdog.statistics import summarise
from catdog.storage import Store

REFERENCE_IMAGES_PER_SECOND = {"demo": 360.0, "pets-frozen": 2500.0, "pets-cpu": 22.0}
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


def estimate_seconds(config: SweepConfig, plan: Plan, slots: int) -> tuple[float, str] | None:
    """Return about how long the pending trials take on `slots` at once, and what that is based on; None if unknown."""
    measured = [entry.result.seconds for entry in plan.ledger.entries if entry.result]
    if measured:
        mean = summarise(measured).mean or 0.0
        return mean * len(plan.pending) / slots, f"from the {len(measured)} finished trials of this run"
    rate = REFERENCE_IMAGES_PER_SECOND.get(config.preset)
    reference = PRESETS[config.preset].recipe
    if rate is None or (config.recipe.backbone, config.recipe.freeze) != (
        reference.backbone,
        reference.freeze,
    ):
        return None
    rate *= (reference.image_size / config.recipe.image_size) ** 2 * config.cpus_per_trial
    return plan.images / rate / slots, "from this preset's speed on two cores of an AMD EPYC"


def local_slots(config: SweepConfig) -> int:
    """Return how many trials this machine's cores run at once."""
    return max(1, len(os.sched_getaffinity(0)) // config.cpus_per_trial)
