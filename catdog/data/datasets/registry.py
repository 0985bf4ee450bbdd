"""The datasets that `--dataset` can name; other code knows them only through these entries.

To add a dataset, write a function that returns a `Source` in a file beside this one, and a function here that makes its
entry, with a line in `DATASETS`.
"""

import logging
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from catdog.config.recipe import option_name
from catdog.config.sweep_options import SweepConfig
from catdog.data.datasets import csv_file, drawn, image_folder, oxford_pets, torchvision_set
from catdog.data.datasets.base import Source
from catdog.data.datasets.folders import is_hidden
from catdog.data.datasets.labelled_images import DATASET as IMAGES
from catdog.data.datasets.labelled_images import Packing
from catdog.errors import UserError
from catdog.formatting import shorten
from catdog.system.private_folders import node_cache

logger = logging.getLogger(__name__)

NAMES = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
"""Of datasets in a store."""
PACKING_OPTIONS = ("test_share", "pack_size", "resize")
_OWN_TEST = {"test_share": "has a test split of its own"}


@dataclass(frozen=True)
class DatasetEntry:
    """One dataset as a sweep's options name it: what is known of it, and how to open it on this machine."""

    name: str
    """Name in a run's identity."""
    title: str
    """Name in messages."""
    open: Callable[[], Source | None]
    """Opens the images if this machine has them."""
    image_side: int | None = None
    """Side of the packed images, in pixels, if that is known."""
    trainval_images: int | None = None
    """Number of trainval images, if it is known before the dataset is available."""
    pointer: str | None = None
    """Name in a store of the dataset last packed there; None: a store knows it by its content only."""
    check: Callable[[], object] = lambda: None
    """Raises `UserError` for a folder or file that cannot be it; reads no image."""
    download: Callable[[], object] | None = None
    groups: tuple[str, ...] = ()
    """Group columns that it is known to have before it is available."""
    refuses: Mapping[str, str] = field(default_factory=dict)
    """Options that make no sense for it, and why."""


def find_entry(config: SweepConfig) -> DatasetEntry:
    """Return the dataset that a sweep names; raise `UserError` listing the valid ones if there is none."""
    kind, colon, argument = config.recipe.dataset.partition(":")
    make = DATASETS.get(kind + colon)
    if make is None or bool(colon) != bool(argument):
        known = ", ".join(f"{name}{_ARGUMENTS.get(name, '')}" for name in DATASETS)
        raise UserError(f"--dataset {shorten(config.recipe.dataset)}: choose from {known}")
    return make(config, argument)


def check_dataset(config: SweepConfig) -> DatasetEntry:
    """Return the sweep's dataset; raises `UserError` for an unknown name, or an option that makes no sense for it."""
    entry = find_entry(config)
    for name, reason in entry.refuses.items():
        value = getattr(config, name)
        if value != SweepConfig.__dataclass_fields__[name].default:
            raise UserError(f"{option_name(name)} {value}: {entry.title} {reason}; leave the option out")
    return entry


def warn_of_enlarged_images(config: SweepConfig) -> None:
    """Log a warning if the network's images are larger than the packed ones."""
    entry, image_size = find_entry(config), config.recipe.image_size
    if entry.image_side is not None and image_size > entry.image_side:
        logger.warning(
            "--image-size %d: images of %s are packed at %d px and enlarged, which adds no detail: "
            "use at most %d, unless the backbone needs more",
            image_size, entry.title, entry.image_side, entry.image_side,
        )  # fmt: skip


def packing_of(config: SweepConfig) -> Packing:
    """Return how a sweep wants its images packed."""
    return Packing(config.pack_size, config.resize, config.test_share, config.recipe.split_seed)


def _drawn(config: SweepConfig, argument: str) -> DatasetEntry:
    made = dict.fromkeys(("data_root", *PACKING_OPTIONS), "are made in code")
    count = len(drawn.BREEDS) * drawn.IMAGES_PER_BREED["trainval"]
    return DatasetEntry(
        drawn.DATASET, "the drawn pets", drawn.open_drawn, drawn.SIZE, count, drawn.DATASET, refuses=made
    )


