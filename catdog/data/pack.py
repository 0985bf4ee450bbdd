"""The pack: a whole dataset, decoded once, in one memory-mapped safetensors file.

Images are squashed to one size as uint8 and written straight to their offsets in the file, so packing takes little
memory at any size. All trials on a node share the file through the page cache, and no trial decodes a JPEG. The split
is derived from the labels (`catdog.data.split`), not stored.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors
import torch

from catdog.data.datasets.base import IntArray, Resize, Source
from catdog.data.safetensors_writer import Layout, new_safetensors
from catdog.data.split import spread
from catdog.data.trimaps import BACKGROUND, Trimaps
from catdog.errors import UserError
from catdog.system.process import map_on_cores

_PAGE = 4096
MOST_OUTLINE_PIXELS = 2**29
"""The most that masks are measured on: 8,192 outlines of 256 px. It bounds trimaps.npz and each attention.npz."""


@dataclass(frozen=True)
class Pack:
    """An opened pack: N images of side S, K classes, T trimaps."""

    dataset: str
    fingerprint: str
    classes: tuple[str, ...]
    names: tuple[str, ...]
    images_NSSC: torch.Tensor
    """uint8, memory-mapped."""
    labels_N: torch.Tensor
    """int64."""
    is_test_N: torch.Tensor
    """bool."""
    trimaps_TSS: torch.Tensor
    """uint8: 1 animal, 2 background, 3 border."""
    trimap_images_T: torch.Tensor
    """int64: the image that each trimap belongs to."""
    is_validation_N: torch.Tensor | None = None
    """bool; None if each run draws its own validation split."""
    resize: Resize = "squash"
    """How its images became square; packs of earlier versions do not say so."""

    @property
    def measured_rows(self) -> IntArray:
        """Return the rows of the trimaps that masks are measured on: all, or as many as `MOST_OUTLINE_PIXELS` allows.

        These are spread evenly over the classes of each split that the dataset itself has.
        """
        parts_N = self.is_test_N + (0 if self.is_validation_N is None else 2 * self.is_validation_N)
        groups_T = (3 * self.labels_N + parts_N)[self.trimap_images_T].numpy()
        most = MOST_OUTLINE_PIXELS // self.trimaps_TSS.shape[1] ** 2
        return np.sort(spread(np.arange(len(groups_T)), groups_T, most))

    @property
    def measured_images(self) -> IntArray:
        """Return the images that the measured trimaps belong to."""
        return self.trimap_images_T.numpy()[self.measured_rows]

    @property
    def trimaps(self) -> Trimaps:
        """Return the measured outlines alone, so that attention can be measured without the images."""
        images = self.measured_images
        return Trimaps(
            names=[self.names[i] for i in images],
            labels_T=self.labels_N.numpy()[images],
            classes=self.classes,
            animals_TSS=self.trimaps_TSS.numpy()[self.measured_rows] != BACKGROUND,
        )


def write_pack(source: Source, path: Path) -> None:
    """Decode all of `source` into `path` on all cores, writing each image to its place once it is decoded.

    The first image begins on a page boundary, which makes writing a fifth faster; all tensors are aligned as long as
    the image side is a multiple of four.

    Raises:
        OSError: the disk is full.
    """
    count, size = len(source.names), source.size
    trimap_images = np.flatnonzero(source.has_trimap)
    trimap_rows = {int(image): row for row, image in enumerate(trimap_images)}
    small: dict[str, npt.NDArray[Any]] = {
        "labels": source.labels.astype(np.int64),
        "trimap_images": trimap_images.astype(np.int64),
        "is_test": source.is_test.astype(np.uint8),
    }
    if source.is_validation is not None:
        small["is_validation"] = source.is_validation.astype(np.uint8)
    large = {"images": (count, size, size, 3), "trimaps": (len(trimap_images), size, size)}
    layout: Layout = {name: (np.uint8, shape) for name, shape in large.items()} | {
        name: (array.dtype, array.shape) for name, array in small.items()
    }
    metadata = {
        "dataset": source.dataset,
        "fingerprint": source.fingerprint,
        "breeds": json.dumps(source.classes),
        "names": json.dumps(source.names),
        "resize": source.resize,
    }
    with new_safetensors(path, layout, metadata, _PAGE) as write:

        def decode(index: int) -> None:
            image, trimap = source.read(index)
            write("images", index, image)
            if trimap is not None:
                write("trimaps", trimap_rows[index], trimap)

        for name, array in small.items():
            write(name, 0, array)
        map_on_cores(decode, range(count))


def open_pack(path: Path) -> Pack:
    """Open a pack without reading its images; raise `UserError` if the file is damaged."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header, names = file.metadata(), set(file.keys())
            return Pack(
                dataset=header["dataset"],
                fingerprint=header["fingerprint"],
                classes=tuple(json.loads(header["breeds"])),
                names=tuple(json.loads(header["names"])),
                images_NSSC=file.get_tensor("images"),
                labels_N=file.get_tensor("labels"),
                is_test_N=file.get_tensor("is_test").bool(),
                is_validation_N=file.get_tensor("is_validation").bool() if "is_validation" in names else None,
                trimaps_TSS=file.get_tensor("trimaps"),
                trimap_images_T=file.get_tensor("trimap_images"),
                resize="crop" if header.get("resize") == "crop" else "squash",
            )
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: the pack is damaged ({error}): delete it, it will be made again") from None
