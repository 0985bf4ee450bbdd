"""Feature maps of a frozen backbone, computed once for all trials: training images and their mirror images,
validation, test.

Stored as float16 (N, H, W, C) in one safetensors file, memory-mapped by every trial.
"""

import hashlib
import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import nn

from catdog.data.batches import ImageBatches
from catdog.errors import UserError

_FORMAT = 2
PARTS = ("train", "validation", "test")
"""`train` holds the training images, then their mirror images: one gather takes some of both."""


def features_digest(**origin: object) -> str:
    """Return a name for the features that follow from `origin` (backbone, weights, size, split, precision)."""
    return hashlib.sha256(json.dumps({"format": _FORMAT, **origin}, sort_keys=True).encode()).hexdigest()[:16]


@torch.inference_mode()
def compute_features(
    backbone: nn.Module,
    batches: ImageBatches,
    autocast: torch.autocast,
    on_progress: Callable[[int], None] = lambda count: None,
) -> dict[str, torch.Tensor]:
    """Run the backbone over all images; `on_progress` hears of the number of images done."""
    backbone.eval()
    streams: dict[str, Iterator[torch.Tensor]] = {
        "train": itertools.chain(batches.mirrored_train(False), batches.mirrored_train(True)),
        "validation": (images for images, _ in batches.part("validation")),
        "test": (images for images, _ in batches.part("test")),
    }
    features, done = {}, 0
    for part, images in streams.items():
        maps = []
        for batch in images:
            with autocast:
                maps.append(backbone(batch).permute(0, 2, 3, 1).half().cpu().contiguous())
            done += len(batch)
            on_progress(done)
        features[part] = torch.cat(maps)
    return features


def write_features(features: dict[str, torch.Tensor], path: Path) -> None:
    safetensors.torch.save_file(features, path)


def open_features(path: Path) -> dict[str, torch.Tensor]:
    """Open cached features without reading them; raises `UserError` when the file is damaged."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return {part: file.get_tensor(part) for part in PARTS}
    except safetensors.SafetensorError as error:
        raise UserError(f"{path}: the feature cache is damaged ({error}): delete it, it will be made again") from None
