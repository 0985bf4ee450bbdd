"""The training loss of a batch: that of the classes, the head's own, and those of its other tasks."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F

from catdog.config.extensions import EXTERNAL_LOSSES
from catdog.config.recipe import LOSS, Recipe
from catdog.data.batches import CLASS
from catdog.models.petnet import ModelOutput, SideTask


def training_loss(
    output: ModelOutput, targets: Mapping[str, torch.Tensor], side_tasks: Mapping[str, SideTask], recipe: Recipe
) -> torch.Tensor:
    """Return the recipe's loss of the classes + `aux_loss` + weight × cross-entropy of each side task, a scalar.

    `targets` are labels (B,), or shares of labels (B, classes), by what they are of: `class`, or a group column.
    """
    logits_BK = output.logits_BK.float()
    if recipe.loss == LOSS:
        loss = F.cross_entropy(logits_BK, targets[CLASS], label_smoothing=recipe.label_smoothing)
    else:
        loss = EXTERNAL_LOSSES[recipe.loss](logits_BK, targets[CLASS])
    loss = loss + output.aux_loss
    for name, task in side_tasks.items():
        assert output.side_logits is not None, "a head with side tasks returns their logits"
        logits = output.side_logits[name].float()
        side_loss = F.cross_entropy(logits, targets[task.target], label_smoothing=recipe.label_smoothing)
        loss = loss + task.weight * side_loss
    return loss
