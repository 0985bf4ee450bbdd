"""Evaluation's smaller last batches, filled up on GPUs, so that each network sees one shape there.

For every new shape, cuDNN and cuBLAS prepare their kernels again, and torch.compile compiles.
"""

import math
from collections.abc import Mapping

import torch
from torch import nn

from catdog.data.batches import EVALUATION_BATCH
from catdog.models.petnet import ModelOutput


def in_whole_batch(model: nn.Module, inputs: torch.Tensor) -> ModelOutput:
    """Return the model's output for the inputs; fewer than a batch are repeated meanwhile.

    Not for outputs that depend on the other images of the batch.
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
