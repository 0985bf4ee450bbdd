"""Deletion: what the network loses without the features at the cells that a mask weighs most.

The fall of the true class's log-odds when these cells are set to zero, as RISE (Petsiuk et al. 2018) deletes an image's
pixels, but on the last map that the head gets. The same is done to as many random cells, and to those in the centre,
which a centred Gaussian weighs most. Zeros are not what the backbone computes anywhere: falls compare cells with each
other, they say nothing about an image without these parts.

Shapes: B batch, C channels of an H × W feature map, P = H·W cells, K classes.
"""

import math

import numpy as np
import torch
from torch import nn

from catdog.data.batches import CLASS, EVALUATION_BATCH, Batches, EvaluationSplit
from catdog.data.datasets.base import IntArray
from catdog.data.split import spread
from catdog.models.petnet import PetNet
from catdog.runs.artifacts import SPLITS, Deletion, deletion_json
from catdog.trial.last_map import Finish, last_map
from catdog.trial.setup import Trial

TOP = 0.2
"""The share of the cells that is deleted."""
MOST_IMAGES = 2048
"""Of a split."""
MOST_MASKS = 16


def trial_deletion(trial: Trial) -> bytes | None:
    """Return deletion.json of the trial's model as it is: on images with an outline, or on all if there are none.

    None if a head has no finite logits for such features.
    """
    unused_epoch = trial.recipe.epochs  # training draws nothing from its seeds
    generator = torch.Generator().manual_seed(trial.derive_seed("order", unused_epoch))
    splits: dict[str, Deletion] = {}
    for split in SPLITS:
        positions, labels = trial.inputs.measured_positions(split), trial.batches.targets(split)[CLASS].numpy()
        if not positions.size:
            positions = np.arange(len(labels))
        positions = np.sort(spread(positions, labels, MOST_IMAGES))
        splits[split] = measure_deletion(trial.state.model, trial.batches, split, positions, generator)
    is_finite = all(math.isfinite(fall) for one in splits.values() for fall in vars(one).values())
    return deletion_json(splits) if is_finite else None


@torch.inference_mode()
def measure_deletion(
    model: PetNet, batches: Batches, split: EvaluationSplit, positions: IntArray, generator: torch.Generator
) -> Deletion:
    """Return the mean falls over the images at these positions of a split; `model` may get cached features."""
    model.eval()
    falls, labels_N = [], batches.targets(split)[CLASS]
    for chunk in torch.from_numpy(positions).split(EVALUATION_BATCH):
        features_BCHW, head = last_map(model, batches.some(split, chunk.tolist()))
        cells = features_BCHW.shape[2] * features_BCHW.shape[3]
        order_BP = torch.rand(len(chunk), cells, generator=generator).argsort(dim=1).to(features_BCHW.device)
        labels_B = labels_N[chunk].to(features_BCHW.device)
        falls.append(log_odds_falls(head, features_BCHW, labels_B, order_BP).cpu())
    masks, random, centre = torch.cat(falls).double().mean(dim=0).tolist()
    return Deletion(len(positions), masks, random, centre)


def log_odds_falls(
    head: Finish, features_BCHW: torch.Tensor, labels_B: torch.Tensor, order_BP: torch.Tensor
) -> torch.Tensor:
    """Return the falls (B, 3) without the top cells of the masks, random cells and central cells.

    That of the masks is the mean over at most `MOST_MASKS` of them. `order_BP`, a random order of each image's cells,
    breaks ties and is the order of the random cells: a uniform mask's fall equals theirs.
    """
    height, width = features_BCHW.shape[2:]
    output = head(features_BCHW.clone())  # a head may change its input
    assert output.masks_BMHW is not None
    whole_B = _log_odds(output.logits_BK, labels_B)
    masks_BMHW = nn.functional.adaptive_avg_pool2d(output.masks_BMHW[:, :MOST_MASKS].float(), (height, width))
    rows, columns = (2 * torch.arange(cells, device=features_BCHW.device) + 1 - cells for cells in (height, width))
    # Exact in integers, so that cells at the same distance tie: minus the distance from the centre, squared.
    central_HW = -((rows[:, None] * width) ** 2 + (columns[None, :] * height) ** 2)
    blind_2BHW = torch.stack([torch.zeros_like(central_HW), central_HW]).unsqueeze(1).expand(2, *masks_BMHW[:, 0].shape)
    falls = []
    for scores_BHW in [*masks_BMHW.unbind(dim=1), *blind_2BHW]:
        kept_B1HW = _kept(scores_BHW.flatten(1), order_BP).view(-1, 1, height, width)
        falls.append(whole_B - _log_odds(head(features_BCHW * kept_B1HW).logits_BK, labels_B))
    return torch.stack([torch.stack(falls[:-2]).mean(dim=0), *falls[-2:]], dim=1)


def _kept(scores_BP: torch.Tensor, order_BP: torch.Tensor) -> torch.Tensor:
    """Return 0 for the cells with the highest scores, `TOP` of all and at least one, and 1 for the others."""
    count = max(1, round(TOP * scores_BP.shape[1]))
    top = scores_BP.gather(1, order_BP).argsort(dim=1, descending=True, stable=True)[:, :count]
    return torch.ones(scores_BP.shape, device=scores_BP.device).scatter(1, order_BP.gather(1, top), 0.0)


def _log_odds(logits_BK: torch.Tensor, labels_B: torch.Tensor) -> torch.Tensor:
    """Return log p / (1 - p) of the true class's probability p, in float32."""
    logits_BK, labels_B1 = logits_BK.float(), labels_B.unsqueeze(1)
    return logits_BK.gather(1, labels_B1).squeeze(1) - logits_BK.scatter(1, labels_B1, -torch.inf).logsumexp(dim=1)
