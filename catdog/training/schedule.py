"""The optimiser and the learning-rate schedule."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from catdog.config.extensions import EXTERNAL_OPTIMIZERS
from catdog.config.recipe import Recipe
from catdog.models.heads.masked import Masked
from catdog.models.petnet import PetNet

WARM_UP = 0.3
"""Share of the steps in which the one-cycle learning rate rises."""


def new_optimizer(model: PetNet, recipe: Recipe) -> torch.optim.Optimizer:
    """Return the optimiser, with parameter groups for head, mask convolution and backbone."""
    of_masks = list(_mask_parameters(model.head))
    of_head = [one for one in model.head.parameters() if all(one is not mask for mask in of_masks)]
    groups: list[dict[str, Any]] = [
        {"params": trained, "lr": learning_rate, "weight_decay": weight_decay}
        for parameters, learning_rate, weight_decay in (
            (of_head, recipe.learning_rate, recipe.weight_decay),
            (of_masks, recipe.learning_rate, recipe.mask_weight_decay),
            (model.backbone.parameters(), recipe.backbone_learning_rate, recipe.weight_decay),
        )
        if (trained := [one for one in parameters if one.requires_grad])
    ]
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, fused=True)
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=0.9, nesterov=True, fused=True)
    optimizer: torch.optim.Optimizer = EXTERNAL_OPTIMIZERS[recipe.optimizer](groups)
    return optimizer


def _mask_parameters(head: nn.Module) -> Iterator[nn.Parameter]:
    """Yield the parameters that make masks: modules with masks name them; else the one layer is `mask_conv`."""
    masked = [module for module in head.modules() if isinstance(module, Masked)]
    for module in masked:
        yield from module.mask_parameters()
    if not masked and isinstance(mask_conv := getattr(head, "mask_conv", None), nn.Module):
        yield from mask_conv.parameters()


def new_scheduler(
    optimizer: torch.optim.Optimizer, recipe: Recipe, total_steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """Return the schedule of all parameter groups over `total_steps`."""
    shape = one_cycle if recipe.schedule == "one-cycle" else cosine
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: shape(step / total_steps))


def one_cycle(progress: float) -> float:
    """Return the share of the peak rate at `progress` (0..1): a cosine up from 1/25, then one down to 1/100,000."""
    if progress < WARM_UP:
        return _cosine_between(1 / 25, 1.0, progress / WARM_UP)
    return _cosine_between(1.0, 1e-5, (progress - WARM_UP) / (1 - WARM_UP))


def cosine(progress: float) -> float:
    """Return the share of the peak rate at `progress` (0..1): from 1 down to 0."""
    return _cosine_between(1.0, 0.0, progress)


def _cosine_between(start: float, end: float, progress: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * min(progress, 1.0))) / 2
