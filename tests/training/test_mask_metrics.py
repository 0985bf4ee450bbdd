"""Mask health against plain loops, and what counts as a collapse."""

import math

import pytest
import torch

from catdog.runs.history import mask_collapse
from catdog.training.mask_metrics import coarsened, mask_health


def test_mask_health_agrees_with_plain_loops() -> None:
    torch.manual_seed(0)
    masks = torch.rand(5, 3, 4, 6)
    masks[:, 2] *= 0.005
    health = mask_health(masks)
    entropies, corners, cosines = [], [], []
    for image in masks.tolist():
        flat = [[value for row in mask for value in row] for mask in image]
        for mask, values in zip(image, flat, strict=True):
            total = sum(values)
            entropies.append(-sum(v / total * math.log(v / total) for v in values) / math.log(24))
            corners.append((mask[0][0] + mask[0][-1] + mask[-1][0] + mask[-1][-1]) / total * 24 / 4)
        for i in range(3):
            for j in range(3):
                if i != j:
                    product = sum(a * b for a, b in zip(flat[i], flat[j], strict=True))
                    cosines.append(product / math.hypot(*flat[i]) / math.hypot(*flat[j]))
    assert health.mask_mean == pytest.approx(masks.mean().item(), rel=1e-5)
    assert health.mask_entropy == pytest.approx(sum(entropies) / len(entropies), rel=1e-5)
    assert health.mask_corner_mass == pytest.approx(sum(corners) / len(corners), rel=1e-5)
    assert health.mask_overlap == pytest.approx(sum(cosines) / len(cosines), rel=1e-5)
    assert health.mask_dead == pytest.approx(1 / 3)


def test_a_collapse_is_named_and_healthy_masks_give_no_warning() -> None:
    torch.manual_seed(0)
    healthy = torch.rand(8, 4, 7, 7)
    dead = healthy.clone()
    dead[:, 1] = 0
    alike = healthy[:, :1].expand(-1, 4, -1, -1)
    corners = healthy * 0.01
    corners[:, range(4), [0, 0, -1, -1], [0, -1, 0, -1]] = 1
    flat = 0.9 + 0.1 * healthy[:, :1]
    named = [mask_collapse(mask_health(masks)) for masks in (healthy, dead, alike, corners, healthy[:, :1], flat)]
    assert named == [None, "dead masks", "masks alike", "masks in the corners", None, "masks with no preference"]


def test_finer_masks_are_averaged_over_areas_to_28_cells_a_side_and_others_left_alone() -> None:
    masks = torch.rand(2, 3, 56, 84)
    by_hand = masks.reshape(2, 3, 28, 2, 28, 3).mean(dim=(3, 5))
    assert torch.allclose(coarsened(masks), by_hand)
    assert coarsened(masks).mean().item() == pytest.approx(masks.mean().item(), rel=1e-5)
    assert coarsened(torch.rand(1, 1, 40, 7)).shape == (1, 1, 28, 7)
    assert coarsened(by_hand) is by_hand


def test_masks_with_a_value_below_zero_are_not_measured() -> None:
    masks = torch.rand(2, 3, 4, 4)
    masks[1, 2, 3, 3] = -1e-6
    assert mask_health(masks) is None
    assert mask_health(masks.clamp_min(-0.0)) is not None


@pytest.mark.parametrize(("spread", "named"), [(0.24, "masks with no preference"), (0.32, None)])
def test_a_mask_has_a_preference_once_its_weights_differ_by_more_than_a_quarter(
    spread: float, named: str | None
) -> None:
    torch.manual_seed(0)
    masks = 1 + spread * math.sqrt(3) * (2 * torch.rand(64, 1, 7, 7) - 1)
    assert mask_collapse(mask_health(masks)) == named
