"""A dataset from a list of labelled images, wherever they come from: checked, its Test split drawn if it has none."""

import functools
import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from catdog.data.datasets.base import Resize, Source, UInt8Array, group_columns
from catdog.data.datasets.folders import same_name
from catdog.data.images import photo_digest, read_mask, read_photo
from catdog.data.split import draw
from catdog.errors import UserError
from catdog.formatting import shorten
from catdog.storage.serialization import MOST_NAME_LETTERS
from catdog.system.process import map_on_cores

DATASET = "images"
"""The name in a run's identity of every dataset that is made here: its fingerprint says which."""
_PACK_VERSION = 1
logger = logging.getLogger(__name__)

GivenSplit = Literal["train", "val", "test"]
SPLIT_NAMES: dict[str, GivenSplit] = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
"""What people call the splits."""


@dataclass(frozen=True)
class Packing:
    """How images are packed, and how a dataset without a Test split gets one."""

    size: int = 256
    """Side of the packed images, in pixels."""
    resize: Resize = "squash"
    test_share: float = 0.2
    split_seed: int = 0


@dataclass(frozen=True)
class LabelledImage:
    """One image of a dataset."""

    name: str
    label: str
    """The name of its class."""
    split: GivenSplit | None
    """The split that the dataset puts it into, if it has splits."""
    digest: Callable[[], str]
    """Returns a hash of its content, and of its mask's."""
    read: Callable[[int, Resize], tuple[UInt8Array, UInt8Array | None]]
    """Side in pixels, and how to make it square → the image and its trimap, as of a `Source`."""
    has_mask: bool = False
    groups: Mapping[str, str] = field(default_factory=dict)
    """Its values in further columns, empty where it has none; the same columns for all images of a dataset."""


def image_of_file(
    path: str, name: str, label: str, split: GivenSplit | None = None, mask: str | None = None
) -> LabelledImage:
    """Return the image of a file, and of its mask's file if it has one."""

    def digest() -> str:
        return photo_digest(path) if mask is None else f"{photo_digest(path)} {photo_digest(mask)}"

    def read(side: int, resize: Resize) -> tuple[UInt8Array, UInt8Array | None]:
        photo = read_photo(path, side, resize)
        if mask is None:
            return photo.pixels, None
        if photo.is_turned:
            raise UserError(f"{path}: turned by its EXIF orientation, which its mask may not be: save both upright")
        return photo.pixels, read_mask(mask, photo, resize)

    return LabelledImage(name, label, split, digest, read, mask is not None)


def make_source(images: Sequence[LabelledImage], option: str, title: str, packing: Packing) -> Source:
    """Return the dataset of these images, classes in order of their names.

    All names differ. `option` is what the user wrote, for messages. Without a Test split one is drawn, stratified by
    class.

    Raises:
        UserError: there are fewer than two classes, or a class has too few images.
    """
    classes = tuple(sorted({same_name(image.label) for image in images}))
    if len(classes) < 2:
        raise UserError(f"{option}: has only one class ({shorten(''.join(classes))}): give images of two or more")
    if longest := [name for name in classes if len(name) > MOST_NAME_LETTERS]:
        raise UserError(f"{option}: a label has {len(longest[0]):,} letters ({shorten(longest[0])}): shorten it")
    number = {name: index for index, name in enumerate(classes)}
    labels = np.array([number[same_name(image.label)] for image in images], dtype=np.int64)
    splits = np.array([image.split or "" for image in images])
    is_test, drawn = splits == "test", not (splits == "test").any()
    if drawn:
        _check_counts(option, classes, labels, splits)
        free = np.flatnonzero(splits != "val")
        is_test[draw(free, labels, packing.test_share, np.random.default_rng([packing.split_seed, 1]))[0]] = True
    elif packing.test_share != Packing.test_share:
        raise UserError(f"--test-share {packing.test_share}: {option} has a test split of its own; leave it out")
    is_validation = splits == "val" if (splits == "val").any() else None
    _check_splits(option, classes, labels, is_test, is_validation, drawn)
    marks = [
        "test" if test else split or "train" for test, split in zip(is_test.tolist(), splits.tolist(), strict=True)
    ]

    def read(index: int) -> tuple[UInt8Array, UInt8Array | None]:
        return images[index].read(packing.size, packing.resize)

    contents = map_on_cores(lambda image: image.digest(), images)
    _warn_of_copies(option, images, marks, contents)
    return Source(
        dataset=DATASET,
        fingerprint=_fingerprint(images, classes, marks, contents, is_validation is not None, packing),
        size=packing.size,
        classes=classes,
        names=tuple(image.name for image in images),
        labels=labels,
        is_test=is_test,
        has_trimap=np.array([image.has_mask for image in images]),
        read=read,
        title=title,
        is_validation=is_validation,
        test_share=packing.test_share if drawn else None,
        resize=packing.resize,
        groups=group_columns({name: [same_name(image.groups[name]) for image in images] for name in images[0].groups}),
    )


