"""What a model makes of a whole split: its outputs, and how good they are. Shapes: N images, B of them in a batch."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from catdog.data.batches import CLASS, EVALUATION_BATCH, Batches, EvaluationSplit
from catdog.models.petnet import ModelOutput, SideTask
from catdog.runs.places import HEAD, by_place
from catdog.training.data_parallel import ALONE, Workers
from catdog.training.mask_metrics import coarsened


@dataclass(frozen=True)
class Evaluation:
    """A model's outputs on N images, on the CPU."""

    logits_NK: torch.Tensor
    labels_N: torch.Tensor
    masks_NMHW: torch.Tensor | None
    """The head's; None if it has none."""
    side_scores: Mapping[str, float] = field(default_factory=dict)
    """`TASK_loss` and `TASK_accuracy` (percent) of each side task."""
    stage_masks: Mapping[str, torch.Tensor] = field(default_factory=dict)
    """Masks at other places, (N, M, H, W) each: H and W are at most `FINEST`."""

    @property
    def masks(self) -> dict[str, torch.Tensor]:
        """Return the masks of every place (N, M, H, W)."""
        return by_place(self.masks_NMHW, self.stage_masks)

    @property
    def accuracy(self) -> float:
        """Return the percentage of images classified correctly."""
        return _accuracy(self.logits_NK, self.labels_N)

    @property
    def class_accuracy(self) -> float:
        """Return the percentage of images classified correctly, averaged over classes."""
        correct_N = (self.logits_NK.argmax(dim=1) == self.labels_N).double()
        classes = self.labels_N.unique()
        return 100 * torch.stack([correct_N[self.labels_N == label].mean() for label in classes]).mean().item()

    @property
    def loss(self) -> float:
        """Return the mean cross-entropy, without label smoothing."""
        return F.cross_entropy(self.logits_NK, self.labels_N).item()


def _accuracy(logits_NK: torch.Tensor, labels_N: torch.Tensor) -> float:
    return 100 * (logits_NK.argmax(dim=1) == labels_N).double().mean().item()


class _BatchOutputs(NamedTuple):
    """What a model makes of the images of one batch."""

    logits_BK: torch.Tensor
    masks: dict[str, torch.Tensor]
    side_logits: dict[str, torch.Tensor]


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    batches: Batches,
    split: EvaluationSplit,
    autocast: torch.autocast,
    mixed: bool = False,
    side_tasks: Mapping[str, SideTask] | None = None,
    workers: Workers = ALONE,
) -> Evaluation:
    """Return the model's outputs on a whole split, in its fixed order, and how it does on its side tasks.

    With `mixed`, they are computed in `mixed_rows`. Several workers share the batches, and each returns the whole.
    """
    model.eval()
    targets = batches.targets(split)
    labels_N = targets[CLASS]
    rows = mixed_rows(labels_N) if mixed else [torch.arange(len(labels_N))]
    mine = rows[workers.index :: workers.count]
    reordered = ((batches.some(split, some.tolist()), labels_N[some]) for some in mine)
    outputs: list[_BatchOutputs] = []
    for inputs, _ in reordered if mixed else batches.split(split, workers.shard):
        with autocast:
            # Only GPUs prepare kernels for each shape: on a CPU the padding would cost time, and change last digits.
            output: Any = in_whole_batch(model, inputs) if inputs.is_cuda and not mixed else model(inputs)
        masks = by_place(output.masks_BMHW, output.stage_masks)
        outputs.append(
            _BatchOutputs(
                # Rounded to the saved precision, so that tables can be recomputed from the predictions.
                output.logits_BK.half().float(),
                {place: one.float() if place == HEAD else coarsened(one.float()) for place, one in masks.items()},
                {name: output.side_logits[name].float() for name in side_tasks or {}},
            )
        )
        del inputs, output, masks  # as in training: lets the next batch reuse their memory
    outputs = workers.all_of(outputs)
    order_N = torch.cat(rows).argsort()
    scores: dict[str, float] = {}
    for name, task in (side_tasks or {}).items():
        logits_N = torch.cat([one.side_logits[name] for one in outputs]).cpu()[order_N]
        scores[f"{name}_loss"] = F.cross_entropy(logits_N, targets[task.target]).item()
        scores[f"{name}_accuracy"] = _accuracy(logits_N, targets[task.target])
    logits_NK = torch.cat([one.logits_BK for one in outputs]).cpu()[order_N]
    kept = {place: torch.cat([one.masks.pop(place) for one in outputs]).cpu()[order_N] for place in [*outputs[0].masks]}
    return Evaluation(logits_NK, labels_N, kept.pop(HEAD, None), scores, kept)


def mixed_rows(labels_N: torch.Tensor) -> list[torch.Tensor]:
    """Return batches of positions, each with images of all classes, in the order of their labels.

    Half a batch away is thus an image of another class, unless one class has about half of all images.
    """
    stride = math.ceil(len(labels_N) / EVALUATION_BATCH)
    return [labels_N.argsort(stable=True)[first::stride] for first in range(stride)]


def in_whole_batch(model: nn.Module, inputs: torch.Tensor) -> ModelOutput:
    """Return the model's output for the inputs; fewer than a batch are repeated meanwhile.

    So each network sees one shape: for every new one, cuDNN and cuBLAS prepare their kernels again, and torch.compile
    compiles. Not for outputs that depend on the other images of the batch.
    """
    count = len(inputs)
    if count < EVALUATION_BATCH:
        repeated = torch.cat([inputs] * math.ceil(EVALUATION_BATCH / count))
        inputs = repeated[:EVALUATION_BATCH].contiguous(memory_format=torch.channels_last)
    output: ModelOutput = model(inputs)
    return output.changed(
        logits_BK=output.logits_BK[:count],
        masks_BMHW=None if output.masks_BMHW is None else output.masks_BMHW[:count],
        stage_masks=_first(output.stage_masks, count),
        side_logits=_first(output.side_logits, count),
    )


def _first(tensors: Mapping[str, torch.Tensor] | None, count: int) -> Mapping[str, torch.Tensor] | None:
    return None if tensors is None else {name: tensor[:count] for name, tensor in tensors.items()}
