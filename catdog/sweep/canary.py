"""A short trial of every variant, by the same code as a full one: does it run here, how fast, in how much memory?

It uses its own temporary store and a few batches, and leaves nothing behind.
"""

import dataclasses
import resource

import torch

from catdog.config.variants import VariantSpec
from catdog.data.datasets.base import groups_key, pack_key
from catdog.errors import first_line
from catdog.runs.canary import Canary, CanaryStep
from catdog.storage import LocalStore, StoreLocation
from catdog.storage.node_cache import digest_key, fetch_or_make
from catdog.sweep.device_errors import naming_the_card
from catdog.system.process import usable_cores
from catdog.system.scratch import scratch_folder
from catdog.trial.context import RunContext
from catdog.trial.inputs import forget_inputs, load_inputs
from catdog.trial.run import run_trial
from catdog.trial.setup import prepare_process

STEPS = {"cpu": 2, "cuda": 12}
"""Training steps per epoch, by device type: two steps are too few to time a GPU."""
EPOCHS = 2
"""The first warms up, the second is measured."""


def run_canary(context: RunContext, variants: tuple[VariantSpec, ...]) -> Canary:
    """Run a short trial of each variant in this process; an error in one is recorded, and the others still run."""
    context.load_heads()
    identity = context.identity
    with naming_the_card(context.gpus_per_trial):
        device = prepare_process(identity.threads, context.gpus_per_trial, identity.recipe.deterministic)
    key = pack_key(identity.fingerprint)
    store = context.location.open()
    pack = fetch_or_make(store, key)
    with scratch_folder("catdog-canary-") as folder:
        scratch = LocalStore(folder)
        scratch.put(digest_key(key), store.get(digest_key(key)))
        scratch.local_path(key).symlink_to(pack)
        for digest in identity.groups.values():
            groups = groups_key(identity.fingerprint, digest)
            scratch.put(groups, store.get(groups))
        elsewhere = dataclasses.replace(context, run="canary", location=StoreLocation(str(folder)))
        steps = []
        for variant in variants:
            short = _shortened(elsewhere.of_variant(variant), STEPS[device.type])
            steps.append(_step(short, dataclasses.replace(variant, settings={}), device))
        forget_inputs()
    on_gpu = device.type == "cuda"
    return Canary(
        identity=identity,
        device=torch.cuda.get_device_name(device) if on_gpu else f"CPU, {identity.threads} of {usable_cores()} cores",
        memory_bytes=torch.cuda.get_device_properties(device).total_memory if on_gpu else None,
        steps=tuple(steps),
    )


def _shortened(context: RunContext, steps: int) -> RunContext:
    recipe = context.identity.recipe
    limit = min(recipe.batch_size * steps, recipe.limit_images or 10**9)
    recipe = dataclasses.replace(recipe, epochs=EPOCHS, limit_images=limit)
    return dataclasses.replace(context, identity=dataclasses.replace(context.identity, recipe=recipe))


def _step(context: RunContext, variant: VariantSpec, device: torch.device) -> CanaryStep:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    seconds: list[tuple[float, float]] = []
    try:
        result = run_trial(
            context, variant, 0, lambda record: seconds.append((record.train_seconds, record.evaluate_seconds))
        )
    except Exception as error:
        return CanaryStep(variant.label, f"{type(error).__name__}: {first_line(error)}")
    if result.status != "complete":
        return CanaryStep(variant.label, f"the loss was not finite in epoch {result.best_epoch}")
    assert result.images_trained is not None
    train_seconds, evaluate_seconds = seconds[-1]
    if device.type == "cuda":
        peak = torch.cuda.max_memory_reserved(device)
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    validation = len(load_inputs(context, device).split.validation)
    return CanaryStep(
        variant=variant.label,
        error=None,
        train_images_per_second=result.images_trained / EPOCHS / train_seconds,
        evaluate_images_per_second=validation / evaluate_seconds,
        peak_memory_bytes=peak,
    )
