"""The masks of the probe images in every epoch, packed for the page: deflated, one byte per value.

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

from catdog.analysis.run_data import ReportContent
from catdog.formatting import colour_map, data_uri, readable
from catdog.runs.artifacts import ProbeMasks
from catdog.runs.manifest import TrialId
from catdog.runs.places import HEAD
from catdog.runs.results import TrialResult

BUDGET = 9_000_000
"""Size limit of all masks within the page, in bytes."""
MOST_SHEET_SIDE = 10_000
"""Of a contact sheet, in pixels."""
MOST_PROBES = 12
MOST_MASKS = 16


@dataclass(frozen=True)
class Gallery:
    """The data for the page's script, and notes for the reader."""

    data: Mapping[str, Any]
    notes: tuple[str, ...]
    """What was left out."""


def build_gallery(content: ReportContent, budget: int = BUDGET) -> Gallery | None:
    """Pack the masks of all complete trials, or of each variant's best run and as many seeds as fit beside it.

    Seeds are left out for all variants alike, the last first. None if there are no masks, or none fit.
    """
    results = {
        (label, result.seed): result
        for label in content.run_status.manifest.variants
        for result in content.run_status.results(label)
    }
    trial_ids = [
        trial_id
        for trial_id in results
        if trial_id in content.probe_masks and content.probe_masks[trial_id].predicted_EP.size
    ]
    if not trial_ids:
        return None
    probes = content.probe_masks[trial_ids[0]]
    best_runs = content.run_status.best_runs
    best = {one for one in trial_ids if (run := best_runs[one[0]]) is not None and run.seed == one[1]}
    data = _shared(probes)
    left = budget - len(_json(data))
    packed: dict[TrialId, dict[str, Any]] = {}
    images: dict[tuple[str, ...], dict[str, Any]] = {}
    for group in [[trial_id] for trial_id in trial_ids if trial_id in best] + _rounds(trial_ids, best):
        masks = {trial_id: content.probe_masks[trial_id] for trial_id in group}
        trials = {one: _pack(masks[one], results[one], content.histories.get(one)) for one in group}
        new = {names: _images(of) for of in masks.values() if (names := tuple(of.names)) not in images}
        size = sum(len(_json(one)) + 1 for one in (*trials.values(), *new.values()))
        if size > left:
            if group[0] in best:
                continue
            break
        images |= new
        order = list(images)
        for one, trial in trials.items():
            packed[one] = trial | {"best": one in best, "probes": order.index(tuple(masks[one].names))}
        left -= size + 28 * len(group)
    if not packed:
        return None
    shown = [trial_id for trial_id in trial_ids if trial_id in packed]
    data["trials"], data["probes"] = [packed[trial_id] for trial_id in shown], list(images.values())
    return Gallery(data, tuple(_notes(probes, trial_ids, shown, content)))


def _rounds(trial_ids: Sequence[TrialId], best: set[TrialId]) -> list[list[TrialId]]:
    """Return the trials other than best runs, grouped by seed."""
    rounds: dict[int, list[TrialId]] = {}
    for label, seed in trial_ids:
        if (label, seed) not in best:
            rounds.setdefault(seed, []).append((label, seed))
    return [rounds[seed] for seed in sorted(rounds)]


def _shared(probes: ProbeMasks) -> dict[str, Any]:
    """Return what all trials share: the classes, the probe images' side, the colour scale."""
    return {
        "colours": colour_map().tobytes().hex(),
        "classes": [readable(name) for name in probes.classes],
        "side": int(probes.images_PSSC.shape[1]),
        "probes": [],
        "trials": [],
    }


def _images(probes: ProbeMasks) -> dict[str, Any]:
    """Return the probe images and their labels: one such set for all trials, or for each seed with its own split."""
    images = [data_uri("image/jpeg", _jpeg(image)) for image in probes.images_PSSC[:MOST_PROBES]]
    return {"labels": probes.labels_P[:MOST_PROBES].tolist(), "images": images}


def _pack(masks: ProbeMasks, result: TrialResult, history: pd.DataFrame | None) -> dict[str, Any]:
    """Return one trial, with its masks by place."""
    accuracies = [] if history is None else history["val_accuracy"].tolist()
    return {
        "variant": result.variant,
        "seed": result.seed,
        "chosen": result.best_epoch,
        "accuracy": [round(value, 3) if np.isfinite(value) else None for value in accuracies],
        "predicted": masks.predicted_EP[:, :MOST_PROBES].tolist(),
        "places": [{"place": place} | _pack_masks(masks_EPMHW) for place, masks_EPMHW in masks.masks.items()],
    }


