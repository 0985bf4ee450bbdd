"""Files of weights as people have them: every common wrapping loads, any other file is called what it is."""

import gzip
import lzma
import re
import tarfile
import zipfile
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
import torchvision

from catdog.errors import UserError
from catdog.models.backbones.build import build_backbone
from catdog.models.backbones.weights import load_into
from catdog.models.backbones.weights_file import read_weights
from catdog.runs.weights_digest import local_weights

StateDict = dict[str, torch.Tensor]


@pytest.fixture
def tiny_weights() -> StateDict:
    torch.manual_seed(2)
    return build_backbone("tiny", None).state_dict()


def prefixed(prefix: str, weights: StateDict) -> StateDict:
    return {prefix + name: tensor for name, tensor in weights.items()}


WRAPPINGS: dict[str, Callable[[StateDict], object]] = {
    "DataParallel": lambda weights: prefixed("module.", weights),
    "torch.compile": lambda weights: prefixed("_orig_mod.", weights),
    "torch.compile of DataParallel": lambda weights: prefixed("_orig_mod.module.", weights),
    "torch.compile of one layer": lambda weights: {
        n.replace("layers.0.", "layers.0._orig_mod."): weights[n] for n in weights
    },
    "pytorch/examples": lambda weights: {
        "epoch": 90,
        "state_dict": prefixed("module.", weights),
        "best_acc1": torch.zeros(()),
    },
    "MoCo": lambda weights: {
        "state_dict": {
            **prefixed("module.encoder_q.", weights),
            **prefixed("module.encoder_k.", zeros(weights)),
            "module.queue": torch.zeros(2),
        }
    },
    "Lightning": lambda weights: {
        "state_dict": {**prefixed("net.", weights), "loss.scale": torch.zeros(1)},
        "hyper_parameters": {"lr": 1},
    },
    "DeiT": lambda weights: {"model": weights},
    "torchvision's references, with an average": lambda weights: {
        "model": zeros(weights),
        "args": Namespace(lr=0.1),
        "model_ema": {"n_averaged": torch.tensor(3), **prefixed("module.", weights)},
    },
    "timm, with an average": lambda weights: {
        "state_dict": zeros(weights),
        "state_dict_ema": weights,
        "args": Namespace(lr=0.1),
    },
    "nested twice": lambda weights: {"model": {"state_dict": weights}, "optimizer": {"state": {}}},
    "beside an optimizer and an epoch": lambda weights: {**weights, "optimizer": {"state": {}}, "epoch": 3},
    **{key: lambda weights, key=key: {key: weights} for key in ("net", "model_state_dict", "ema")},
}


def zeros(weights: StateDict) -> StateDict:
    return {name: torch.zeros_like(tensor) for name, tensor in weights.items()}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_weights_load_as_trainers_wrap_them(wrapping: str, tiny_weights: StateDict, tmp_path: Path) -> None:
    torch.save(WRAPPINGS[wrapping](tiny_weights), tmp_path / "w.pth")
    loaded = build_backbone("tiny", tmp_path / "w.pth").state_dict()
    assert all(torch.equal(tensor, tiny_weights[name]) for name, tensor in loaded.items())


@pytest.mark.filterwarnings("ignore")  # of torchvision, about initial weights and graph nodes
@pytest.mark.parametrize(
    ("model", "head"),
    [
        pytest.param("googlenet", "aux1.fc1.weight", marks=pytest.mark.slow),  # whose graph takes seconds to find
        ("timm/levit_128s", "head_dist.bn.weight"),
        ("timm/test_vit2", "fc_norm.weight"),
        ("timm/test_vit3", "attn_pool.q.weight"),
    ],
)
def test_classifiers_of_a_whole_model_are_ignored_whatever_their_names(model: str, head: str, tmp_path: Path) -> None:
    if model.startswith("timm/"):
        weights = timm.create_model(model.removeprefix("timm/")).state_dict()
    else:
        weights = torchvision.models.get_model(model, init_weights=False).state_dict()
    assert head in weights
    torch.save(weights, tmp_path / "w.pth")
    loaded = build_backbone(model, tmp_path / "w.pth").state_dict()
    assert all(torch.equal(tensor, weights[name.removeprefix("model.")]) for name, tensor in loaded.items())


def test_densenets_load_under_the_names_of_their_official_file() -> None:
    densenet = torchvision.models.DenseNet(block_config=(1, 1))
    weights = densenet.state_dict()
    old = {re.sub(r"(denselayer\d+\.(?:norm|conv))([12])", r"\1.\2", name): weights[name] for name in weights}
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    load_into(densenet, old, "densenet121.pth")


def test_safetensors_are_known_by_their_content_not_their_name(tiny_weights: StateDict, tmp_path: Path) -> None:
    safetensors.torch.save_file(tiny_weights, tmp_path / "blob")  # as the cache of Hugging Face names them
    torch.save(tiny_weights, tmp_path / "w.safetensors")
    for name in ("blob", "w.safetensors"):
        assert read_weights(tmp_path / name).keys() == tiny_weights.keys()


def zipped(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("code/model.py", "")


def tarred(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        archive.add(__file__, "w.pth")


def scripted(path: Path) -> None:
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), str(path))  # type: ignore[no-untyped-call]


IMPOSTORS: dict[str, Callable[[Path], object]] = {
    r"an empty file\): fetch it again": Path.touch,
    r"a Git LFS pointer\): git lfs pull": lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\n"),
    r"a web page\): download the file itself": lambda path: path.write_text("\n<!DOCTYPE html><html>Access denied"),
    r"text, which begins '\{\"metadata\": 1\}'\)": lambda path: path.write_text('{"metadata": 1}'),
    r"an HDF5 file, as Keras writes them\)": lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(88)),
    r"a gzip archive\): unpack it": lambda path: path.write_bytes(gzip.compress(b"weights")),
    r"an xz archive\): unpack it": lambda path: path.write_bytes(lzma.compress(b"weights")),
    r"a zip archive\): unpack it": zipped,
    r"a tar archive\): unpack it": tarred,
    r"a TorchScript archive\): save model.state_dict\(\)": scripted,
    r"a whole pickled model, .*Linear\): save model.state_dict\(\)": lambda path: torch.save(
        torch.nn.Linear(2, 2), path
    ),
    r"a whole pickled model, .*Conv2d\): save": lambda path: torch.save({"model": torch.nn.Conv2d(2, 2, 1)}, path),
    r"refers to pathlib.PosixPath, which may run code": lambda path: torch.save({"path": Path("w")}, path),
    r"damaged, or of another program\)": lambda path: path.write_bytes(b"\x80\x02\xff\xff"),
}


@pytest.mark.parametrize("what", IMPOSTORS)
@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
@pytest.mark.filterwarnings("ignore:`torch.jit:")  # of TorchScript
def test_a_file_of_another_kind_is_called_what_it_is(what: str, name: str, tmp_path: Path) -> None:
    IMPOSTORS[what](tmp_path / name)
    with pytest.raises(UserError, match=rf"{name}: not a file of weights \(.*{what}") as error:
        build_backbone("tiny", tmp_path / name)
    assert "\n" not in str(error.value)


def test_a_folder_is_no_file_of_weights(tmp_path: Path) -> None:
    for read in (read_weights, lambda path: local_weights(str(path))):
        with pytest.raises(UserError, match="a folder: give the file of weights in it"):
            read(tmp_path)


def test_a_checkpoint_that_contains_itself_is_a_mistake(tmp_path: Path) -> None:
    content: dict[str, object] = {}
    content["model"] = content
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(UserError, match="holds no state dict"):
        read_weights(tmp_path / "w.pth")
