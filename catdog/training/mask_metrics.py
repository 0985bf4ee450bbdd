"""Mask health in numbers: how much masks differ, how far they spread, how many are dead."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F

from catdog.runs.history import MaskHealth
from catdog.runs.places import FINEST

DEAD_MASK = 0.01
"""A mask whose maximum on an image stays below this ignores the image."""


def coarsened(masks_NMHW: torch.Tensor) -> torch.Tensor:
    """Return masks of at most `FINEST` × `FINEST` cells: finer ones are averaged over areas."""
    height, width = masks_NMHW.shape[2:]
    if max(height, width) <= FINEST:
        return masks_NMHW
    return F.adaptive_avg_pool2d(masks_NMHW, (min(FINEST, height), min(FINEST, width)))


def health_by_place(masks: Mapping[str, torch.Tensor]) -> dict[str, MaskHealth]:
    """Return the health of the masks (N, M, H, W) at each place, without places where it cannot be measured."""
    found = {place: mask_health(masks_NMHW) for place, masks_NMHW in masks.items()}
    return {place: health for place, health in found.items() if health is not None}


def mask_health(masks_NMHW: torch.Tensor) -> MaskHealth | None:
    """Summarise the masks of N images; None if a value is below zero, since these are measures of shares.

    mask_mean: mean activation. mask_entropy: entropy of a mask as a distribution over positions, relative to a
    uniform mask's (1: no preference). mask_overlap: mean cosine between different masks of an image (0 for one mask).
    mask_corner_mass: share of the mass in the four corner cells, over their share of the area (1: like a uniform mask).
    mask_dead: share of masks that stay below 0.01 on more than 99 % of the images.
    """
    if (masks_NMHW < 0).any():
        return None
    masks_NMP = masks_NMHW.detach().float().flatten(2)
    num_masks, positions = masks_NMP.shape[1:]
    mass_NM = masks_NMP.sum(dim=2)
    share_NMP = masks_NMP / mass_NM.clamp_min(1e-12).unsqueeze(2)
    entropy_NM = -(share_NMP * share_NMP.clamp_min(1e-12).log()).sum(dim=2)
    corners_NM4 = masks_NMHW[:, :, [0, 0, -1, -1], [0, -1, 0, -1]].detach().float()
    corner_share_NM = corners_NM4.sum(dim=2) / mass_NM.clamp_min(1e-12)
    unit_NMP = F.normalize(masks_NMP, dim=2)
    cosines_NMM = unit_NMP @ unit_NMP.transpose(1, 2)
    off_diagonal = cosines_NMM.sum(dim=(1, 2)) - torch.diagonal(cosines_NMM, dim1=1, dim2=2).sum(dim=1)
    dead_M = (masks_NMP.amax(dim=2) < DEAD_MASK).float().mean(dim=0) > 0.99
    most = torch.tensor(float(positions)).log().item()
    return MaskHealth(
        mask_mean=masks_NMP.mean().item(),
        mask_entropy=(entropy_NM.mean() / most).item() if positions > 1 else 1.0,
        mask_overlap=(off_diagonal.mean() / max(1, num_masks * (num_masks - 1))).item(),
        mask_corner_mass=(corner_share_NM.mean() * positions / 4).item(),
        mask_dead=dead_M.float().mean().item(),
    )