def _pack_masks(masks_EPMHW: npt.NDArray[np.float16]) -> dict[str, Any]:
    """Return masks as base64 of deflated uint8, what 0 and 255 stand for, and the top of the colour scale.

    As on contact sheets, the scale of all masks of a place starts at 0 and ends at 1, or at the largest value above it.
    """
    shown_EPMHW = masks_EPMHW[:, :MOST_PROBES, :MOST_MASKS].astype(np.float32)
    bytes_EPMHW, ranges_EP2 = quantise(shown_EPMHW)
    return {
        "shape": list(shown_EPMHW.shape),
        "ranges": [[[_short(value) for value in pair] for pair in row] for row in ranges_EP2],
        "top": _short(max(1.0, ranges_EP2.max(initial=1.0))),
        "masks": base64.b64encode(zlib.compress(bytes_EPMHW.tobytes(), 9)).decode(),
    }


def quantise(masks_EPMHW: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
    """Return the masks as bytes, and what 0 and 255 stand for in each epoch and image (E, P, 2).

    An image's masks share its range. Non-finite values become 0.
    """
    finite = np.nan_to_num(masks_EPMHW, nan=0.0, posinf=0.0, neginf=0.0)
    low, high = (ends(finite, axis=(2, 3, 4), keepdims=True) for ends in (np.min, np.max))
    share = (finite - low) / np.maximum(high - low, 1e-9)
    ranges_EP2 = np.stack([low[..., 0, 0, 0], high[..., 0, 0, 0]], axis=-1)
    return (share * 255).round().astype(np.uint8), ranges_EP2


def _notes(
    probes: ProbeMasks, trial_ids: Sequence[TrialId], shown: Sequence[TrialId], content: ReportContent
) -> list[str]:
    notes, results = [], content.run_status.results
    masked = len(trial_ids) + sum(
        "masks.npz" in one.files and (label, one.seed) not in content.probe_masks
        for label in content.run_status.manifest.variants
        for one in results(label)
    )
    if len(shown) < masked:
        notes.append(
            f"The page holds {len(shown)} of {masked} trials with masks, including each variant's best run "
            "if it fits; the contact sheets of all trials are in the store."
        )
    if len(probes.labels_P) > MOST_PROBES:
        notes.append(f"The first {MOST_PROBES} of {len(probes.labels_P)} probe images are shown.")
    if {place for trial_id in shown for place in content.probe_masks[trial_id].masks} != {HEAD}:
        notes.append(
            "A place is the network’s head or a stage of its backbone; the masks of each have their own colour scale."
        )
    shown_masks = [masks for trial_id in shown for masks in content.probe_masks[trial_id].masks.values()]
    if any(masks_EPMHW.shape[2] > MOST_MASKS for masks_EPMHW in shown_masks):
        notes.append(f"Of heads with more than {MOST_MASKS} masks, the first {MOST_MASKS} are shown.")
    labels = {label for label, _ in trial_ids}
    if less := sum(len(results(label)) for label in labels) - masked:
        notes.append(
            f"{less} trials of these variants keep no masks: the published form has those of the best runs only."
        )
    plain = [label for label in content.run_status.manifest.variants if results(label)]
    without = [label for label in plain if label not in labels]
    if without:
        notes.append(f"Without masks: {', '.join(without)}.")
    return notes


def _jpeg(image_SSC: npt.NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image_SSC).save(buffer, format="JPEG", quality=85)
    return buffer.getvalue()


def small_sheet(png: bytes) -> bytes | None:
    """Return a contact sheet as WebP, of a tenth of the size; None if it is no PNG that could be one."""
    buffer = io.BytesIO()
    try:
        with Image.open(io.BytesIO(png), formats=["PNG"]) as sheet:
            if max(sheet.size) > MOST_SHEET_SIDE:
                return None
            sheet.convert("RGB").save(buffer, format="WEBP", quality=75)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):  # Pillow's errors of damaged files
        return None
    return buffer.getvalue()


def _short(value: float) -> float:
    return float(f"{value:.4g}")


def _json(content: Any) -> str:
    return json.dumps(content, separators=(",", ":"))
