"""Makes sure that a sweep's store holds its dataset: packs this machine's copy, or downloads one if there is none.

A pack is made once, by whoever needs it first, and stored for the others.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from catdog.config.recipe import Recipe, is_task_name
from catdog.config.sweep_options import SweepConfig
from catdog.data.datasets.base import Source, dataset_pointer, groups_key, pack_key, trimaps_key
from catdog.data.datasets.registry import DATASETS, NAMES, check_dataset, find_entry
from catdog.data.groups import REMEDY as GROUPS_REMEDY
from catdog.data.groups import store_groups
from catdog.data.split import VALIDATION_SHARE, split_images
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
    validation_images: int | None = None
    """Of these; None in stores of the first version, where a fifth were."""
    title: str | None = None
    """What a report calls it; None: its name."""
    class_noun: str = "breed"
    """What a report calls a class."""
    test_share: float | None = None
    """The share of the images that was drawn as the test split; None: the dataset came with one."""
    groups: Mapping[str, str] = field(default_factory=dict)
    """By group column: the digest of its content. Empty in stores of earlier versions."""
    has_validation: bool = False
    """Whether it came with a validation split; False in stores of earlier versions."""
    classes: int | None = None
    """How many it has; None in stores of earlier versions."""

    @classmethod
    def of(cls, source: Source) -> "DatasetInfo":
        """Return what is known of an opened dataset."""
        split = split_images(source.labels, source.is_test, 0, is_validation=source.is_validation)
        return cls(
            name=source.dataset,
            fingerprint=source.fingerprint,
            trainval_images=len(split.train) + len(split.validation),
            validation_images=len(split.validation),
            title=source.title,
            class_noun=source.class_noun,
            test_share=source.test_share,
            groups={one.column: one.digest for one in source.groups},
            has_validation=source.is_validation is not None,
            classes=len(source.classes),
        )

    def check(self) -> None:
        """Raise `ValueError` for what no dataset is."""
        if not re.fullmatch("[0-9a-f]{16}", self.fingerprint):
            raise ValueError(f"the fingerprint is {shorten(self.fingerprint)!r}")
        if not 0 <= (self.validation_images or 0) <= self.trainval_images or not 0 <= (self.test_share or 0) < 1:
            raise ValueError("its numbers of images make no sense")
        if self.classes is not None and self.classes < 1:
            raise ValueError("its number of classes makes no sense")
        if not self.class_noun.isalpha() or max(len(self.class_noun), len(self.title or "")) > 255:
            raise ValueError("its words are too long, or no words")
        if not all(is_task_name(name) and re.fullmatch("[0-9a-f]{16}", digest) for name, digest in self.groups.items()):
            raise ValueError("its group columns have no names or digests")

    @property
    def train_images(self) -> int:
        """Return how many images there are to train on."""
        if self.validation_images is None:
            return self.trainval_images - round(VALIDATION_SHARE * self.trainval_images)
        return self.trainval_images - self.validation_images

    def feature_images(self, recipe: Recipe) -> int:
        """Return how many maps of a frozen backbone are cached.

        Training images have two, plain and mirrored. A Test split that was not drawn counts as large as all the others.
        """
        limit = recipe.limit_images
        share = 0.5 if self.test_share is None else self.test_share
        test = round(self.trainval_images * share / (1 - share))
        if recipe.resamples_split:
            return 2 * self.trainval_images + min(test, limit or test)
        train, validation = self.train_images, self.trainval_images - self.train_images
        return sum(min(count, limit or count) for count in (train, train, validation, test))


def expected_dataset(config: SweepConfig) -> DatasetInfo:
    """Return what is known about the sweep's dataset before it is available; raise `UserError` if it cannot come."""
    entry = find_entry(config)
    if entry.download is None:
        raise UserError(f"--dataset {config.recipe.dataset}: the store has no dataset of this name: {_REMEDY}")
    groups = dict.fromkeys(entry.groups, "not here yet")
    return DatasetInfo(entry.name, "not here yet", entry.trainval_images or 0, groups=groups)


