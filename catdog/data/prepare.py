"""The dataset of a sweep in its store: found there or on this machine, downloaded and packed where it is not.

A pack is made once, by whoever needs it first, and put into the store for the others.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from catdog.config.sweep_options import SweepConfig
from catdog.data.datasets.base import Source, dataset_pointer, pack_key, trimaps_key
from catdog.data.datasets.registry import find_entry, open_dataset
from catdog.errors import NotFoundError
from catdog.formatting import ReportProgress
from catdog.storage import Store
from catdog.storage.node_cache import fetch_or_make, is_stored
from catdog.storage.serialization import to_json


@dataclass(frozen=True)
class DatasetInfo:
    """A dataset that is on this machine or in the store."""

    name: str
    fingerprint: str
    trainval_images: int


def expected_dataset(config: SweepConfig) -> DatasetInfo:
    """Return what is known of the sweep's dataset before anybody has it."""
    entry = find_entry(config.recipe.dataset)
    return DatasetInfo(entry.name, "not here yet", entry.trainval_images)


def stored_dataset(config: SweepConfig, store: Store) -> DatasetInfo | None:
    """Return the dataset whose pack was put into the store last, if there is one."""
    try:
        content = json.loads(store.get(dataset_pointer(config.recipe.dataset)))
        dataset = DatasetInfo(**content)
    except (NotFoundError, TypeError, ValueError):
        return None
    return dataset if is_stored(store, pack_key(dataset.fingerprint)) else None


def find_dataset(config: SweepConfig, store: Store) -> tuple[DatasetInfo | None, Source | None]:
    """Return the dataset of a sweep and, where this machine has its images, their source; writes and downloads nothing.

    The machine comes first (`open_dataset`), then the store (where `jobs/prepare.py` put a pack).
    """
    source = open_dataset(config)
    if source is None:
        return stored_dataset(config, store), None
    return DatasetInfo(source.dataset, source.fingerprint, int((~source.is_test).sum())), source


def prepare_dataset(config: SweepConfig, store: Store, report_progress: ReportProgress) -> DatasetInfo:
    """Make sure that the store holds the pack of the sweep's dataset, downloading it where it is nowhere else."""
    dataset, source = find_dataset(config, store)
    if dataset is None:
        entry = find_entry(config.recipe.dataset)
        assert entry.download is not None
        report_progress(f"{entry.title} is neither on this machine nor in the store: downloading it")
        entry.download(entry.downloaded)
        dataset, source = find_dataset(config, store)
    assert dataset is not None
    if source is not None:
        _store_pack(source, store, report_progress)
        if stored_dataset(config, store) != dataset:
            store.put(dataset_pointer(dataset.name), to_json(dataset))
    return dataset


def _store_pack(source: Source, store: Store, report_progress: ReportProgress) -> None:
    key, trimaps = pack_key(source.fingerprint), trimaps_key(source.fingerprint)
    if store.local_path(key) is None and is_stored(store, key) and store.exists(trimaps):
        return  # the driver needs no copy of its own

    def make(path: Path) -> None:
        from catdog.data.pack import write_pack

        report_progress(f"packing {len(source.names):,} images, once")
        write_pack(source, path)

    path = fetch_or_make(store, key, make)
    if not store.exists(trimaps):
        from catdog.data.pack import open_pack

        store.put(trimaps, open_pack(path).trimaps.to_npz())
