"""`PetNet`: a backbone and a head; `build_model` builds one from a variant's name."""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from catdog.config.head_registry import HEAD_CLASSES
from catdog.config.variants import VariantSpec, parse_variant
from catdog.models.backbones.build import build_backbone, feature_shape


class ModelOutput(NamedTuple):
    """Logits, the masks behind them, and the head's auxiliary loss."""

    logits_BK: torch.Tensor
    masks_BMHW: torch.Tensor | None
    """None for heads without spatial masks. Not negative: they are drawn and measured as shares."""
    aux_loss: torch.Tensor
    """Scalar, already weighted."""
    stage_masks: Mapping[str, torch.Tensor] | None = None
    """Masks at other places, (B, M, H, W) each at its own resolution, by the backbone's stage; None if there are none.
    Not negative."""
    side_logits: Mapping[str, torch.Tensor] | None = None
    """Logits of other classifiers, (B, classes) each, by task; None if there are none. Each has a loss of its own."""

    @property
    def logits(self) -> torch.Tensor:
        """Return the logits (B, K)."""
        return self.logits_BK

    @property
    def masks(self) -> torch.Tensor | None:
        """Return the masks (B, M, H, W); None for heads without spatial masks."""
        return self.masks_BMHW


class PetNet(nn.Module):
    """images (B, 3, S, S) → backbone → features (B, C, H, W) → head → `ModelOutput`."""

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, images_BCHW: torch.Tensor) -> ModelOutput:
        """Return the head's output for the backbone's features."""
        output: ModelOutput = self.head(self.backbone(images_BCHW))
        return output


def build_head(variant: VariantSpec, in_channels: int, num_classes: int) -> nn.Module:
    """Return a variant's head, with weights drawn from torch's global generator."""
    head_class = HEAD_CLASSES.get(variant.head)
    if head_class is None:
        module_name, class_name = variant.head.split(".")
        head_class = getattr(importlib.import_module(f"catdog.models.heads.{module_name}"), class_name)
    head: nn.Module = head_class(in_channels=in_channels, num_classes=num_classes, **variant.arguments)
    return head


def build_model(
    variant: str | VariantSpec,
    *,
    backbone: str,
    num_classes: int,
    weights: str | Path | None = None,
    image_size: int | None = None,
) -> PetNet:
    """Return the network of a variant.

    Args:
        variant: a label such as `multi-attention:num_masks=8`, or a parsed one.
        backbone: a torchvision model's name, `timm/NAME`, or `tiny`.
        num_classes: K.
        weights: `imagenet`, `lite0`, `lite1`, `lite2`, a file, or None (or `none`) for random ones.
        image_size: side length of the images that the network will get; None: the backbone's own. Transformers take no
            other.

    Raises:
        UserError: for an unknown name, a parameter out of range, or weights or a size that do not fit.
    """
    spec = parse_variant(variant) if isinstance(variant, str) else variant
    body = build_backbone(backbone, weights, image_size)
    channels = feature_shape(body, image_size or body.own_size)[0]
    return PetNet(body, build_head(spec, channels, num_classes))


def count_parameters(module: nn.Module) -> int:
    """Return the number of a module's parameters."""
    return sum(parameter.numel() for parameter in module.parameters())
