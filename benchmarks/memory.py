"""Peak activation memory of multi-attention, against the product of every mask with every feature."""

import weakref
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from measuring import Figure
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from catdog.config.variants import parse_variant
from catdog.models.petnet import build_head

BATCH, CHANNELS, SIDE, CLASSES = 64, 512, 7, 37
"""ResNet-34 at 224 px."""


class PeakMemory(TorchDispatchMode):
    """Counts the bytes of all live tensors created under it, and their peak."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.alive = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else (result,):
            if isinstance(value, torch.Tensor):
                self._count(value.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        address, size = storage.data_ptr(), storage.nbytes()
        if address in self._known or not size:
            return
        self._known.add(address)
        self.alive += size
        self.peak = max(self.peak, self.alive)
        weakref.finalize(storage, self._free, address, size)

    def _free(self, address: int, size: int) -> None:
        self._known.discard(address)
        self.alive -= size


class BroadcastHead(nn.Module):
    """The same head as a notebook would write it: masks (B, M, 1, H, W) × features (B, 1, C, H, W), then GAP."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head: Any = head

    def forward(self, features_BCHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the logits (B, K) and the masks (B, M, H, W)."""
        masks_BMHW = self.head.mask_conv(features_BCHW).sigmoid()
        product_BMCHW = masks_BMHW.unsqueeze(2) * features_BCHW.unsqueeze(1)
        hidden = self.head.hidden(product_BMCHW.mean(dim=(3, 4)).flatten(1)).relu()
        return self.head.classifier(self.head.dropout(hidden)), masks_BMHW


def measure() -> list[Figure]:
    """Compare the peaks for four and for eight masks."""
    from catdog.models.losses import divergence_loss

    figures = []
    for num_masks in (4, 8):
        head = build_head(parse_variant(f"multi-attention:num_masks={num_masks}"), CHANNELS, CLASSES)
        broadcast = BroadcastHead(head)

        def ours(features: torch.Tensor, head: nn.Module = head) -> tuple[torch.Tensor, torch.Tensor]:
            output = head(features)
            return output.logits_BK, output.aux_loss

        def theirs(features: torch.Tensor, broadcast: nn.Module = broadcast) -> tuple[torch.Tensor, torch.Tensor]:
            logits, masks = broadcast(features)
            return logits, 0.001 * divergence_loss(masks)

        peaks = [_peak(forward) for forward in (ours, theirs)]
        detail = f"{peaks[0] / 1e6:.1f} MB against {peaks[1] / 1e6:.1f} MB, forward and backward, {BATCH} maps of "
        figures.append(
            Figure(
                f"activations of multi-attention, {num_masks} masks ÷ broadcast product",
                (peaks[0] / peaks[1],), "", 0.4, False, f"{detail}{CHANNELS}×{SIDE}×{SIDE}",
            )
        )  # fmt: skip
    return figures


def _peak(forward: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]) -> int:
    features = torch.rand(BATCH, CHANNELS, SIDE, SIDE).contiguous(memory_format=torch.channels_last)
    features.requires_grad_()
    labels = torch.randint(0, CLASSES, (BATCH,))
    memory = PeakMemory()
    with memory:
        logits, aux_loss = forward(features)
        (F.cross_entropy(logits, labels) + aux_loss).backward()
    return memory.peak
