"""A folder of images: one folder per class, or train/, test/ and perhaps val/ with one folder per class each."""

import os
from collections.abc import Iterator
from pathlib import Path

from catdog.data.datasets.base import Source
from catdog.data.datasets.folders import describe_folder
from catdog.data.datasets.labelled_images import SPLIT_NAMES, LabelledImage, Packing, image_of_file, make_source
from catdog.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif")
"""Files of other names are not images."""


def open_folder(root: Path, packing: Packing) -> Source:
    """Return the dataset below `root`; a class's images may lie in folders of any depth. Hidden files are left out.

    Raises:
        UserError: there is no such folder, or what it holds is no such dataset.
    """
    option = f"--dataset folder:{root}"
    check_folder(root)
    folders = _folders(root)
    if not folders:
        raise UserError(f"{option}: holds no folders (found: {describe_folder(root)}): give one folder per class")
    splits = {name: SPLIT_NAMES.get(name.lower()) for name in folders}
    images: list[LabelledImage] = []
    if len(set(splits.values()) - {None}) > 1 and not all(splits.values()):
        other = next(name for name in folders if splits[name] is None)
        raise UserError(
            f"{option}: holds folders of splits, and {other}/ beside them: give a folder of splits or of classes"
        )
    if all(splits.values()):
        for name in folders:
            for label in _folders(root / name):
                images += [
                    image_of_file(path, inside, label, splits[name]) for path, inside in _files(root, f"{name}/{label}")
                ]
    else:
        for label in folders:
            images += [image_of_file(path, inside, label) for path, inside in _files(root, label)]
    if not images:
        raise UserError(f"{option}: its folders hold no images (endings: {' '.join(SUFFIXES)}): give one per class")
    return make_source(images, option, root.resolve().name, packing)


def check_folder(root: Path) -> None:
    """Raise `UserError` if there is no such folder; reads nothing in it."""
    if not os.path.isdir(root):
        found = "a file, not a folder (unpack an archive)" if os.path.isfile(root) else "no such folder"
        raise UserError(f"--dataset folder:{root}: {found}; give the folder that holds one folder per class")


def _folders(root: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith("."))


def _files(root: Path, below: str) -> Iterator[tuple[str, str]]:
    """Yield path and name, the path from `root`, of the images at any depth below a folder, in the order of names."""
    found = []
    for folder, inside, files in os.walk(root / below):
        inside[:] = [name for name in inside if not name.startswith(".")]
        found += [
            os.path.join(folder, name) for name in files if not name.startswith(".") and name.lower().endswith(SUFFIXES)
        ]
    for path in filter(os.path.isfile, sorted(found)):  # not a pipe
        yield path, os.path.relpath(path, root).replace(os.sep, "/")
