"""The pack: a whole dataset, decoded once, in one memory-mapped safetensors file.

Images are squashed to one size as uint8; all trials of a node share the file through the page cache, and no JPEG is
decoded inside a trial. The split is derived from the labels (`catdog.data.split`), not stored.
"""

import dataclasses
import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy
import torch

from catdog.data.source import Source
from catdog.errors import UserError


@dataclass(frozen=True)
class Pack:
    """An opened pack: N images of side S, K breeds, T trimaps."""

    dataset: str
    fingerprint: str
    breeds: tuple[str, ...]
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

    def on(self, device: torch.device) -> "Pack":
        """Return the pack with its images on `device`."""
        return dataclasses.replace(self, images_NSSC=self.images_NSSC.to(device))


def write_pack(source: Source, path: Path) -> None:
    """Decode all of `source` into `path`, on all cores (Pillow decodes without the interpreter's lock)."""
    count, size = len(source.names), source.size
    images = np.empty((count, size, size, 3), dtype=np.uint8)
    trimap_images = np.flatnonzero(source.has_trimap)
    trimap_rows = {int(image): row for row, image in enumerate(trimap_images)}
    trimaps = np.empty((len(trimap_images), size, size), dtype=np.uint8)

    def decode(index: int) -> None:
        images[index], trimap = source.read(index)
        if trimap is not None:
            trimaps[trimap_rows[index]] = trimap

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in pool.map(decode, range(count), chunksize=32):
            pass
    arrays: dict[str, np.ndarray] = {
        "images": images,
        "labels": source.labels,
        "is_test": source.is_test.astype(np.uint8),
        "trimaps": trimaps,
        "trimap_images": trimap_images.astype(np.int64),
    }
    header = {
        "dataset": source.dataset,
        "fingerprint": source.fingerprint,
        "breeds": json.dumps(source.breeds),
        "names": json.dumps(source.names),
    }
    safetensors.numpy.save_file(arrays, path, metadata=header)


def open_pack(path: Path) -> Pack:
    """Open a pack without reading its images; raises `UserError` when the file is damaged."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = file.metadata()
            return Pack(
                dataset=header["dataset"],
                fingerprint=header["fingerprint"],
                breeds=tuple(json.loads(header["breeds"])),
                names=tuple(json.loads(header["names"])),
                images_NSSC=file.get_tensor("images"),
                labels_N=file.get_tensor("labels"),
                is_test_N=file.get_tensor("is_test").bool(),
                trimaps_TSS=file.get_tensor("trimaps"),
                trimap_images_T=file.get_tensor("trimap_images"),
            )
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: the pack is damaged ({error}): delete it, it will be made again") from None
