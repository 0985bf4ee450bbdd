"""The datasets that a sweep can name; other code knows them only through these entries.

To add a dataset, write a function that returns a `Source` in a file beside this one, and add an entry to `DATASETS`.
"""

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from catdog.config.recipe import Recipe
from catdog.config.sweep_options import SweepConfig
from catdog.data.datasets import drawn, oxford_pets
from catdog.data.datasets.base import Source
from catdog.errors import UserError
from catdog.formatting import shorten
from catdog.system.private_folders import node_cache

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DatasetEntry:
    """One dataset: its names, its size, and how to open it, from code or from files."""

    name: str
    """Name in `--dataset` and in the store."""
    title: str
    """Name in messages."""
    trainval_images: int
    """Number of trainval images, known before the dataset is available."""
    image_side: int
    """Side of the packed images, in pixels."""
    make: Callable[[], Source] | None = None
    """Opens a dataset that is made in code."""
    open_folder: Callable[[Path], Source] | None = None
    """Opens the files below a folder."""
    find_folder: Callable[[Path], Path] | None = None
    """Finds the files' folder in the folder that a user names, reading nothing."""
    download: Callable[[Path], None] | None = None
    """Downloads the files into a folder."""

    @property
    def downloaded(self) -> Path:
        """Return this node's folder for the download."""
        return node_cache() / self.name


DATASETS = {
    entry.name: entry
    for entry in (
        DatasetEntry(
            drawn.DATASET,
            "the drawn pets",
            trainval_images=len(drawn.BREEDS) * drawn.IMAGES_PER_BREED["trainval"],
            image_side=drawn.SIZE,
            make=drawn.open_drawn,
        ),
        DatasetEntry(
            oxford_pets.DATASET,
            "Oxford-IIIT Pet",
            trainval_images=oxford_pets.OFFICIAL_COUNTS["trainval"],
            image_side=oxford_pets.PACKED_SIZE,
            open_folder=oxford_pets.open_oxford,
            find_folder=oxford_pets.dataset_folder,
            download=oxford_pets.download_oxford,
        ),
    )
}


def find_entry(name: str) -> DatasetEntry:
    """Return the dataset of this name; raise `UserError` listing the valid ones if there is none."""
    if name not in DATASETS:
        raise UserError(f"--dataset {shorten(name)}: choose from {', '.join(DATASETS)}")
    return DATASETS[name]


def check_dataset(config: SweepConfig) -> DatasetEntry:
    """Return the sweep's dataset; raises `UserError` for an unknown name, or a folder for images made in code."""
    entry = find_entry(config.recipe.dataset)
    if entry.open_folder is None and config.data_root is not None:
        raise UserError(f"--data-root {config.data_root}: {entry.title} are made in code; leave the option out")
    return entry


def warn_of_enlarged_images(recipe: Recipe) -> None:
    """Log a warning if the network's images are larger than the packed ones."""
    entry = find_entry(recipe.dataset)
    if recipe.image_size > entry.image_side:
        logger.warning(
            "--image-size %d: images of %s are packed at %d px and enlarged, which adds no detail: "
            "use at most %d, unless the backbone needs more",
            recipe.image_size, entry.title, entry.image_side, entry.image_side,
        )  # fmt: skip


def check_data_root(config: SweepConfig) -> None:
    """Raise `UserError` if the sweep's dataset cannot be in the folder that the user names; reads no file."""
    entry = check_dataset(config)
    if entry.find_folder is not None and config.dataset_root is not None:
        entry.find_folder(Path(os.path.expanduser(config.dataset_root)))


def open_dataset(config: SweepConfig) -> Source | None:
    """Return the dataset if this machine has it: made in code, in the user's folder, or downloaded earlier."""
    entry = check_dataset(config)
    if entry.open_folder is None:
        assert entry.make is not None
        return entry.make()
    if config.dataset_root is not None:
        return entry.open_folder(Path(os.path.expanduser(config.dataset_root)))
    return entry.open_folder(entry.downloaded) if os.path.isdir(entry.downloaded) else None
