"""A probe of the code: for each variant, a trial of three steps on noise, whose numbers depend on the code alone.

It runs the same functions as any trial, on the CPU in float32, with random weights and at a small image size. So it
tells whether other code, or other packages, compute the same.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from catdog.config.variants import VariantSpec
from catdog.data.datasets.base import Groups, Source, UInt8Array, pack_key
from catdog.data.groups import store_groups
from catdog.data.pack import write_pack
from catdog.errors import first_line
from catdog.runs.artifacts import SPLITS, read_predictions_npz
from catdog.runs.code_record import Probe
from catdog.runs.history import health_columns, read_history
from catdog.runs.manifest import Identity
from catdog.storage import LocalStore, StoreLocation
from catdog.storage.node_cache import fetch_or_make
from catdog.system.scratch import scratch_folder
from catdog.trial.context import RunContext
from catdog.trial.inputs import forget_inputs
from catdog.trial.run import run_trial

SIDE = 64
"""Of the images in pixels, unless the backbone takes only the recipe's size."""
CLASSES, BATCH, STEPS = 4, 4, 3


def run_probes(context: RunContext, variants: Sequence[VariantSpec]) -> dict[str, Probe]:
    """Return the numbers of each variant's probe, by label: its losses, what its masks are like, and log-probabilities.

    Of one that fails or diverges, returns why.
    """
    context.load_heads()
    forget_inputs()
    found: dict[str, Probe] = {}
    for variant in variants:
        image_size = context.of_variant(variant).identity.recipe.image_size
        for side in sorted({min(SIDE, image_size), image_size}):
            try:
                found[variant.label] = _numbers(context.of_variant(variant), variant, side)
                break
            except (Exception, SystemExit) as error:
                found[variant.label] = f"{type(error).__name__}: {first_line(error)}"
    forget_inputs()
    return found


def _numbers(context: RunContext, variant: VariantSpec, side: int) -> tuple[float, ...]:
    recipe = dataclasses.replace(
        context.identity.recipe,
        weights="none" if context.weights == "none" else "file",  # random either way, but treated as pretrained
        image_size=side,
        epochs=1,
        batch_size=BATCH,
        limit_images=None,
        probe_images=1,
        precision="float32",
        compile=False,
        deterministic=False,
        resample_split=False,
        vary="all",
    )
    with scratch_folder("catdog-probe-") as folder:
        source, store = _noise(side), LocalStore(folder)
        fetch_or_make(store, pack_key(source.fingerprint), lambda path: write_pack(source, path))
        identity = Identity(recipe, source.fingerprint, None, 1)
        if recipe.second_task is not None:
            groups = Groups(recipe.second_task, ("even", "odd"), source.labels % 2)
            store_groups(store, source.fingerprint, [groups])
            identity = dataclasses.replace(identity, groups={groups.column: groups.digest})
        short = RunContext("probe", StoreLocation(str(folder)), identity, "none")
        plain = dataclasses.replace(variant, settings={})
        result, where = run_trial(short, plain, 0), short.trial_paths(plain, 0)
        if result.status != "complete":
            raise ArithmeticError("its loss is not finite")
        history = read_history(store.get(where.history))
        measured = history.iloc[0][["train_loss", "val_loss", *health_columns(history)]]
        data = store.get(where.predictions)
        log_probabilities = [read_predictions_npz(data, split).log_probability_N for split in SPLITS]
        numbers = np.concatenate([measured.fillna(0).astype(float), *log_probabilities])
        if not np.isfinite(numbers).all():
            raise ArithmeticError("its numbers are not finite")
        return tuple(numbers.tolist())


def _noise(side: int) -> Source:
    """Return images of noise, brighter in some classes, in the same splits everywhere."""
    parts = np.repeat([0, 1, 2], [BATCH * STEPS, CLASSES, CLASSES])
    labels = np.arange(len(parts)) % CLASSES
    levels = np.random.default_rng(0).integers(0, 128, (len(parts), side, side, 3), dtype=np.uint8)

    def read(index: int) -> tuple[UInt8Array, None]:
        return levels[index] + np.uint8(32 * labels[index]), None

    return Source(
        dataset="noise",
        fingerprint="0" * 16,
        size=side,
        classes=tuple(f"class {label}" for label in range(CLASSES)),
        names=tuple(f"image {index}" for index in range(len(parts))),
        labels=labels,
        is_test=parts == 2,
        is_validation=parts == 1,
        has_trimap=np.zeros(len(parts), dtype=bool),
        read=read,
    )
