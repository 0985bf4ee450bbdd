"""Modules between the stages of a backbone, and heads that read several maps, in networks and trials."""

import copy
import dataclasses
from collections.abc import Callable

import pytest
import safetensors.torch
import torch

from catdog.config.recipe import Recipe
from catdog.config.variants import parse_variant, parse_variants
from catdog.errors import UserError
from catdog.models import PetNet, build_model
from catdog.models.backbones.build import backbone_places, build_backbone
from catdog.models.batch_norm_folding import FoldedNet
from catdog.models.head_contract import check_stages
from catdog.models.petnet import build_head
from catdog.models.stages import CachedMaps, JoinedMaps
from catdog.trial.context import RunContext
from catdog.trial.run import run_trial

MakeContext = Callable[..., RunContext]
STAGED = ["residual-attention", "cbam", "eca", "abn", "se:stages=all", "stage-attention"]


def network(variant: str, backbone: str = "resnet18") -> tuple[PetNet, torch.Tensor]:
    """A network in training with fixed batch norms and no dropout, and images for it."""
    torch.manual_seed(0)
    model = build_model(variant, backbone=backbone, num_classes=5, image_size=64).train()
    model.backbone.eval()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model, torch.randn(2, 3, 64, 64)


@pytest.mark.parametrize(
    ("backbone", "places"),
    [
        ("tiny", {"layers.1": (40, 16, 16), "layers.3": (96, 8, 8)}),
        ("resnet18", {"layer1": (64, 16, 16), "layer2": (128, 8, 8), "layer3": (256, 4, 4), "layer4": (512, 2, 2)}),
        (
            "timm/resnet18",
            {"layer1": (64, 16, 16), "layer2": (128, 8, 8), "layer3": (256, 4, 4), "layer4": (512, 2, 2)},
        ),
        (
            "timm/tf_efficientnet_lite0",
            {"blocks.1": (24, 16, 16), "blocks.2": (40, 8, 8), "blocks.4": (112, 4, 4), "final": (1280, 2, 2)},
        ),
        (
            "mobilenet_v3_small",
            {"features.1": (16, 16, 16), "features.3": (24, 8, 8), "features.8": (48, 4, 4), "features": (576, 2, 2)},
        ),
    ],
)
def test_a_backbone_names_its_stages(backbone: str, places: dict[str, tuple[int, int, int]]) -> None:
    assert backbone_places(backbone, 64) == places


def test_a_model_of_tokens_has_one_place() -> None:
    assert backbone_places("timm/vit_tiny_patch16_224", 224) == {"final": (192, 14, 14)}


@pytest.mark.parametrize("variant", STAGED)
@pytest.mark.parametrize("backbone", ["tiny", "resnet18", "timm/resnet18"])
def test_a_folded_network_computes_the_same_and_sends_its_gradient_to_every_module(variant: str, backbone: str) -> None:
    model, images = network(variant, backbone)
    found = []
    for net in (model, FoldedNet(model)):
        model.zero_grad()
        output = net(images)
        output.logits_BK.square().sum().backward()
        assert all(parameter.grad is not None for parameter in model.parameters())
        found.append((output, {name: one.grad.clone() for name, one in model.head.named_parameters()}))  # type: ignore[union-attr]
    assert isinstance(net, FoldedNet)
    assert net._folding is not None
    (plain, gradients), (folded, same) = found
    torch.testing.assert_close(plain.logits_BK, folded.logits_BK, rtol=1e-3, atol=1e-4)
    assert (plain.stage_masks or {}).keys() == (folded.stage_masks or {}).keys()
    for name, gradient in gradients.items():
        scale = gradient.abs().max().item()
        torch.testing.assert_close(gradient, same[name], rtol=1e-2, atol=1e-3 * scale + 1e-7, msg=name)


@pytest.mark.parametrize("variant", STAGED)
def test_a_copy_has_modules_of_its_own(variant: str) -> None:
    model, images = network(variant)
    model.eval()
    twin = copy.deepcopy(model).eval()
    with torch.no_grad():
        before = model(images).logits_BK
        assert torch.equal(twin(images).logits_BK, before)
        for parameter in twin.head.parameters():
            parameter.add_(1.0)
        assert not torch.equal(twin(images).logits_BK, before)
        assert torch.equal(model(images).logits_BK, before)


