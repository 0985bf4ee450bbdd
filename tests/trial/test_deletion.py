"""Deletion on a tiny head, against the definition in plain loops."""

import math

import pytest
import torch
from torch import nn

from catdog.analysis.localization import gaussian_mask
from catdog.models.heads.attention import AttentionHead, MultiAttentionHead
from catdog.models.petnet import ModelOutput
from catdog.trial.deletion import log_odds_falls

HEIGHT, WIDTH, TOP = 2, 5, 2
"""The fifth of ten cells is two."""


def log_odds(head: nn.Module, features_CHW: torch.Tensor, label: int) -> float:
    p = head(features_CHW[None]).logits_BK.double().softmax(dim=1)[0, label].item()
    return math.log(p / (1 - p))


def fall_without(head: nn.Module, features_CHW: torch.Tensor, label: int, cells: list[int]) -> float:
    deleted = features_CHW.clone()
    for cell in cells:
        deleted[:, cell // WIDTH, cell % WIDTH] = 0
    return log_odds(head, features_CHW, label) - log_odds(head, deleted, label)


@torch.no_grad()
def test_the_falls_are_those_without_the_cells_that_masks_chance_and_the_centre_put_first() -> None:
    torch.manual_seed(0)
    head = MultiAttentionHead(6, 4, num_masks=3, lambda_divergence=0.1, hidden_features=8, dropout=0.5).eval()
    features_BCHW, labels_B = torch.randn(3, 6, HEIGHT, WIDTH), torch.tensor([0, 3, 1])
    order_BP = torch.rand(3, HEIGHT * WIDTH).argsort(dim=1)
    before = features_BCHW.clone()
    falls_B3 = log_odds_falls(head, features_BCHW, labels_B, order_BP)
    assert torch.equal(features_BCHW, before)
    masks_BMP = head(features_BCHW).masks_BMHW.flatten(2)
    central = torch.from_numpy(gaussian_mask(HEIGHT, WIDTH)).flatten()
    assert sorted(central.topk(TOP).indices.tolist()) == [2, 7], "the middle column, without ties"
    for image in range(3):
        whole, label = features_BCHW[image], int(labels_B[image])
        of_masks = [
            fall_without(head, whole, label, masks_BMP[image, mask].topk(TOP).indices.tolist()) for mask in range(3)
        ]
        assert falls_B3[image, 0].item() == pytest.approx(sum(of_masks) / 3, abs=1e-5)
        by_chance = fall_without(head, whole, label, order_BP[image, :TOP].tolist())
        assert falls_B3[image, 1].item() == pytest.approx(by_chance, abs=1e-5)
        assert falls_B3[image, 2].item() == pytest.approx(fall_without(head, whole, label, [2, 7]), abs=1e-5)


@torch.no_grad()
def test_a_uniform_mask_deletes_random_cells_and_a_small_map_one_cell_at_least() -> None:
    head = AttentionHead(6, 4, dropout=0.0, activation="sigmoid").eval()
    for parameter in head.mask_parameters():
        parameter.zero_()
    order_BP = torch.tensor([[1, 0, 3, 2]])
    features_BCHW = torch.randn(1, 6, 2, 2)
    falls_B3 = log_odds_falls(head, features_BCHW, torch.tensor([2]), order_BP)
    assert falls_B3[0, 0] == falls_B3[0, 1] == falls_B3[0, 2], "all four cells are as central"
    deleted = features_BCHW.clone()
    deleted[0, :, 0, 1] = 0
    expected = log_odds(head, features_BCHW[0], 2) - log_odds(head, deleted[0], 2)
    assert falls_B3[0, 0].item() == pytest.approx(expected, abs=1e-5)


class FineMasks(nn.Module):
    """A head whose masks are twice as fine as its features."""

    def forward(self, features_BCHW: torch.Tensor) -> ModelOutput:
        masks = nn.functional.interpolate(features_BCHW[:, :1].abs(), scale_factor=2)
        return ModelOutput(features_BCHW.mean(dim=(2, 3)), masks, features_BCHW.new_zeros(()))


@torch.no_grad()
def test_masks_finer_than_the_features_are_averaged_to_their_cells() -> None:
    features_BCHW = torch.zeros(1, 2, HEIGHT, WIDTH)
    features_BCHW[0, 0, 1, 3] = 10.0  # one cell speaks for the class 0
    falls_B3 = log_odds_falls(FineMasks(), features_BCHW, torch.tensor([0]), torch.arange(10)[None])
    assert falls_B3[0].tolist() == pytest.approx([1, 0, 0])
