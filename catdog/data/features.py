"""Feature maps of a frozen backbone, computed once for all trials.

One safetensors file, memory-mapped by every trial, holds the maps of every split (training images, then their mirror
images, so that one gather can mix both) and each map's mean over its positions, which is all that a head needs if it
begins with global average pooling.
"""

import hashlib
import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import safetensors
import torch
from torch import nn

from catdog.data.batches import ImageBatches
from catdog.data.safetensors_writer import Layout, new_safetensors
from catdog.data.split import SPLITS
from catdog.errors import UserError

_FORMAT = 3


class Features(NamedTuple):
    """The outputs of a frozen backbone, by split."""

    maps: Mapping[str, torch.Tensor]
    """(N, H, W, C), float16."""
    pooled: Mapping[str, torch.Tensor] = MappingProxyType({})
    """(N, 1, 1, C), float32: the means of the maps, as a head would compute them; none of several places' maps."""


def features_digest(**origin: object) -> str:
    """Return a name for the features determined by `origin` (backbone, weights, size, split, precision)."""
    return hashlib.sha256(json.dumps({"format": _FORMAT, **origin}, sort_keys=True).encode()).hexdigest()[:16]


@torch.inference_mode()
def write_features(
    backbone: nn.Module,
    batches: ImageBatches,
    feature_shape: tuple[int, int, int],
    autocast: torch.autocast,
    path: Path,
    on_progress: Callable[[int], None] = lambda count: None,
    with_means: bool = True,
) -> None:
    """Run the backbone over all images, writing each batch's maps to their place in `path` once they are computed.

    `feature_shape` is that of one map: (C, H, W). `on_progress` receives the number of images done. `with_means` adds
    the maps' means over positions.

    Raises:
        OSError: the disk is full.
        UserError: a map has values that half precision cannot hold, or none that are numbers.
    """
    backbone.eval()
    streams: dict[str, Iterator[torch.Tensor]] = {
        "train": itertools.chain(batches.mirrored_train(False), batches.mirrored_train(True)),
        "validation": (images for images, _ in batches.split("validation")),
        "test": (images for images, _ in batches.split("test")),
    }
    done = 0
    with new_safetensors(path, _layout(batches.feature_images, feature_shape, with_means)) as write:
        for split, images in streams.items():
            if not batches.feature_images[split]:
                continue
            row = 0
            for batch in images:
                with autocast:
                    maps_BCHW = backbone(batch).half().contiguous(memory_format=torch.channels_last)
                maps_BHWC = maps_BCHW.permute(0, 2, 3, 1).cpu().numpy()
                if not np.isfinite(maps_BHWC).all():
                    raise UserError(
                        "--freeze: the backbone's maps have values beyond 65,504, which their files in half precision "
                        "cannot hold: use other weights, another backbone or other stages"
                    )
                write(f"maps.{split}", row, maps_BHWC)
                if with_means:
                    write(f"pooled.{split}", row, maps_BCHW.float().mean(dim=(2, 3)).cpu().numpy())
                row, done = row + len(batch), done + len(batch)
                on_progress(done)


def bytes_per_image(feature_shape: tuple[int, int, int], with_means: bool = True) -> int:
    """Return how many bytes the file takes for each image; training images are in it twice."""
    kinds = _of_an_image(feature_shape, with_means).values()
    return sum(np.dtype(dtype).itemsize * math.prod(shape) for dtype, shape in kinds)


def _of_an_image(feature_shape: tuple[int, int, int], with_means: bool) -> dict[str, tuple[type, tuple[int, ...]]]:
    """Return dtype and shape of what the file has of each image."""
    channels, height, width = feature_shape
    pooled = {"pooled": (np.float32, (1, 1, channels))} if with_means else {}
    return {**pooled, "maps": (np.float16, (height, width, channels))}


def _layout(images: Mapping[str, int], feature_shape: tuple[int, int, int], with_means: bool) -> Layout:
    """Return dtype and shape of each tensor in the file, in the order in which `safetensors` itself stores them."""
    return {
        f"{kind}.{split}": (dtype, (images[split], *shape))
        for kind, (dtype, shape) in _of_an_image(feature_shape, with_means).items()
        for split in sorted(SPLITS)
    }


def open_features(path: Path) -> Features:
    """Open cached features without reading them; raise `UserError` if the file is damaged."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            names = set(file.keys())
            kinds = [kind for kind in Features._fields if f"{kind}.train" in names]
            return Features(*({split: file.get_tensor(f"{kind}.{split}") for split in SPLITS} for kind in kinds))
    except safetensors.SafetensorError as error:
        raise UserError(f"{path}: the feature cache is damaged ({error}): delete it, it will be made again") from None
