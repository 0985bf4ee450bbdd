"""Makes sure that a sweep's store holds its dataset: packs this machine's copy, or downloads one if there is none.

A pack is made once, by whoever needs it first, and stored for the others.
"""

from dataclasses import dataclass
from pathlib import Path

from catdog.config.sweep_options import SweepConfig
from catdog.data.datasets.base import Source, dataset_pointer, pack_key, trimaps_key
from catdog.data.datasets.registry import find_entry, open_dataset
from catdog.errors import NotFoundError, UserError
from catdog.formatting import ReportProgress, shorten
from catdog.storage import Store
from catdog.storage.node_cache import fetch_or_make, is_stored
from catdog.storage.serialization import from_fields, read_json, to_json


@dataclass(frozen=True)
class DatasetInfo:
    """Identity and size of a dataset, known without opening it."""

    name: str
    fingerprint: str
    trainval_images: int


def expected_dataset(config: SweepConfig) -> DatasetInfo:
    """Return what is known about the sweep's dataset before it is available."""
    entry = find_entry(config.recipe.dataset)
    return DatasetInfo(entry.name, "not here yet", entry.trainval_images)


def stored_dataset(config: SweepConfig, store: Store) -> DatasetInfo | None:
    """Return the sweep's dataset as last stored, or None if its pack is not in the store.

    Raises:
        UserError: what the store says of the dataset is damaged.
    """
    key = dataset_pointer(config.recipe.dataset)
    try:
        dataset = from_fields(DatasetInfo, read_json(store.get(key)))
    except NotFoundError:
        return None
    except ValueError as error:
        raise UserError(f"{key} is damaged ({error}): delete it, then run prepare.py") from None
    if dataset.name != config.recipe.dataset:
        raise UserError(f"{key} is about {shorten(dataset.name)!r}: delete it, then run prepare.py")
    return dataset if is_stored(store, pack_key(dataset.fingerprint)) else None


def find_dataset(config: SweepConfig, store: Store) -> tuple[DatasetInfo | None, Source | None]:
    """Return a sweep's dataset and, if this machine has the images, their source. Writes and downloads nothing.

    This machine (`open_dataset`) takes precedence over the store (where `jobs/prepare.py` put a pack).
    """
    source = open_dataset(config)
    if source is None:
        return stored_dataset(config, store), None
    return DatasetInfo(source.dataset, source.fingerprint, int((~source.is_test).sum())), source


def prepare_dataset(config: SweepConfig, store: Store, report_progress: ReportProgress) -> DatasetInfo:
    """Make sure that the store holds the pack of the sweep's dataset, downloading the images as a last resort."""
    dataset, source = find_dataset(config, store)
    if dataset is None:
        entry = find_entry(config.recipe.dataset)
        if entry.download is None:
            raise UserError(f"--data-root: {entry.title} is neither on this machine nor in the store; give its folder")
        report_progress(f"{entry.title} is neither on this machine nor in the store: downloading it")
        entry.download(entry.downloaded)
        dataset, source = find_dataset(config, store)
    assert dataset is not None
    if source is not None:
        _store_pack(source, store, report_progress)
        pointer, content = dataset_pointer(dataset.name), to_json(dataset)
        if not store.exists(pointer) or store.get(pointer) != content:
            store.put(pointer, content)
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
