"""The split into train, validation and test: derived from labels and a seed, the same for every trial of that seed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from catdog.data.datasets.base import IntArray

VALIDATION_SHARE = 0.2

SplitName = Literal["train", "validation", "test"]
SPLITS = get_args(SplitName)


@dataclass(frozen=True)
class Split:
    """Sorted image indices of each split; no image is in two splits."""

    train: IntArray
    validation: IntArray
    test: IntArray

    def indices(self, name: SplitName) -> IntArray:
        """Return the indices of one split."""
        return {"train": self.train, "validation": self.validation, "test": self.test}[name]


def split_images(
    labels: IntArray,
    is_test: npt.NDArray[np.bool_],
    split_seed: int | Sequence[int],
    limit_images: int | None = None,
    is_validation: npt.NDArray[np.bool_] | None = None,
    train_images_per_class: int | None = None,
) -> Split:
    """Split trainval by class (stratified, largest remainders) into 80 % train and 20 % validation.

    On Oxford-IIIT Pet this gives exactly 2,944 + 736 images; the test split is the official one. `limit_images` caps
    the size of each split, spread evenly over the classes. A dataset may come with its own validation split.
    `train_images_per_class` draws that many training images of each class; fewer are a subset of more.
    """
    if is_validation is None:
        trainval = np.flatnonzero(~is_test)
        validation, train = draw(trainval, labels, VALIDATION_SHARE, np.random.default_rng(split_seed))
    else:
        validation, train = np.flatnonzero(is_validation), np.flatnonzero(~is_test & ~is_validation)
    if train_images_per_class is not None:  # of the limited ones, whose features may be cached for runs with others
        train = spread(train, labels, limit_images)
        shuffled = np.random.default_rng(split_seed).permutation(train)
        train = np.concatenate([images[:train_images_per_class] for images in _by_class(shuffled, labels)])
    splits = (train, validation, np.flatnonzero(is_test))
    return Split(*(np.sort(spread(split, labels, limit_images)) for split in splits))


def draw(
    indices: IntArray, labels: IntArray, share: float, generator: np.random.Generator
) -> tuple[IntArray, IntArray]:
    """Draw a share of some images, stratified by class; returns those drawn and the rest."""
    groups = _by_class(indices, labels)
    sizes = stratified_sizes(np.array([len(group) for group in groups]), share)
    drawn, rest = [], []
    for group, size in zip(groups, sizes, strict=True):
        images = generator.permutation(group)
        drawn.append(images[:size])
        rest.append(images[size:])
    return np.concatenate(drawn), np.concatenate(rest)


def stratified_sizes(counts: IntArray, share: float) -> IntArray:
    """Return how many images of each class make up a share of all: by largest remainders.

    But one of each class at least, and not all of them.
    """
    total = round(share * counts.sum())
    quotas = counts * total / counts.sum()
    sizes: IntArray = np.floor(quotas).astype(np.int64)
    by_remainder = np.argsort(-(quotas - sizes), kind="stable")
    sizes[by_remainder[: total - sizes.sum()]] += 1
    return np.clip(sizes, 1, counts - 1)


def spread(indices: IntArray, labels: IntArray, limit: int | None) -> IntArray:
    """Keep at most `limit` of the images: the first of every class, then the second of every class, and so on."""
    if limit is None or limit >= len(indices):
        return indices
    groups = _by_class(indices, labels)
    ranks = np.concatenate([np.arange(len(group)) for group in groups])
    return np.concatenate(groups)[np.argsort(ranks, kind="stable")[:limit]]


def _by_class(indices: IntArray, labels: IntArray) -> list[IntArray]:
    """Return the images of each class that has any, by label, in the given order."""
    order = np.argsort(labels[indices], kind="stable")
    _, starts = np.unique(labels[indices][order], return_index=True)
    return np.split(indices[order], starts[1:])