def _oxford(config: SweepConfig, argument: str) -> DatasetEntry:
    downloaded = node_cache() / oxford_pets.DATASET
    root = None if config.dataset_root is None else Path(os.path.expanduser(config.dataset_root))

    def open_it() -> Source | None:
        if root is None and not os.path.isdir(downloaded):
            return None
        return oxford_pets.open_oxford(root or downloaded, config.pack_size, config.resize)

    return DatasetEntry(
        oxford_pets.DATASET,
        "Oxford-IIIT Pet",
        open_it,
        config.pack_size,
        oxford_pets.OFFICIAL_COUNTS["trainval"],
        oxford_pets.DATASET,
        check=lambda: root is None or oxford_pets.dataset_folder(root),
        download=lambda: oxford_pets.download_oxford(downloaded),
        groups=oxford_pets.GROUPS,
        refuses=_OWN_TEST,
    )


def _folder(config: SweepConfig, argument: str) -> DatasetEntry:
    root = Path(os.path.expanduser(argument))

    def check() -> None:
        image_folder.check_folder(root)
        base, store = root.resolve(), Path(os.path.expanduser(config.store)).resolve()
        is_inside = "://" not in config.store and store.is_relative_to(base)
        if is_inside and not any(map(is_hidden, store.relative_to(base).parts)):
            raise UserError(f"--store {config.store}: lies among the images of folder:{argument}: choose one outside")

    def open_it() -> Source:
        check()
        return image_folder.open_folder(root, packing_of(config))

    return DatasetEntry(
        IMAGES,
        f"folder:{argument}",
        open_it,
        config.pack_size,
        check=check,
        refuses={"data_root": "names its folder itself"},
    )


def _csv(config: SweepConfig, argument: str) -> DatasetEntry:
    return DatasetEntry(
        IMAGES,
        f"csv:{argument}",
        lambda: csv_file.open_csv(argument, packing_of(config)),
        config.pack_size,
        check=lambda: csv_file.check_csv(csv_file.parse_argument(argument)[0]),
        refuses={"data_root": "names its file itself"},
    )


def _torchvision(config: SweepConfig, argument: str) -> DatasetEntry:
    given = None if config.data_root is None else Path(os.path.expanduser(config.data_root))
    root = given or node_cache() / "torchvision"

    def open_it(download: bool = False) -> Source | None:
        if given is None and not download and not (root / f"{argument}.complete").is_file():
            return None
        remedy = (
            "check the network, or give a copy with --data-root"
            if download
            else f"remove {root} to download it again"
            if given is None
            else "give torchvision's root folder, intact, with --data-root, or leave the option out to download it"
        )
        return torchvision_set.open_torchvision(argument, root, packing_of(config), remedy, download)

    def download() -> None:
        root.mkdir(parents=True, exist_ok=True)
        open_it(download=True)
        (root / f"{argument}.complete").touch()

    return DatasetEntry(
        IMAGES,
        f"torchvision:{argument}",
        open_it,
        config.pack_size,
        check=lambda: torchvision_set.check_torchvision(argument),
        download=download,
    )


def _stored(config: SweepConfig, argument: str) -> DatasetEntry:
    if not re.fullmatch(NAMES, argument):
        raise UserError(f"--dataset store:{shorten(argument)}: no name of a dataset; see jobs/prepare.py --name")
    packed = dict.fromkeys(("data_root", *PACKING_OPTIONS), "is packed already")
    return DatasetEntry(IMAGES, f"store:{argument}", lambda: None, pointer=argument, refuses=packed)


DATASETS: dict[str, Callable[[SweepConfig, str], DatasetEntry]] = {
    drawn.DATASET: _drawn,
    oxford_pets.DATASET: _oxford,
    "folder:": _folder,
    "csv:": _csv,
    "torchvision:": _torchvision,
    "store:": _stored,
}
_ARGUMENTS = {"folder:": "DIR", "csv:": "FILE", "torchvision:": "NAME", "store:": "NAME"}
