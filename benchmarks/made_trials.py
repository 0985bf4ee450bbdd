"""Stores with thousands of made trials, as a sweep on Oxford-IIIT Pet leaves them, to measure what reads them."""

import itertools
import multiprocessing
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from measuring import ROOT

from catdog.runs.manifest import Manifest
from catdog.runs.paths import RunPaths
from catdog.storage import LocalStore, MemoryStore

EPOCHS, TEST_IMAGES = 20, 3669
SEEDS_AT_ONCE = 50


def labels(count: int) -> list[str]:
    """Return the labels of so many variants, half of them with masks."""
    heads = ((step, head) for step in itertools.count() for head in ("baseline", "attention"))
    return [
        f"{head}:label_smoothing={step / 1000:g}" if step else head for step, head in itertools.islice(heads, count)
    ]


def make_trials(folder: Path, variants: Sequence[str], seeds: int, run: str) -> None:
    """Write a run of these variants × seeds, in two processes."""
    parts = [range(first, min(first + SEEDS_AT_ONCE, seeds)) for first in range(0, seeds, SEEDS_AT_ONCE)]
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        pool.starmap(_make, [(folder, label, part, run) for label in variants for part in parts], chunksize=1)
    store = LocalStore(folder)
    manifest = Manifest.from_json(store.get(RunPaths(run).manifest))
    planned = replace(manifest, variants=tuple(variants), seeds=dict.fromkeys(variants, tuple(range(seeds))))
    store.put(RunPaths(run).manifest, planned.to_json())


def _make(folder: Path, label: str, seeds: range, run: str) -> None:
    """Write some trials without syncing each file to the disk."""
    sys.path.insert(0, str(ROOT))
    from tests.helpers.made_runs import make_run  # simulated runs, in the layout of real ones

    store = MemoryStore()
    make_run(store, [label], seeds, epochs=EPOCHS, test_images=TEST_IMAGES, run=run)
    for key, data in store.objects.items():
        (folder / key).parent.mkdir(parents=True, exist_ok=True)
        (folder / key).write_bytes(data)


def link_trials(folder: Path, run: str, seeds: int, as_run: str) -> None:
    """Write another run of the first seeds of each variant, out of the files of a run."""
    store = LocalStore(folder)
    manifest = Manifest.from_json(store.get(RunPaths(run).manifest))
    chosen = {label: numbers[:seeds] for label, numbers in manifest.seeds.items()}
    for label, numbers in chosen.items():
        variant = manifest.spec(label).folder
        for number in numbers:
            ours, theirs = (store.local_path(RunPaths(one).trial(variant, number).folder) for one in (as_run, run))
            for path in theirs.rglob("*.*"):
                target = ours / path.relative_to(theirs)
                target.parent.mkdir(parents=True, exist_ok=True)
                os.link(path, target)
    store.put(RunPaths(as_run).manifest, replace(manifest, run=as_run, seeds=chosen).to_json())
