"""`Source`, the interface between a dataset and the pack; and a dataset's keys in a store.

To add a dataset, write a function that returns a `Source` and register it in `catdog.data.datasets.registry`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

PACK = "pack.safetensors"

UInt8Array = npt.NDArray[np.uint8]
IntArray = npt.NDArray[np.int64]


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


def dataset_pointer(dataset: str) -> str:
    """Return the key of the object that names the dataset last stored under this name."""
    return f"datasets/{dataset}.json"
