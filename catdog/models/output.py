"""What every head returns."""

from typing import NamedTuple

import torch


class ModelOutput(NamedTuple):
    """Logits, the masks that made them, and what the head adds to the loss."""

    logits_BK: torch.Tensor
    masks_BMHW: torch.Tensor | None
    """None for heads without spatial masks."""
    aux_loss: torch.Tensor
    """Scalar, already weighted."""

    @property
    def logits(self) -> torch.Tensor:
        return self.logits_BK

    @property
    def masks(self) -> torch.Tensor | None:
        return self.masks_BMHW
