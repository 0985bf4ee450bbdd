"""One small model of each family of backbones, at a small size: its map, its gradients, and sizes it does not take."""

import copy
import pickle
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
from timm.layers import resample_abs_pos_embed

from catdog.errors import UserError
from catdog.models import build_model
from catdog.models.backbones.build import build_backbone, check_backbone, feature_shape
from catdog.models.backbones.timm_models import TokenBackbone
from catdog.models.batch_norm_folding import FoldedNet

TOKENS = {
    "timm/test_vit": (48, (64, 3, 3)),  # a class token
    "timm/test_vit2": (48, (64, 3, 3)),  # a class token and a register, a norm after the pooling
    "timm/test_vit3": (48, (96, 3, 3)),  # no class token, attention pooling as in SigLIP
    "timm/deit_tiny_distilled_patch16_224": (48, (192, 3, 3)),  # two class tokens
    "timm/vit_small_patch16_dinov3": (32, (384, 2, 2)),  # a class token and four registers
    "timm/eva02_tiny_patch14_224": (42, (192, 3, 3)),
    "timm/cait_xxs24_224": (32, (192, 2, 2)),  # layers of the class token alone
    "timm/levit_128s": (96, (384, 2, 2)),
}
MAPS = {
    "timm/swin_tiny_patch4_window7_224": (64, (768, 2, 2)),
    "timm/test_convnext": (64, (64, 2, 2)),
    "timm/test_maxvit": (64, (128, 2, 2)),
    "timm/test_efficientnet": (64, (256, 2, 2)),
    "timm/mobilenetv3_small_050": (64, (288, 2, 2)),
    "timm/mobilenetv4_conv_small_050": (64, (480, 2, 2)),
    "timm/regnetx_002": (64, (368, 2, 2)),
    "timm/test_resnet": (64, (96, 2, 2)),
    "timm/densenet121": (64, (1024, 2, 2)),
    "timm/inception_v3": (96, (2048, 1, 1)),
}
BEHIND_THE_POOLING = {"head", "conv_head", "norm_head"}
"""Parts of timm's models of maps that no head of ours reads."""


@pytest.mark.parametrize("name", TOKENS | MAPS)
def test_every_family_gives_a_map_and_a_gradient_reaches_all_its_weights(name: str) -> None:
    size, shape = (TOKENS | MAPS)[name]
    model = build_model("attention", backbone=name, num_classes=3, image_size=size)
    assert feature_shape(model.backbone, size) == shape
    images = torch.randn(2, 3, size, size)
    output = model(images)
    assert output.masks_BMHW is not None
    assert output.masks_BMHW.shape == (2, 1, *shape[1:])
    output.logits_BK.square().sum().backward()
    unreached = {one.split(".")[2] for one, tensor in model.named_parameters() if tensor.grad is None}
    assert unreached <= (BEHIND_THE_POOLING if name in MAPS else set())
    with torch.no_grad():
        expected = model.eval()(images).logits_BK
        for same in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert torch.equal(same(images).logits_BK, expected)


@pytest.mark.parametrize("name", TOKENS)
def test_the_map_of_a_token_model_is_its_own_features_without_class_tokens_and_registers(name: str) -> None:
    size, (channels, height, width) = TOKENS[name]
    model = build_model("attention", backbone=name, num_classes=3, image_size=size).eval()
    assert isinstance(model.backbone, TokenBackbone)
    images, own = torch.randn(2, 3, size, size), model.backbone.model
    with torch.no_grad():
        tokens_BNC = own.forward_features(images)  # type: ignore[operator]
        maps_BCHW = model.backbone(images)
        patches_BNC = tokens_BNC[:, getattr(own, "num_prefix_tokens", 0) :]
        assert patches_BNC.shape == (2, height * width, channels)
        assert torch.equal(maps_BCHW.flatten(2).mT, patches_BNC)
        folded = FoldedNet(model).eval()
        torch.testing.assert_close(folded(images).logits_BK, model(images).logits_BK)


def test_images_that_do_not_divide_into_patches_are_a_mistake_that_names_the_patch() -> None:
    for check in (build_backbone, check_backbone):
        with pytest.raises(
            UserError, match=r"^--image-size 100: the backbone reads patches of 14 px: use a multiple of 14$"
        ):
            check("timm/eva02_tiny_patch14_224", "none", 100)


def test_a_size_that_a_model_does_not_take_and_a_model_without_one_map_are_mistakes() -> None:
    with pytest.raises(UserError, match=r"^--image-size 100: timm/levit_128s cannot be built .*its own size is 224$"):
        build_backbone("timm/levit_128s", None, 100)
    with pytest.raises(UserError, match=r"^--backbone: gives several outputs"):
        feature_shape(build_backbone("timm/crossvit_9_240", None), 240)
    with pytest.raises(UserError, match=r"--image-size 96: the backbone does not take it .*Input height"):
        feature_shape(build_backbone("timm/deit_tiny_patch16_224", None), 96)


def test_how_a_token_model_is_built_depends_on_seed_and_size_alone() -> None:
    built = []
    for size in (48, 160, None, 48):
        torch.manual_seed(0)
        built.append(build_backbone("timm/test_vit", None, size).state_dict())
    small, large, own, again = ({name: tensor.tolist() for name, tensor in one.items()} for one in built)
    assert small == again
    assert large == own
    assert len(small["model.pos_embed"][0]) == 3 * 3 + 1


def test_weights_saved_at_another_image_size_are_resampled(tmp_path: Path) -> None:
    saved = timm.create_model("test_vit").state_dict()
    safetensors.torch.save_file({f"backbone.model.{name}": saved[name] for name in saved}, tmp_path / "w.safetensors")
    loaded = build_backbone("timm/test_vit", tmp_path / "w.safetensors", 64)
    expected = saved | {"pos_embed": resample_abs_pos_embed(saved["pos_embed"], [4, 4])}
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, expected[name.removeprefix("model.")]), name


def test_weights_of_a_token_model_of_another_width_or_patch_are_a_mistake(tmp_path: Path) -> None:
    saved = timm.create_model("test_vit").state_dict()
    for other in (
        {name: torch.cat([tensor, tensor], dim=-1) for name, tensor in saved.items()},
        saved | {"patch_embed.proj.weight": torch.zeros(64, 3, 8, 8)},
        saved | {"pos_embed": torch.zeros(1, 1, 64)},
    ):
        torch.save(other, tmp_path / "w.pth")
        with pytest.raises(UserError, match=r"do not fit the backbone: .* of another shape"):
            build_backbone("timm/test_vit", tmp_path / "w.pth", 64)
