"""The files that a trial leaves, as bytes: history, masks, predictions, attention. Arrays in, bytes out; no I/O.

Shapes: E epochs, P probe images, N images of a part, T of them with a trimap, M masks, K breeds, S side in pixels.
All `.npz` files load without pickles, and the same arrays give the same bytes.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import pandas as pd
import torch

from catdog.data.batches import PartName
from catdog.data.pack import Pack
from catdog.data.split import Split
from catdog.records import EpochRecord, MaskHealth
from catdog.snapshots import Probes
from catdog.training import Evaluation

BACKGROUND = 2
"""In a trimap; 1 is the animal, 3 its border."""


@dataclass
class ProbeHistory:
    """Masks and predictions of the probe images in every epoch so far."""

    masks_PMHW: list[torch.Tensor] = field(default_factory=list)
    """float16, one tensor for each epoch; empty for heads without masks."""
    predicted_P: list[torch.Tensor] = field(default_factory=list)


def history_csv(history: Sequence[EpochRecord]) -> bytes:
    """One row per epoch; of a trial that diverged in its first one, the header alone."""
    columns = [f.name for kind in (EpochRecord, MaskHealth) for f in fields(kind) if f.name != "mask_health"]
    return pd.DataFrame([record.row() for record in history], columns=columns).to_csv(index=False).encode()


def masks_npz(probes: Probes, history: ProbeHistory) -> bytes:
    """images (P, S, S, 3), names (P,), labels (P,), breeds (K,), masks (E, P, M, H, W) float16, predicted (E, P)."""
    return _npz(
        images=probes.images_PSSC,
        names=np.array(probes.names),
        labels=probes.labels_P,
        breeds=np.array(probes.breeds),
        masks=torch.stack(history.masks_PMHW).numpy(),
        predicted=torch.stack(history.predicted_P).numpy(),
    )


def predictions_npz(pack: Pack, split: Split, parts: Mapping[PartName, Evaluation]) -> bytes:
    """breeds (K,); of each part: its images' names (N,), labels (N,) int16 and logits (N, K) float16."""
    arrays: dict[str, Any] = {"breeds": np.array(pack.breeds)}
    for part, evaluation in parts.items():
        arrays[f"{part}_images"] = np.array([pack.names[i] for i in split.part(part)])
        arrays[f"{part}_labels"] = evaluation.labels_N.numpy().astype(np.int16)
        arrays[f"{part}_logits"] = evaluation.logits_NK.half().numpy()
    return _npz(**arrays)


def attention_npz(pack: Pack, split: Split, parts: Mapping[PartName, Evaluation]) -> bytes:
    """Of each part, the images that have a trimap: names (T,) and masks (T, M, H, W) float16."""
    arrays: dict[str, Any] = {}
    with_trimap = pack.trimap_images_T.numpy()
    for part, evaluation in parts.items():
        assert evaluation.masks_NMHW is not None, "only heads with masks have attention to keep"
        indices = split.part(part)
        rows = np.flatnonzero(np.isin(indices, with_trimap))
        arrays[f"{part}_images"] = np.array([pack.names[i] for i in indices[rows]], dtype=str)
        arrays[f"{part}_masks"] = evaluation.masks_NMHW[torch.from_numpy(rows)].half().numpy()
    return _npz(**arrays)


def trimaps_npz(pack: Pack) -> bytes:
    """names (T,), labels (T,), breeds (K,), and animals (T, S, S) bool: the trimaps' animal and its border."""
    images = pack.trimap_images_T
    return _npz(
        names=np.array([pack.names[i] for i in images], dtype=str),
        labels=pack.labels_N[images].numpy(),
        breeds=np.array(pack.breeds),
        animals=(pack.trimaps_TSS != BACKGROUND).numpy(),
    )


def _npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()
