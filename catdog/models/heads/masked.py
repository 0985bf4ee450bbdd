"""What heads with spatial masks share: two steps, masks from features and logits from both; and their controls.

The controls say what the masks are worth: each is the same head with one thing changed (parameter `masks`).

- `untrained`: the layers that make the masks keep their initial weights. Is it the masks, or only the bigger head?
- `swapped`: trained like the head itself, but when Test is scored each image is classified with the masks of another
  one. Does it matter that they belong to the image? The masks that are stored are its own.
- `flat`: each mask is its own mean at all positions, so the head has equal parameters and no spatial attention.
"""

import contextlib
from collections.abc import Iterator
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from catdog.models.petnet import ModelOutput

MaskControl = Literal["trained", "untrained", "swapped", "flat"]


def mask_scores(mask_conv: nn.Conv2d, features_BCHW: torch.Tensor) -> torch.Tensor:
    """Return the 1×1 convolution of the features, (B, M, H, W).

    As a matrix product with few columns: CPUs compute its gradients a third faster than a convolution's.
    """
    return kernel_scores(mask_conv.weight.flatten(1), features_BCHW, mask_conv.bias)


def kernel_scores(
    kernels_MC: torch.Tensor, features_BCHW: torch.Tensor, bias_M: torch.Tensor | None = None
) -> torch.Tensor:
    """Return the inner product of each kernel with the features at each position, (B, M, H, W)."""
    return F.linear(features_BCHW.permute(0, 2, 3, 1), kernels_MC, bias_M).permute(0, 3, 1, 2)


def softmax_masks(scores_BMHW: torch.Tensor) -> torch.Tensor:
    """Return the softmax over the positions × H·W, (B, M, H, W): a uniform mask is 1, and pooling with it is GAP."""
    positions = scores_BMHW.shape[2] * scores_BMHW.shape[3]
    return scores_BMHW.flatten(2).softmax(dim=2).reshape(scores_BMHW.shape) * positions


def masked_pool(features_BCHW: torch.Tensor, masks_BMHW: torch.Tensor) -> torch.Tensor:
    """Return the mean over positions of features × mask, for each mask: (B, M, C)."""
    height, width = masks_BMHW.shape[2:]
    return torch.einsum("bmhw,bchw->bmc", masks_BMHW, features_BCHW) / (height * width)


class Masked(nn.Module):
    """A module with masks, under one of the controls."""

    mask_conv: nn.Conv2d
    """What makes the masks, unless `mask_parameters` says otherwise."""

    def __init__(self, masks: MaskControl) -> None:
        super().__init__()
        self.masks = masks
        self.swaps = False
        """Whether each image gets another one's masks now; see `swapped_masks`."""

    def mask_parameters(self) -> Iterator[nn.Parameter]:
        """Yield the parameters of the layers that make the masks, which have their own weight decay."""
        return self.mask_conv.parameters()

    def keep_untrained(self) -> None:
        """To be called when all layers are made: fix those that make the masks, if the control is `untrained`."""
        if self.masks == "untrained":
            for parameter in self.mask_parameters():
                parameter.requires_grad_(False)

    def controlled(self, masks_BMHW: torch.Tensor) -> torch.Tensor:
        """Return the masks that the control puts in place of an image's own."""
        if self.masks == "flat":
            return masks_BMHW.mean(dim=(2, 3), keepdim=True).expand_as(masks_BMHW)
        return masks_BMHW.roll(len(masks_BMHW) // 2, dims=0) if self.swaps else masks_BMHW

    def shown(self, masks_BMHW: torch.Tensor) -> torch.Tensor | None:
        """Return the masks to draw and to measure: None if they are flat."""
        return None if self.masks == "flat" else masks_BMHW


@contextlib.contextmanager
def swapped_masks(model: nn.Module) -> Iterator[bool]:
    """Have each image of a batch use another one's masks where the control is `swapped`; yield whether it is any."""
    swapping = [module for module in model.modules() if isinstance(module, Masked) and module.masks == "swapped"]
    try:
        for module in swapping:
            module.swaps = True
        yield bool(swapping)
    finally:
        for module in swapping:
            module.swaps = False


class MaskedHead(Masked):
    """A head in two steps: `make_masks`, then `classify` by features and masks. `mask_loss` may keep masks apart."""

    def make_masks(self, features_BCHW: torch.Tensor) -> torch.Tensor:
        """Return the masks (B, M, H, W), not negative."""
        raise NotImplementedError

    def classify(self, features_BCHW: torch.Tensor, masks_BMHW: torch.Tensor) -> torch.Tensor:
        """Return the logits (B, K)."""
        raise NotImplementedError

    def mask_loss(self, masks_BMHW: torch.Tensor) -> torch.Tensor:
        """Return the weighted loss of the masks, a scalar."""
        return masks_BMHW.new_zeros(())

    def forward(self, features_BCHW: torch.Tensor) -> ModelOutput:
        """Return the logits, each image's own masks (B, M, H, W; None if they are flat) and their weighted loss."""
        masks_BMHW = self.make_masks(features_BCHW)
        logits_BK = self.classify(features_BCHW, self.controlled(masks_BMHW))
        loss = logits_BK.new_zeros(()) if self.masks == "flat" else self.mask_loss(masks_BMHW)
        return ModelOutput(logits_BK, self.shown(masks_BMHW), loss)
