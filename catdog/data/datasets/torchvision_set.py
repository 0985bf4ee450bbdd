"""The datasets of torchvision that have class labels, by the name of their class: Flowers102, DTD, CIFAR10, ..."""

import functools
import hashlib
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from catdog.data.datasets.base import Resize, Source, UInt8Array
from catdog.data.datasets.labelled_images import SPLIT_NAMES, GivenSplit, LabelledImage, Packing, make_source
from catdog.data.images import to_photo
from catdog.errors import UserError, first_line

_SPLITS = ("train", "val", "valid", "test")
"""The values of `split` that are tried; those that a dataset refuses are not its splits."""


def open_torchvision(name: str, root: Path, packing: Packing, remedy: str, download: bool = False) -> Source:
    """Return torchvision's dataset of this name below `root`, in the layout that torchvision gives it there.

    `remedy` says, in messages, what to do if `root` does not hold all of it.

    Raises:
        UserError: torchvision has no such dataset of labelled images, or `root` does not hold it.
    """
    option = f"--dataset torchvision:{name}"
    images = []
    for split, dataset in _datasets(name, root, remedy, download):
        part = _Part(dataset, f"{option}: {split or 'all'}", remedy)
        for index, label in enumerate(part.labels()):
            digest, read = functools.partial(part.digest, index), functools.partial(part.read, index)
            images.append(LabelledImage(f"{split or 'all'}/{index:06d}", label, split, digest, read))
    return make_source(images, option, name, packing)


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


def _datasets(name: str, root: Path, remedy: str, download: bool) -> Iterator[tuple[GivenSplit | None, Any]]:
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
                f"--dataset torchvision:{name}: {root} does not hold it ({first_line(error)}): {remedy}"
            ) from None
        found = True
        yield split, dataset
    if not found:
        raise UserError(f"--dataset torchvision:{name}: has none of the splits train, val and test: choose another")


@dataclass(frozen=True)
class _Part:
    """One split of a dataset, or all of it."""

    dataset: Any
    where: str
    """What messages call it."""
    remedy: str

    def labels(self) -> Iterator[str]:
        """Yield the class's name of each image, in order; where torchvision has no names, its number."""
        classes = getattr(self.dataset, "classes", None)
        fields = ("targets", "_labels", "labels", "y")
        targets = next((getattr(self.dataset, field) for field in fields if hasattr(self.dataset, field)), None)
        for index in range(len(self.dataset)):
            target = self._item(index)[1] if targets is None else targets[index]
            try:
                number = int(target)
            except (TypeError, ValueError):
                raise UserError(f"{self.where}: its targets are not class labels: choose another dataset") from None
            yield str(classes[number]) if classes is not None else f"{number:04d}"

    def digest(self, index: int) -> str:
        """Return a hash of an image's pixels."""
        image = self._item(index)[0]
        return hashlib.sha256(f"{image.mode} {image.size} ".encode() + image.tobytes()).hexdigest()

    def read(self, index: int, side: int, resize: Resize) -> tuple[UInt8Array, None]:
        """Return an image as of a `Source`; torchvision's classes have no masks."""
        return to_photo(self._item(index)[0], f"{self.where}: image {index}", side, resize).pixels, None

    def _item(self, index: int) -> tuple[Image.Image, Any]:
        try:
            image, target = self.dataset[index]
        except Exception as error:  # decoders raise errors of many classes for damaged files
            reason = first_line(error)
            raise UserError(f"{self.where}: image {index} cannot be read ({reason}): {self.remedy}") from None
        return image, target
