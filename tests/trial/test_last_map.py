"""The last map can be taken out of any network, changed, and given to the head."""

import pytest
import torch

from catdog.models import build_model
from catdog.models.backbones.build import build_backbone
from catdog.models.petnet import PetNet
from catdog.models.stages import CachedMaps, JoinedMaps, places_of
from catdog.trial.last_map import last_map


@pytest.mark.parametrize("variant", ["attention", "cbam:stages=all", "stage-attention:stages=all"])
@torch.no_grad()
def test_the_head_makes_of_the_last_map_what_the_network_makes_of_the_images(variant: str) -> None:
    model = build_model(variant, backbone="tiny", num_classes=5, image_size=48).eval()
    images = torch.randn(2, 3, 48, 48)
    features_BCHW, head = last_map(model, images)
    assert torch.equal(head(features_BCHW).logits_BK, model(images).logits_BK)
    assert not torch.equal(head(features_BCHW * 0).logits_BK, model(images).logits_BK)


@torch.no_grad()
def test_of_cached_maps_the_last_is_taken_and_the_others_stay() -> None:
    backbone = build_backbone("tiny", None, 48).eval()
    places = places_of(backbone, 48)
    head = build_model("stage-attention:stages=all", backbone="tiny", num_classes=5, image_size=48).head.eval()
    cached = JoinedMaps(backbone, list(places)).eval()(torch.randn(2, 3, 48, 48))
    model = PetNet(CachedMaps(places), head)
    features_BCHW, finish = last_map(model, cached)
    assert features_BCHW.shape[1:] == list(places.values())[-1]
    assert torch.equal(finish(features_BCHW).logits_BK, model(cached).logits_BK)
