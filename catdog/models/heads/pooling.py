"""Masked pooling, as one contraction: the product of every mask with every feature is never made."""

import torch


def masked_pool(features_BCHW: torch.Tensor, masks_BMHW: torch.Tensor) -> torch.Tensor:
    """Return the mean over positions of features × mask, for each mask: (B, M, C)."""
    height, width = masks_BMHW.shape[2:]
    return torch.einsum("bmhw,bchw->bmc", masks_BMHW, features_BCHW) / (height * width)
