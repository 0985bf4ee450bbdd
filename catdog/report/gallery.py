"""The masks of the probe images in every epoch, packed for a page: deflated bytes, a byte for a value.

Shapes: E epochs, P probe images, M masks, S side of the probe images in pixels.
"""

import base64
import io
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image

from catdog.ledger import best_run
from catdog.records import TrialResult
from catdog.report.content import Cell, Replay, ReportContent
from catdog.report.figures import data_uri
from catdog.snapshots import colour_map

BUDGET = 9_000_000
"""Bytes of the whole gallery in the page."""
MOST_PROBES = 12
MOST_MASKS = 16


@dataclass(frozen=True)
class Gallery:
    """What the page's script gets, and what a reader has to know of it."""

    data: Mapping[str, Any]
    variants: tuple[str, ...]
    """Those with masks to see."""
    notes: tuple[str, ...]
    """What is left out."""


def build_gallery(content: ReportContent, budget: int = BUDGET) -> Gallery | None:
    """Pack the masks of all complete trials, or of as many seeds as fit beside each variant's best run.

    Seeds are left out for all variants alike, the last first. None where there are no masks.
    """
    results = {
        (label, result.seed): result
        for label in content.ledger.manifest.variants
        for result in content.ledger.results(label)
    }
    cells = [cell for cell in results if cell in content.replays and content.replays[cell].masks_EPMHW.size]
    if not cells:
        return None
    probes = content.replays[cells[0]]
    same = [cell for cell in cells if np.array_equal(content.replays[cell].images_PSSC, probes.images_PSSC)]
    best = {cell for cell in same if cell == _best_cell(content, cell[0])}
    data = _shared(probes)
    left = budget - len(_json(data))
    packed: dict[Cell, dict[str, Any]] = {}
    for group in [[cell] for cell in same if cell in best] + _rounds(same, best):
        trials = {cell: _pack(content.replays[cell], results[cell], content.histories.get(cell)) for cell in group}
        size = sum(len(_json(trial)) + 1 for trial in trials.values())
        if size > left:
            if group[0] in best:
                continue
            break
        packed |= {cell: trial | {"best": cell in best} for cell, trial in trials.items()}
        left -= size + 16 * len(group)
    if not packed:
        return None
    shown = [cell for cell in same if cell in packed]
    data["trials"] = [packed[cell] for cell in shown]
    labels = tuple(dict.fromkeys(label for label, _ in shown))
    return Gallery(data, labels, tuple(_notes(probes, cells, shown, content)))


def _best_cell(content: ReportContent, label: str) -> Cell | None:
    best = best_run(content.ledger.results(label))
    return None if best is None else (label, best.seed)


def _rounds(cells: Sequence[Cell], best: set[Cell]) -> list[list[Cell]]:
    """Return the trials that are no best runs, seed by seed."""
    seeds = sorted({seed for _, seed in cells})
    rounds = [[cell for cell in cells if cell[1] == seed and cell not in best] for seed in seeds]
    return [group for group in rounds if group]


def _shared(probes: Replay) -> dict[str, Any]:
    """Return what all trials share: the probe images, their breeds, the colour scale."""
    return {
        "colours": colour_map().tobytes().hex(),
        "breeds": [readable(breed) for breed in probes.breeds],
        "labels": probes.labels_P[:MOST_PROBES].tolist(),
        "side": int(probes.images_PSSC.shape[1]),
        "images": [data_uri("image/jpeg", _jpeg(image)) for image in probes.images_PSSC[:MOST_PROBES]],
        "trials": [],
    }


def _pack(replay: Replay, result: TrialResult, history: pd.DataFrame | None) -> dict[str, Any]:
    """Return one trial: its masks as base64 of deflated uint8, and where 0 and 255 lie if a mask has its own range."""
    masks_EPMHW = replay.masks_EPMHW[:, :MOST_PROBES, :MOST_MASKS].astype(np.float32)
    bytes_EPMHW, ranges_EP2 = quantise(masks_EPMHW, own_range=replay.masks_EPMHW.shape[2] == 1)
    accuracies = [] if history is None else history["val_accuracy"].tolist()
    return {
        "variant": result.variant,
        "seed": result.seed,
        "chosen": result.best_epoch,
        "shape": list(masks_EPMHW.shape),
        "accuracy": [round(value, 3) if np.isfinite(value) else None for value in accuracies],
        "predicted": replay.predicted_EP[:, :MOST_PROBES].tolist(),
        "ranges": None if ranges_EP2 is None else [[[_short(v) for v in pair] for pair in row] for row in ranges_EP2],
        "masks": base64.b64encode(zlib.compress(bytes_EPMHW.tobytes(), 9)).decode(),
    }


def quantise(
    masks_EPMHW: npt.NDArray[np.float32], own_range: bool
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32] | None]:
    """Return the masks as bytes and, for single masks, the values of 0 and 255 in each image and epoch (E, P, 2).

    Several masks share the scale 0..1. What is not finite becomes 0.
    """
    finite = np.nan_to_num(masks_EPMHW, nan=0.0, posinf=0.0, neginf=0.0)
    if not own_range:
        return (finite.clip(0, 1) * 255).round().astype(np.uint8), None
    low, high = (ends(finite, axis=(2, 3, 4), keepdims=True) for ends in (np.min, np.max))
    share = (finite - low) / np.maximum(high - low, 1e-9)
    ranges_EP2 = np.stack([low[..., 0, 0, 0], high[..., 0, 0, 0]], axis=-1)
    return (share * 255).round().astype(np.uint8), ranges_EP2


def _notes(probes: Replay, cells: Sequence[Cell], shown: Sequence[Cell], content: ReportContent) -> list[str]:
    notes = []
    if len(shown) < len(cells):
        notes.append(
            f"The page holds {len(shown)} of {len(cells)} trials with masks, each variant's best run among them where "
            "it fits; the contact sheets of all trials are in the store."
        )
    if len(probes.labels_P) > MOST_PROBES:
        notes.append(f"The first {MOST_PROBES} of {len(probes.labels_P)} probe images are shown.")
    if any(content.replays[cell].masks_EPMHW.shape[2] > MOST_MASKS for cell in shown):
        notes.append(f"Of heads with more than {MOST_MASKS} masks the first {MOST_MASKS} are shown.")
    labels = {label for label, _ in cells}
    plain = [label for label in content.ledger.manifest.variants if content.ledger.results(label)]
    without = [label for label in plain if label not in labels]
    if without:
        notes.append(f"Without masks: {', '.join(without)}.")
    return notes


def readable(breed: str) -> str:
    return breed.replace("_", " ")


def _jpeg(image_SSC: npt.NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image_SSC).save(buffer, format="JPEG", quality=85)
    return buffer.getvalue()


def _short(value: float) -> float:
    return float(f"{value:.3g}")


def _json(content: Any) -> str:
    return json.dumps(content, separators=(",", ":"))
