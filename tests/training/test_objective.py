"""The training loss of several tasks, by hand."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from catdog.config.presets import PRESETS
from catdog.data.batches import targets_of
from catdog.data.datasets.base import Groups
from catdog.models import ModelOutput
from catdog.models.petnet import SideTask
from catdog.training.mixing import Mixing
from catdog.training.objective import training_loss

RECIPE = PRESETS["demo"].recipe
GROUPS = Groups("species", ("cat", "dog"), np.array([0, 1, 1, 0]))
CLASSES = torch.tensor([0, 1, 2, 0])
JOINT = CLASSES * 2 + torch.from_numpy(GROUPS.labels)
TASKS = {"branch": SideTask("class", 2.0), "species": SideTask("species", 0.5)}


def output_of(seed: int = 0) -> ModelOutput:
    draw = torch.Generator().manual_seed(seed)
    logits, branch, species = (torch.randn(4, size, generator=draw) for size in (3, 3, 2))
    return ModelOutput(logits, None, torch.tensor(0.25), side_logits={"branch": branch, "species": species})


def cross_entropy(logits_BK: torch.Tensor, shares_BK: torch.Tensor, smoothing: float = 0.0) -> float:
    """Return the mean over images of −Σ share · log probability."""
    shares_BK = shares_BK * (1 - smoothing) + smoothing / shares_BK.shape[1]
    return float(-(shares_BK.double() * logits_BK.double().log_softmax(dim=1)).sum(dim=1).mean())


def by_hand(output: ModelOutput, classes: torch.Tensor, groups: torch.Tensor, smoothing: float) -> float:
    assert output.side_logits is not None
    own = cross_entropy(output.logits_BK, classes, smoothing) + 0.25
    branch = cross_entropy(output.side_logits["branch"], classes, smoothing)
    return own + 2.0 * branch + 0.5 * cross_entropy(output.side_logits["species"], groups, smoothing)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_the_weighted_sum_of_all_tasks(smoothing: float) -> None:
    recipe = dataclasses.replace(RECIPE, label_smoothing=smoothing)
    classes, groups = F.one_hot(CLASSES, 3), F.one_hot(torch.from_numpy(GROUPS.labels), 2)
    found = training_loss(output_of(), targets_of(JOINT, GROUPS), TASKS, recipe)
    assert found.item() == pytest.approx(by_hand(output_of(), classes, groups, smoothing), abs=1e-6)


def test_without_other_tasks_it_is_the_loss_of_the_classes_to_the_last_bit() -> None:
    output = output_of()
    found = training_loss(output, targets_of(CLASSES, None), {}, RECIPE)
    assert torch.equal(found, F.cross_entropy(output.logits_BK, CLASSES) + output.aux_loss)


def test_mixed_images_have_the_same_shares_of_both_labels() -> None:
    images = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 1, 2, 2)
    mixed, joint = Mixing(dataclasses.replace(RECIPE, mixup=0.5), 3 * 2, seed=7)(images, JOINT)
    targets = targets_of(joint, GROUPS)
    share = mixed[1, 0, 0, 0].item()
    assert 0.01 < share < 0.99
    for name, labels, size in (("class", CLASSES, 3), ("species", torch.from_numpy(GROUPS.labels), 2)):
        own, other = F.one_hot(labels, size), F.one_hot(labels.roll(1), size)
        assert torch.allclose(targets[name], share * own + (1 - share) * other)
    plain, _ = Mixing(dataclasses.replace(RECIPE, mixup=0.5), 3, seed=7)(images, CLASSES)
    assert torch.equal(mixed, plain)
    found = training_loss(output_of(), targets, TASKS, RECIPE)
    assert found.item() == pytest.approx(by_hand(output_of(), targets["class"], targets["species"], 0.0), abs=1e-6)