def _check_counts(option: str, classes: Sequence[str], labels: np.ndarray, splits: np.ndarray) -> None:
    """Check that Test can be drawn: a class needs an image for each split that is not given."""
    needed = 2 if (splits == "val").any() else 3
    for label, count in enumerate(np.bincount(labels[splits != "val"], minlength=len(classes)).tolist()):
        if count < needed:
            what = "a test" if needed == 2 else "a validation and a test"
            raise UserError(
                f"{option}: class {shorten(classes[label])!r} has {count} image{'s' * (count != 1)}, too few to draw "
                f"{what} split from: give {needed} or more, or leave the class out"
            )


def _check_splits(
    option: str,
    classes: Sequence[str],
    labels: np.ndarray,
    is_test: np.ndarray,
    is_validation: np.ndarray | None,
    drawn: bool,
) -> None:
    """Check that every class can be learnt, and be validated unless the dataset says how."""
    needed = 1 if is_validation is not None else 2
    learnt = ~is_test if is_validation is None else ~is_test & ~is_validation
    for label, count in enumerate(np.bincount(labels[learnt], minlength=len(classes)).tolist()):
        if count < needed:
            raise UserError(
                f"{option}: class {shorten(classes[label])!r} has {count} image{'s' * (count != 1)} to train "
                f"{'and validate ' * (needed == 2)}on: give {needed} or more"
                f"{', or a smaller --test-share' * drawn}, or leave the class out"
            )


def _warn_of_copies(
    option: str, images: Sequence[LabelledImage], marks: Sequence[str], contents: Sequence[str]
) -> None:
    """Log a warning if the same content has several labels, or lies in several splits: then Test is not new."""
    first: dict[str, int] = {}
    copies = [(first.setdefault(content, index), index) for index, content in enumerate(contents)]
    unlike = [(a, b) for a, b in copies if (images[a].label, marks[a]) != (images[b].label, marks[b])]
    if unlike:
        one, other = (images[index].name for index in unlike[0])
        warn_once(f"{option}: images that lie in several classes or splits: {len(unlike)} ({one} and {other}, for one)")


@functools.cache
def warn_once(message: str) -> None:
    """Log a warning, once in a process: a job opens a dataset several times."""
    logger.warning("%s", message)


def _fingerprint(
    images: Sequence[LabelledImage],
    classes: Sequence[str],
    marks: Sequence[str],
    contents: Sequence[str],
    validated: bool,
    packing: Packing,
) -> str:
    """Hash classes, names, labels, splits and contents, in order; and how they are packed."""
    head = [DATASET, _PACK_VERSION, packing.size, packing.resize, list(classes), validated]
    digest = hashlib.sha256(json.dumps(head).encode())
    for image, mark, content in zip(images, marks, contents, strict=True):
        digest.update(json.dumps([image.name, same_name(image.label), mark, content]).encode())
    return digest.hexdigest()[:16]
