"""Feature maps of a frozen backbone, computed once for all trials.

One safetensors file, memory-mapped by every trial, holds the maps of every split (training images also mirrored) and
each map's mean over its positions, which is all that a head needs if it begins with global average pooling.
"""

import hashlib
import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import safetensors
import safetensors.torch
import torch
from torch import nn

from catdog.data.batches import ImageBatches
from catdog.errors import UserError

_FORMAT = 3
SPLITS = ("train", "validation", "test")
"""`train` holds the training images, then their mirror images, so that one gather can mix both."""


class Features(NamedTuple):
    """The outputs of a frozen backbone, by split."""

    maps: dict[str, torch.Tensor]
    """(N, H, W, C), float16."""
    pooled: dict[str, torch.Tensor]
    """(N, 1, 1, C), float32: the means of the maps, as a head would compute them."""


def features_digest(**origin: object) -> str:
    """Return a name for the features determined by `origin` (backbone, weights, size, split, precision)."""
    return hashlib.sha256(json.dumps({"format": _FORMAT, **origin}, sort_keys=True).encode()).hexdigest()[:16]


@torch.inference_mode()
def compute_features(
    backbone: nn.Module,
    batches: ImageBatches,
    autocast: torch.autocast,
    on_progress: Callable[[int], None] = lambda count: None,
) -> Features:
    """Run the backbone over all images; `on_progress` receives the number of images done."""
    backbone.eval()
    streams: dict[str, Iterator[torch.Tensor]] = {
        "train": itertools.chain(batches.mirrored_train(False), batches.mirrored_train(True)),
        "validation": (images for images, _ in batches.split("validation")),
        "test": (images for images, _ in batches.split("test")),
    }
    features, done = Features({}, {}), 0
    for split, images in streams.items():
        maps, pooled = [], []
        for batch in images:
            with autocast:
                maps_BCHW = backbone(batch).half().contiguous(memory_format=torch.channels_last)
            maps.append(maps_BCHW.permute(0, 2, 3, 1).cpu().contiguous())
            pooled.append(maps_BCHW.float().mean(dim=(2, 3))[:, None, None, :].cpu())
            done += len(batch)
            on_progress(done)
        features.maps[split], features.pooled[split] = torch.cat(maps), torch.cat(pooled)
    return features


def write_features(features: Features, path: Path) -> None:
    """Write the features to one safetensors file."""
    tensors = {
        f"{kind}.{split}": tensor
        for kind, tensors_of in features._asdict().items()
        for split, tensor in tensors_of.items()
    }
    safetensors.torch.save_file(tensors, path)


def open_features(path: Path) -> Features:
    """Open cached features without reading them; raise `UserError` if the file is damaged."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return Features(
                *({split: file.get_tensor(f"{kind}.{split}") for split in SPLITS} for kind in Features._fields)
            )
    except safetensors.SafetensorError as error:
        raise UserError(f"{path}: the feature cache is damaged ({error}): delete it, it will be made again") from None
