"""Stores of synthetic images, for measurements that do not depend on what the images show."""

import dataclasses
from pathlib import Path

import numpy as np

from catdog.config.presets import PRESETS
from catdog.config.recipe import Recipe
from catdog.data.datasets.base import Groups, Source, pack_key
from catdog.data.groups import store_groups
from catdog.data.pack import write_pack
from catdog.runs.manifest import Identity
from catdog.storage import LocalStore, StoreLocation
from catdog.storage.node_cache import fetch_or_make
from catdog.trial.context import RunContext

PACKED_SIZE = 256
FINGERPRINT = "0000000000000000"


def made_context(
    folder: Path, recipe: Recipe, images: int, threads: int, gpus: float = 0.0, classes: int = 37, test: int = 4
) -> RunContext:
    """Return the context of a run whose store holds a pack of noise images, `images` of them to train on.

    `test` is the number of test images of each class.
    """
    per_class = max(2, -(-images * 5 // (4 * classes)))  # one to train on, one to validate
    labels = np.tile(np.arange(classes), per_class + test)
    generator = np.random.default_rng(0)

    def read(index: int) -> tuple[np.ndarray, None]:
        return generator.integers(0, 256, (PACKED_SIZE, PACKED_SIZE, 3), dtype=np.uint8), None

    source = Source(
        dataset="made",
        fingerprint=FINGERPRINT,
        size=PACKED_SIZE,
        classes=tuple(f"class_{index}" for index in range(classes)),
        names=tuple(f"image_{index}" for index in range(len(labels))),
        labels=labels,
        is_test=np.arange(len(labels)) >= classes * per_class,
        has_trimap=np.zeros(len(labels), dtype=bool),
        read=read,
        title="noise",
    )
    fetch_or_make(LocalStore(folder), pack_key(FINGERPRINT), lambda path: write_pack(source, path))
    species = Groups("species", ("cat", "dog"), labels % 2)
    store_groups(LocalStore(folder), FINGERPRINT, [species])
    identity = Identity(
        dataclasses.replace(recipe, limit_images=images),
        FINGERPRINT,
        None,
        threads,
        groups={species.column: species.digest},
    )
    return RunContext("bench", StoreLocation.of(str(folder)), identity, recipe.weights, gpus_per_trial=gpus)


def preset_recipe(preset: str, **changes: object) -> Recipe:
    """Return a preset's recipe with changes, its precision resolved."""
    recipe = PRESETS[preset].recipe
    if recipe.precision == "auto":
        recipe = dataclasses.replace(recipe, precision="float32")
    return dataclasses.replace(recipe, **changes)  # type: ignore[arg-type]
