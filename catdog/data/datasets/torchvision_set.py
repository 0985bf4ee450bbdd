"""The datasets of torchvision that have class labels, by the name of their class: Flowers102, DTD, CIFAR10, ..."""

import functools
import hashlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from catdog.data.datasets.base import Source, UInt8Array
from catdog.data.datasets.labelled_images import SPLIT_NAMES, GivenSplit, LabelledImage, Packing, make_source
from catdog.data.images import Resize, to_photo
from catdog.errors import UserError, first_line

_SPLITS = ("train", "val", "valid", "test")
"""The values of `split` that are tried; those that a dataset refuses are not its splits."""


def open_torchvision(name: str, root: Path, packing: Packing, download: bool = False) -> Source:
    """Return torchvision's dataset of this name below `root`, in the layout that torchvision gives it there.

    Raises:
        UserError: torchvision has no such dataset of labelled images, or `root` does not hold it.
    """
    images = [
        LabelledImage(
            f"{split or 'all'}/{index:06d}",
            label,
            split,
            functools.partial(_digest, dataset, index),
            functools.partial(_read, dataset, index, f"torchvision's {name}, image {index}"),
        )
        for split, dataset in _datasets(name, root, download)
        for index, label in enumerate(_labels(dataset, name))
    ]
    return make_source(images, f"--dataset torchvision:{name}", name, packing)


def check_torchvision(name: str) -> type:
    """Return torchvision's class of this name; raises `UserError` if there is none."""
    import torchvision.datasets

    found = getattr(torchvision.datasets, name, None) if name in torchvision.datasets.__all__ else None
    if not inspect.isclass(found) or "download" not in inspect.signature(found).parameters:
        raise UserError(
            f"--dataset torchvision:{name}: torchvision has no such dataset that it downloads itself; see "
            "torchvision.datasets, e.g. Flowers102, FGVCAircraft, DTD, CIFAR10"
        )
    return found


def _datasets(name: str, root: Path, download: bool) -> Iterator[tuple[GivenSplit | None, Any]]:
    make = check_torchvision(name)
    parameters = inspect.signature(make).parameters
    if "split" in parameters:
        choices: list[tuple[GivenSplit | None, dict[str, Any]]] = [
            (SPLIT_NAMES[split], {"split": split}) for split in _SPLITS
        ]
    elif "train" in parameters:
        choices = [("train", {"train": True}), ("test", {"train": False})]
    else:
        choices = [(None, {})]
    found = False
    for split, arguments in choices:
        try:
            dataset = make(root=str(root), download=download, **arguments)
        except ValueError:
            continue  # not a split of this dataset
        except (OSError, RuntimeError) as error:
            raise UserError(
                f"--dataset torchvision:{name}: {root} does not hold it ({first_line(error)}): give torchvision's root "
                "folder with --data-root, or no --data-root, to download it"
            ) from None
        found = True
        yield split, dataset
    if not found:
        raise UserError(f"--dataset torchvision:{name}: has none of the splits train, val and test")


def _labels(dataset: Any, name: str) -> Iterator[str]:
    """Yield the class's name of each image, in order; where torchvision has no names, its number."""
    classes = getattr(dataset, "classes", None)
    targets = next(
        (getattr(dataset, field) for field in ("targets", "_labels", "labels", "y") if hasattr(dataset, field)), None
    )
    for index in range(len(dataset)):
        target = dataset[index][1] if targets is None else targets[index]
        try:
            number = int(target)
        except (TypeError, ValueError):
            raise UserError(f"--dataset torchvision:{name}: its targets are not class labels") from None
        yield str(classes[number]) if classes is not None else f"{number:04d}"


def _digest(dataset: Any, index: int) -> str:
    image: Image.Image = dataset[index][0]
    return hashlib.sha256(f"{image.mode} {image.size} ".encode() + image.tobytes()).hexdigest()


def _read(dataset: Any, index: int, name: str, side: int, resize: Resize) -> tuple[UInt8Array, None]:
    return to_photo(dataset[index][0], name, side, resize).pixels, None
