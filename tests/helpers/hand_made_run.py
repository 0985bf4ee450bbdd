"""A run in a store, small enough to count by hand: its plan, and every outcome of a trial."""

import dataclasses

from catdog.config.recipe import Recipe
from catdog.runs.manifest import Identity, Manifest
from catdog.runs.paths import RunPaths, TrialPaths
from catdog.runs.results import Failure, Status, TrialResult
from catdog.storage import MemoryStore
from catdog.storage.serialization import to_json
from tests.helpers.made_runs import put_small_trial

EIGHT = "multi-attention:num_masks=8"

MANIFEST = Manifest(
    run="night",
    preset="demo",
    identity=Identity(Recipe(precision="float32"), "0123456789abcdef", None, 1),
    variants=("baseline", EIGHT, "attention"),
    seeds={"baseline": (0, 1, 2), EIGHT: (0, 1, 2, 3), "attention": (0, 1)},
    created_at="2026-01-01T00:00:00.000+00:00",
    commands=(("python", "jobs/sweep.py", "demo"),),
    versions={"python": "3.11"},
    code=None,
)


def paths_of(label: str, seed: int) -> TrialPaths:
    return RunPaths(MANIFEST.run).trial(MANIFEST.spec(label).folder, seed)


def hash_of(label: str, seed: int) -> str:
    return MANIFEST.identity.trial_hash(MANIFEST.spec(label), seed)


def result(label: str, seed: int, val: float | None, test: float | None, status: Status = "complete") -> TrialResult:
    return TrialResult(
        label, seed, status, val, test, 5, 10, 60.0, hash_of(label, seed),
        val_class_accuracy=val, test_class_accuracy=test, val_loss=0.5, head_parameters=100, parameters=1000,
        finished_at=f"2026-01-01T0{seed}:00:00.000+00:00",
    )  # fmt: skip


def hand_made_store() -> MemoryStore:
    """A run with every outcome of a trial: complete, diverged, failed, unfinished, never started."""
    store = MemoryStore()
    store.put(RunPaths(MANIFEST.run).manifest, MANIFEST.to_json())
    complete = [
        result("baseline", 0, 90.0, 80.0),
        result("baseline", 1, 92.0, 81.0),
        result("baseline", 2, 94.0, 85.0),
        result(EIGHT, 0, 91.0, 95.0),
        result(EIGHT, 3, 93.0, 70.0),
    ]
    for one in complete:
        put_small_trial(store, paths_of(one.variant, one.seed), one)
    diverged = dataclasses.replace(result(EIGHT, 1, None, None, "diverged"), seconds=1.0, epochs=5)
    put_small_trial(store, paths_of(EIGHT, 1), diverged)
    failure = Failure(
        EIGHT,
        2,
        hash_of(EIGHT, 2),
        "RuntimeError",
        "shapes do not match",
        "Traceback ...",
        3,
        "launch",
        "node:/log",
        "2026",
    )
    store.put(paths_of(EIGHT, 2).failure, to_json(failure))
    store.put(paths_of("attention", 1).checkpoint, b"half way")
    return store
