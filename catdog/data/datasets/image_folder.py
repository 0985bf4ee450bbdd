"""A folder of images: one folder per class, or train/, test/ and perhaps val/ with one folder per class each."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from catdog.data.datasets.base import Source
from catdog.data.datasets.folders import describe_folder, is_hidden
from catdog.data.datasets.labelled_images import SPLIT_NAMES, Packing, image_of_file, make_source, warn_once
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
    if len(set(splits.values()) - {None}) > 1 and not all(splits.values()):
        other = next(name for name in folders if splits[name] is None)
        raise UserError(
            f"{option}: holds folders of splits, and {other}/ beside them: give a folder of splits or of classes"
        )
    if all(splits.values()):
        above = ["", *(f"{name}/" for name in folders)]
        labelled = [(f"{name}/{label}", label, splits[name]) for name in folders for label in _folders(root / name)]
    else:
        above = [""]
        labelled = [(label, label, None) for label in folders]
    files = {below: _files(root, below) for below, _, _ in labelled}
    images = [
        image_of_file(os.path.join(root, name), name, label, split)
        for below, label, split in labelled
        for name in filter(_is_image, files[below])
    ]
    if not images:
        raise UserError(f"{option}: its folders hold no images (endings: {' '.join(SUFFIXES)}): give one per class")
    beside = [f"{folder}{entry.name}" for folder in above for entry in _entries(root / folder) if entry.is_file()]
    _warn_of_rest(option, beside, files)
    return make_source(images, option, root.resolve().name, packing)


def check_folder(root: Path) -> None:
    """Raise `UserError` if there is no such folder; reads nothing in it."""
    if not os.path.isdir(root):
        found = "a file, not a folder (unpack an archive)" if os.path.isfile(root) else "no such folder"
        raise UserError(f"--dataset folder:{root}: {found}; give the folder that holds one folder per class")


def _warn_of_rest(option: str, beside: Iterable[str], files: Mapping[str, Sequence[str]]) -> None:
    """Log a warning about each kind of thing that is left out; `files` are those in the class folders, by folder."""
    empty = [folder for folder, names in files.items() if not any(map(_is_image, names))]
    others = [name for names in files.values() for name in names if not _is_image(name)]
    for what, names in (
        ("images beside the class folders", list(filter(_is_image, beside))),
        ("class folders without an image", empty),
        ("files without an image's ending", others),
    ):
        if names:
            warn_once(f"{option}: {what} are left out: {len(names)} ({names[0]}, for one)")


def _is_image(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def _folders(root: Path) -> list[str]:
    return [entry.name for entry in _entries(root) if entry.is_dir()]


def _files(root: Path, below: str) -> list[str]:
    """Return the paths, from `root`, of the files at any depth below a folder, in the order of names."""
    found = []
    for folder, inside, files in os.walk(root / below, onerror=_refuse):
        inside[:] = [name for name in inside if not is_hidden(name)]
        found += [os.path.join(folder, name) for name in files if not is_hidden(name)]
    regular = filter(os.path.isfile, sorted(found))  # no pipes
    return [os.path.relpath(path, root).replace(os.sep, "/") for path in regular]


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted((entry for entry in entries if not is_hidden(entry.name)), key=lambda entry: entry.name)
    except OSError as error:
        _refuse(error)


def _refuse(error: OSError) -> NoReturn:
    raise UserError(f"{error.filename}: cannot be read ({error.strerror}): check its permissions") from None