def test_a_head_learns_the_same_from_cached_maps_as_from_those_of_the_backbone() -> None:
    backbone = build_backbone("resnet18", None).eval()
    places = backbone_places("resnet18", 64)
    torch.manual_seed(0)
    head = build_head(parse_variant("stage-attention:stages=layer2+layer4"), 512, 5, places).eval()
    assert head.reads == ("layer2", "layer4")
    images = torch.randn(3, 3, 64, 64)
    with torch.no_grad():
        joined = JoinedMaps(backbone, head.reads).eval()(images)
        cached = PetNet(CachedMaps({place: places[place] for place in head.reads}), head)(joined)
        live = PetNet(backbone, head)(images)
    torch.testing.assert_close(cached.logits_BK, live.logits_BK)
    assert cached.stage_masks is not None
    assert cached.stage_masks["layer2"].shape == (3, 1, 8, 8)
    assert cached.masks_BMHW is not None
    assert cached.masks_BMHW.shape == (3, 1, 2, 2)


@pytest.mark.parametrize(
    ("label", "freeze", "said"),
    [
        ("cbam:stages=layer9", False, "no place layer9; choose from layers.1, layers.3, all, last"),
        ("cbam", True, "works inside the backbone .layers.1., and --freeze computes its maps once: take stages=last"),
        ("cbam cbam:stages=layers.3+layers.1", False, "is the same model as 'cbam', at layers.1 and layers.3: use"),
        ("abn:stages=inside abn", False, "variant 'abn' is the same model as 'abn:stages=inside', at layers.1: use"),
        ("abn:second_task=branch", False, "abn:second_task=branch has a task of this name: rename the column"),
        ("cbam cbam:masks=flat cbam:stages=last cbam:image_size=48 se:stages=all eca", False, None),
        ("residual-attention:stages=last", True, None),
        ("stage-attention", True, None),
    ],
)
def test_stages_that_do_not_fit_are_one_line(label: str, freeze: bool, said: str | None) -> None:
    recipe = Recipe(backbone="tiny", weights="none", image_size=64, freeze=freeze)
    specs = parse_variants(label.split(), recipe)
    if said is None:
        check_stages(specs, recipe)
    else:
        with pytest.raises(UserError, match=said):
            check_stages(specs, recipe)


def weights_of(context: RunContext, label: str) -> dict[str, torch.Tensor]:
    """The weights that a trial keeps."""
    spec = parse_variant(label, context.identity.recipe)
    run_trial(dataclasses.replace(context, keep_weights="all"), spec, 0)
    store = context.location.open()
    return safetensors.torch.load(store.get(context.trial_paths(spec, 0).weights))


def test_with_modules_only_the_backbone_keeps_its_weights_and_the_modules_learn(
    make_context: MakeContext, recipe: Recipe
) -> None:
    kept = weights_of(make_context(dataclasses.replace(recipe, train_modules_only=True)), "cbam:stages=inside")
    trained = weights_of(make_context(recipe, run="trained"), "cbam:stages=inside")
    first = build_backbone("tiny", None).state_dict()
    assert {name for name in kept if name.startswith("backbone.")} == {f"backbone.{name}" for name in first}
    norms = [name for name in kept if name.endswith("running_mean")]
    assert norms
    assert all(kept[name].eq(0).all() and not trained[name].eq(0).all() for name in norms)
    assert kept["head.modules_at.layers_1.mask_conv.bias"].item() != 0.0


@pytest.mark.parametrize("freeze", [False, True])
def test_a_trial_whose_head_reads_several_maps_keeps_the_masks_of_all(
    make_context: MakeContext, recipe: Recipe, freeze: bool
) -> None:
    context = make_context(dataclasses.replace(recipe, freeze=freeze))
    result = run_trial(context, parse_variant("stage-attention", context.identity.recipe), 0)
    assert result.status == "complete"
    assert "attention.npz" in result.files
