"""Grad-CAM (Selvaraju et al. 2017): where a network whose head has no masks finds the class that it predicts.

The gradient of the predicted class's logit with respect to the last feature map, averaged over positions, weights the
map's channels; what is left of their sum above zero is the map of the class. Each map is divided by its own maximum.
(pytorch-grad-cam gives the same up to rounding, before it subtracts each map's least value as well.)

Shapes: B batch, C channels of an H × W feature map, P probe images, T images with an outline.
"""

import functools

import torch

from catdog.data.batches import EVALUATION_BATCH, EvaluationSplit
from catdog.runs.artifacts import SPLITS, TrimapMasks, attention_npz
from catdog.runs.places import HEAD
from catdog.storage import BackgroundUploads
from catdog.trial.contact_sheet import contact_sheet
from catdog.trial.last_map import Finish, last_map
from catdog.trial.setup import Trial


def grad_cam(head: Finish, features_BCHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the maps (B, 1, H, W) of the predicted classes, from 0 to 1, and these classes (B,).

    A map is zero everywhere if no position speaks for the class.
    """
    leaf_BCHW = features_BCHW.detach().requires_grad_()
    with torch.enable_grad():
        logits_BK = head(leaf_BCHW.clone()).logits_BK  # a head may change its input
        (gradient_BCHW,) = torch.autograd.grad(logits_BK.amax(dim=1).sum(), leaf_BCHW, materialize_grads=True)
    maps_B1HW = torch.einsum("bc,bchw->bhw", gradient_BCHW.mean(dim=(2, 3)), features_BCHW).unsqueeze(1).relu()
    return maps_B1HW / maps_B1HW.amax(dim=(2, 3), keepdim=True).clamp_min(1e-30), logits_BK.detach().argmax(dim=1)


def queue_grad_cam(trial: Trial, uploads: BackgroundUploads) -> None:
    """Queue the sheet of the probe images and the maps of the images with an outline, of the model as it is."""
    maps_P1HW, predicted_P = _maps(trial, "validation", list(trial.inputs.probe_positions))
    title = f"Grad-CAM · {trial.variant.title} · seed {trial.seed} · epoch {trial.state.best.epoch}"
    draw = functools.partial(contact_sheet, trial.probes, {"Grad-CAM": maps_P1HW.numpy()}, predicted_P.numpy(), title)
    uploads.put(trial.where.grad_cam_sheet, draw)
    splits: dict[str, TrimapMasks] = {}
    for split in SPLITS:
        positions = trial.inputs.measured_positions(split)
        if positions.size:
            images = trial.inputs.split.indices(split)[positions]
            maps_T1HW, _ = _maps(trial, split, positions.tolist())
            splits[split] = TrimapMasks([trial.inputs.pack.names[i] for i in images], {HEAD: maps_T1HW.half().numpy()})
    if len(splits) == len(SPLITS):
        uploads.put(trial.where.grad_cam, functools.partial(attention_npz, splits))


@torch.no_grad()
def _maps(trial: Trial, split: EvaluationSplit, positions: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the maps and predicted classes of some images of a split, on the CPU."""
    model, inputs = trial.state.model.eval(), trial.inputs
    batches = inputs.batches if trial.batches is inputs.pooled_batches else trial.batches  # whole maps
    found = []
    for first in range(0, len(positions), EVALUATION_BATCH):
        features_BCHW, head = last_map(model, batches.some(split, positions[first : first + EVALUATION_BATCH]))
        found.append(grad_cam(head, features_BCHW))
    maps, predicted = (torch.cat(parts).cpu() for parts in zip(*found, strict=True))
    return maps, predicted
