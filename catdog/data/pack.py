"""The pack: a whole dataset, decoded once, in one memory-mapped safetensors file.

Images are squashed to one size as uint8 and written straight to their offsets in the file, so packing takes little
memory at any size. All trials on a node share the file through the page cache, and no trial decodes a JPEG. The split
is derived from the labels (`catdog.data.split`), not stored.
"""

import contextlib
import dataclasses
import json
import math
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors
import torch

from catdog.data.datasets.base import Source
from catdog.data.trimaps import BACKGROUND, Trimaps
from catdog.errors import UserError
from catdog.system.process import map_on_cores

_PAGE = 4096
_SAFETENSORS_NAMES = {"int64": "I64", "uint8": "U8"}


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

    @property
    def trimaps(self) -> Trimaps:
        """Return the outlines alone, so that attention can be measured without the images."""
        images = self.trimap_images_T
        return Trimaps(
            names=[self.names[i] for i in images],
            labels_T=self.labels_N[images].numpy(),
            classes=self.classes,
            animals_TSS=(self.trimaps_TSS != BACKGROUND).numpy(),
        )

    def on(self, device: torch.device) -> "Pack":
        """Return the pack with its images on `device`."""
        return dataclasses.replace(self, images_NSSC=self.images_NSSC.to(device))


def write_pack(source: Source, path: Path) -> None:
    """Decode all of `source` into `path` on all cores, writing each image to its offset once it is decoded.

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
    head, places = _lay_out(
        {name: (np.dtype(np.uint8), shape) for name, shape in large.items()}
        | {name: (array.dtype, array.shape) for name, array in small.items()},
        metadata={
            "dataset": source.dataset,
            "fingerprint": source.fingerprint,
            "breeds": json.dumps(source.classes),
            "names": json.dumps(source.names),
        },
    )
    with _whole_or_not_at_all(path) as file:

        def write(content: memoryview, offset: int) -> None:
            while content:
                written = os.pwrite(file.fileno(), content, offset)
                content, offset = content[written:], offset + written

        def decode(index: int) -> None:
            image, trimap = source.read(index)
            write(image.reshape(-1).data, places["images"] + index * image.nbytes)
            if trimap is not None:
                write(trimap.reshape(-1).data, places["trimaps"] + trimap_rows[index] * trimap.nbytes)

        write(memoryview(head), 0)
        for name, array in small.items():
            write(memoryview(array.tobytes()), places[name])
        map_on_cores(decode, range(count))


@contextlib.contextmanager
def _whole_or_not_at_all(path: Path) -> Iterator[FileIO]:
    """Open a new file; remove it if the block raises."""
    with open(path, "wb", buffering=0) as file:
        try:
            yield file
        except BaseException:
            path.unlink()
            raise


def _lay_out(
    tensors: dict[str, tuple[np.dtype[Any], tuple[int, ...]]], metadata: dict[str, str]
) -> tuple[bytes, dict[str, int]]:
    """Return the header of a safetensors file and the file offset of each tensor.

    Tensors keep the given order. The first starts on a page boundary, which makes writing images a fifth faster; all
    are aligned as long as the image side is a multiple of four.
    """
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name, (dtype, shape) in tensors.items():
        begin, end = end, end + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": _SAFETENSORS_NAMES[dtype.name], "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % _PAGE)
    head = struct.pack("<Q", len(text)) + text
    return head, {name: len(head) + header[name]["data_offsets"][0] for name in tensors}


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
            )
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: the pack is damaged ({error}): delete it, it will be made again") from None
