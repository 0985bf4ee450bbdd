"""`Source`, the interface between a dataset and the pack; and a dataset's keys in a store.

To add a dataset, write a function that returns a `Source` and register it in `catdog.data.datasets.registry`.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from catdog.config.recipe import is_task_name

PACK = "pack.safetensors"

UInt8Array = npt.NDArray[np.uint8]
IntArray = npt.NDArray[np.int64]
Resize = Literal["squash", "crop"]
"""How an image becomes square: squashed, or cropped to its centre."""


@dataclass(frozen=True)
class Groups:
    """A group column: a second label of each of N images, such as its species, among G names."""

    column: str
    names: tuple[str, ...]
    """Names of the G groups, by label."""
    labels: IntArray
    """Group of each image, shape (N,)."""

    @property
    def digest(self) -> str:
        """Return a hash of the content (16 hexadecimal digits)."""
        content = [self.column, self.names, self.labels.tolist()]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def group_columns(columns: Mapping[str, Sequence[str]]) -> tuple[Groups, ...]:
    """Return those of a table's columns that a classifier can learn, given the value of each image.

    These have a value for every image, and from two different ones to half as many as there are images.
    """
    found = []
    for column, values in columns.items():
        names = sorted(set(values))
        if is_task_name(column) and all(values) and 2 <= len(names) <= len(values) // 2:
            number = {name: label for label, name in enumerate(names)}
            labels = np.array([number[value] for value in values], dtype=np.int64)
            found.append(Groups(column, tuple(names), labels))
    return tuple(found)


@dataclass(frozen=True)
class Source:
    """A dataset that can be packed: N images of K classes."""

    dataset: str
    fingerprint: str
    """Hash of the content: 16 hexadecimal digits."""
    size: int
    """Side of the packed images, in pixels."""
    classes: tuple[str, ...]
    """Names of the K classes, by label."""
    names: tuple[str, ...]
    """Names of the N images."""
    labels: IntArray
    """Class of each image, shape (N,)."""
    is_test: npt.NDArray[np.bool_]
    """Whether an image belongs to the test split, shape (N,)."""
    has_trimap: npt.NDArray[np.bool_]
    """Whether the outline of the object is known, shape (N,)."""
    read: Callable[[int], tuple[UInt8Array, UInt8Array | None]]
    """Index → image (size, size, 3) and its trimap (size, size; 1 object, 2 background, 3 border) or None."""
    title: str = "images"
    """What a report calls the dataset."""
    class_noun: str = "class"
    """What a report calls a class."""
    is_validation: npt.NDArray[np.bool_] | None = None
    """Whether an image belongs to the validation split, shape (N,); None: that is drawn from the rest by each run."""
    test_share: float | None = None
    """The share of the images that was drawn as the test split; None: the dataset came with one."""
    resize: Resize = "squash"
    """How `read` makes images square."""
    groups: tuple[Groups, ...] = ()
    """What a second task can learn. Not part of the pack, nor of the fingerprint."""


def dataset_prefix(fingerprint: str) -> str:
    """Return the key prefix of a dataset's content."""
    return f"datasets/{fingerprint}"


def pack_key(fingerprint: str) -> str:
    """Return the key of the packed images."""
    return f"{dataset_prefix(fingerprint)}/{PACK}"


def features_key(fingerprint: str, digest: str) -> str:
    """Return the key of a frozen backbone's features."""
    return f"{dataset_prefix(fingerprint)}/features-{digest}.safetensors"


def trimaps_key(fingerprint: str) -> str:
    """Return the key of the animals' outlines, stored separately: measuring attention needs no images."""
    return f"{dataset_prefix(fingerprint)}/trimaps.npz"


def groups_key(fingerprint: str, digest: str) -> str:
    """Return the key of a group column, named by its content: the fingerprint does not tell of it."""
    return f"{dataset_prefix(fingerprint)}/groups-{digest}.npz"


def dataset_pointer(dataset: str) -> str:
    """Return the key of the object that names the dataset last stored under this name."""
    return f"datasets/{dataset}.json"
