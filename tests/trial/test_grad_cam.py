"""Grad-CAM of a head is what its definition says, and leaves the head and the features as they were."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from catdog.models.heads.pooled import PlainHead, SqueezeExcitationHead
from catdog.models.petnet import ModelOutput
from catdog.trial.grad_cam import grad_cam


def features(seed: int = 0) -> torch.Tensor:
    return torch.randn(3, 5, 2, 4, generator=torch.Generator().manual_seed(seed))


def test_of_the_plain_head_it_is_the_predicted_classs_weights_applied_to_the_map() -> None:
    torch.manual_seed(0)
    head, features_BCHW = PlainHead(5, 4, dropout=0.5).eval(), features()
    maps, predicted = grad_cam(head, features_BCHW)
    logits = head(features_BCHW).logits_BK
    assert predicted.tolist() == logits.argmax(dim=1).tolist()
    for image in range(3):
        by_hand = torch.zeros(2, 4)
        for y in range(2):
            for x in range(4):
                weight_C = head.classifier.weight[predicted[image]]
                by_hand[y, x] = max(0.0, sum((weight_C[c] * features_BCHW[image, c, y, x]).item() for c in range(5)))
        torch.testing.assert_close(maps[image, 0], by_hand / by_hand.max())
    assert (maps == 0).any(), "what speaks against the class is cut off"
    assert all(parameter.grad is None for parameter in head.parameters())


def test_a_map_that_only_speaks_against_the_class_is_zero() -> None:
    head = PlainHead(5, 2, dropout=0.0).eval()
    with torch.no_grad():
        head.classifier.weight.copy_(torch.tensor([[-1.0], [-2.0]]).expand(2, 5))
    maps, _ = grad_cam(head, features().abs())
    assert (maps == 0).all()


class InPlaceHead(nn.Module):
    """Changes its input, as training allows with cached features."""

    def forward(self, features_BCHW: torch.Tensor) -> ModelOutput:
        return ModelOutput(features_BCHW.relu_().mean(dim=(2, 3)), None, features_BCHW.new_zeros(()))


@pytest.mark.parametrize("new_head", [InPlaceHead, lambda: SqueezeExcitationHead(5, 4, reduction=2, dropout=0.0)])
def test_any_head_will_do_and_the_features_stay_as_they_are(new_head: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    head, features_BCHW = new_head(), features()
    with torch.no_grad():
        maps, _ = grad_cam(head.eval(), features_BCHW)
    assert torch.equal(features_BCHW, features())
    assert not features_BCHW.requires_grad
    assert maps.amax(dim=(1, 2, 3)).tolist() == pytest.approx([1, 1, 1])