def second_tasks(config: SweepConfig, dataset: DatasetInfo) -> dict[str, str]:
    """Return the digests of the group columns that the sweep's second tasks learn; raises `UserError` without one."""
    tasks = dict.fromkeys(recipe.second_task for recipe in config.recipes if recipe.second_task is not None)
    for task in tasks:
        if task not in dataset.groups:
            known = f"choose from {', '.join(dataset.groups)}" if dataset.groups else f"it has none; {_NO_GROUPS}"
            title = dataset.title or dataset.name
            named = next((spec for spec in config.variant_specs if spec.settings.get("second_task") == task), None)
            by = "--second-task" if named is None else f"variant {named.label!r}: second_task"
            raise UserError(f"{by} {shorten(task)}: no group column of {title}: {known}")
    return {task: dataset.groups[task] for task in tasks}


def check_split(recipe: Recipe, title: str, has_validation: bool) -> None:
    """Raise `UserError` if each seed should have a split of its own, and the dataset came with one."""
    if has_validation and recipe.resamples_split:
        option = "--resample-split" if recipe.resample_split else "--vary split"
        raise UserError(f"{option}: {title} came with its validation images, which stay; leave the option out")


_NO_GROUPS = f"of a store that an earlier version made, {GROUPS_REMEDY}"
_REMEDY = "put it there with jobs/prepare.py --dataset folder:DIR --name NAME --store URL"


def stored_dataset(config: SweepConfig, store: Store) -> DatasetInfo | None:
    """Return the sweep's dataset as last stored, or None if its pack is not in the store.

    Raises:
        UserError: what the store says of the dataset is damaged.
    """
    pointer = find_entry(config).pointer
    info = None if pointer is None else _named(store, pointer)
    return info if info is not None and is_stored(store, pack_key(info.fingerprint)) else None


def _named(store: Store, name: str) -> DatasetInfo | None:
    key = dataset_pointer(name)
    try:
        info = from_fields(DatasetInfo, read_json(store.get(key)))
        info.check()
    except NotFoundError:
        return None
    except ValueError as error:
        raise UserError(f"{key} is damaged ({error}): delete it, then run prepare.py") from None
    if name in DATASETS and info.name != name:
        raise UserError(f"{key} is about {shorten(info.name)!r}: delete it, then run prepare.py")
    return info


def find_dataset(config: SweepConfig, store: Store) -> tuple[DatasetInfo | None, Source | None]:
    """Return a sweep's dataset and, if this machine has the images, their source. Writes and downloads nothing.

    This machine takes precedence over the store (where `jobs/prepare.py` put a pack).
    """
    source = check_dataset(config).open()
    return (stored_dataset(config, store), None) if source is None else (DatasetInfo.of(source), source)


def prepare_dataset(
    config: SweepConfig, store: Store, report_progress: ReportProgress, name: str | None = None
) -> DatasetInfo:
    """Make sure that the store holds the pack of the sweep's dataset, downloading the images as a last resort.

    Under `name` the store then knows it as the dataset `store:NAME`.

    Raises:
        UserError: the dataset is nowhere, or the name is taken by another one.
    """
    dataset, source = find_dataset(config, store)
    if dataset is None:
        entry = find_entry(config)
        expected_dataset(config)
        report_progress(f"{entry.title} is neither on this machine nor in the store: downloading it")
        assert entry.download is not None
        entry.download()
        dataset, source = find_dataset(config, store)
    assert dataset is not None
    tasks = second_tasks(config, dataset)
    check_split(config.recipe, dataset.title or dataset.name, dataset.has_validation)
    pointer = name or (None if source is None else find_entry(config).pointer)
    known = None if pointer is None else _named(store, pointer)
    if name is not None and known is not None and known.fingerprint != dataset.fingerprint:
        raise UserError(
            f"--name {name}: the store has another dataset of this name ({known.fingerprint}, not "
            f"{dataset.fingerprint}): choose another name"
        )
    if source is not None:
        _store_pack(source, store, report_progress)
        store_groups(store, source.fingerprint, source.groups)
    for task, digest in tasks.items():
        if not store.exists(groups_key(dataset.fingerprint, digest)):
            raise UserError(f"--second-task {task}: the store lacks this column of {dataset.title}: {GROUPS_REMEDY}")
    if pointer is not None and known != dataset:
        store.put(dataset_pointer(pointer), to_json(dataset))
    return dataset


def check_dataset_name(name: str) -> None:
    """Raise `UserError` for a name that cannot be one of `store:NAME`."""
    if not re.fullmatch(NAMES, name) or name in DATASETS:
        raise UserError(
            f"--name {shorten(name)}: use 1 to 100 letters, digits, '.', '_' and '-', a letter or digit first; "
            f"{' and '.join(known for known in DATASETS if ':' not in known)} are taken"
        )


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
