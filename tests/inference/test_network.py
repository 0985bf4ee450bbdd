"""Kept networks: built again from the store, asked about photos, exported. Of every variant, on real trials."""

import dataclasses
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from catdog.config.head_files import load_head_files
from catdog.config.head_registry import VARIANTS
from catdog.config.recipe import Recipe
from catdog.config.variants import VariantSpec, parse_variant
from catdog.data.pack import open_pack
from catdog.errors import UserError
from catdog.inference.export import agreement, export_program, read_images
from catdog.inference.network import KeptNetwork, load_network, predict
from catdog.inference.photo_sheet import photo_sheet
from catdog.runs.artifacts import read_predictions_npz
from catdog.runs.manifest import Identity
from catdog.runs.paths import TrialPaths
from catdog.storage import LocalStore, sha256
from catdog.trial.context import RunContext
from catdog.trial.run import run_trial
from tests.helpers.pets import DRAWN_GROUPS

MakeContext = Callable[..., RunContext]
INSIDE = ("cbam", "residual-attention", "eca", "abn")
"""They work inside the backbone, which cannot be frozen then."""


@dataclasses.dataclass(frozen=True)
class Kept:
    """A finished trial and its network."""

    context: RunContext
    spec: VariantSpec

    @property
    def where(self) -> TrialPaths:
        return self.context.trial_paths(self.spec, 0)

    @property
    def store(self) -> LocalStore:
        store = self.context.location.open()
        assert isinstance(store, LocalStore)
        return store

    @property
    def network(self) -> KeptNetwork:
        return load_network(self.store, self.where, self.spec, self.context.identity.of(self.spec).recipe)


def train(context: RunContext, label: str, **recipe: object) -> Kept:
    changed = dataclasses.replace(context.identity.recipe, epochs=1, **recipe)  # type: ignore[arg-type]
    identity = Identity(changed, context.identity.fingerprint, None, 1, groups=DRAWN_GROUPS)
    context = dataclasses.replace(context, identity=identity, keep_weights="best")
    spec = parse_variant(label, changed)
    run_trial(context, spec, 0)
    return Kept(context, spec)


@pytest.fixture
def frozen_multi(make_context: MakeContext, recipe: Recipe) -> Kept:
    """A network on a frozen backbone."""
    return train(make_context(recipe), "multi-attention", freeze=True)


@pytest.fixture
def photo(tmp_path: Path) -> str:
    """A photo that is wider than high."""
    pixels = np.random.default_rng(0).integers(0, 255, (60, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((300, 200)).save(tmp_path / "photo.jpg")
    return str(tmp_path / "photo.jpg")


@pytest.mark.parametrize(
    ("label", "freeze"),
    [(label, False) for label in VARIANTS] + [(label, True) for label in VARIANTS if label not in INSIDE],
)
def test_a_kept_network_predicts_what_its_trial_did(
    label: str, freeze: bool, make_context: MakeContext, recipe: Recipe
) -> None:
    kept = train(make_context(recipe), label, freeze=freeze)
    pack = open_pack(kept.store.local_path(f"datasets/{kept.context.identity.fingerprint}/pack.safetensors"))
    stored = read_predictions_npz(kept.store.get(kept.where.predictions), "test")
    rows = [pack.names.index(name) for name in stored.images_N]
    with torch.no_grad():
        found = kept.network(pack.images_NSSC[rows])
    assert found["probabilities"].argmax(dim=1).tolist() == stored.predicted_N.tolist()
    true_N = found["probabilities"].log()[range(len(rows)), stored.labels_N.astype(int)]
    np.testing.assert_allclose(true_N, stored.log_probability_N, atol=5e-3)
    assert ("probabilities@species" in found) == (label == "multi-task")


def test_a_photo_has_probabilities_of_all_classes_and_masks_at_its_own_resolution(
    photo: str, make_context: MakeContext, recipe: Recipe
) -> None:
    kept = train(make_context(recipe), "multi-attention")
    prediction = kept.network.predict(photo)
    assert prediction.probabilities_NK.shape == (1, 12)
    assert prediction.mean_K.sum() == pytest.approx(1, abs=1e-5)
    assert prediction.top(3) == sorted(range(12), key=lambda label: -prediction.mean_K[label])[:3]
    assert {place: one.shape for place, one in prediction.maps.items()} == {"head": (4, 6, 6)}
    sheet = Image.open(io.BytesIO(photo_sheet(prediction, "squash")))
    sheet.load()
    assert (sheet.width > 5 * 300, 200 < sheet.height < 400) == (True, True), "the photo and four masks in a row"


def test_a_photo_of_one_row_of_pixels_has_a_sheet(tmp_path: Path, make_context: MakeContext, recipe: Recipe) -> None:
    Image.new("RGB", (1, 65_535)).save(tmp_path / "row.png")
    prediction = train(make_context(recipe), "attention").network.predict(str(tmp_path / "row.png"))
    with Image.open(io.BytesIO(photo_sheet(prediction, "crop"))) as sheet:
        assert 16_000 <= sheet.height < 17_000


def test_a_network_without_masks_shows_grad_cam(photo: str, make_context: MakeContext, recipe: Recipe) -> None:
    prediction = train(make_context(recipe), "baseline").network.predict(photo)
    assert prediction.maps["Grad-CAM"].shape == (1, 6, 6)
    assert prediction.maps["Grad-CAM"].max() == pytest.approx(1)


def test_several_networks_are_averaged_and_say_how_far_they_agree(
    photo: str, make_context: MakeContext, recipe: Recipe
) -> None:
    context = make_context(recipe)
    networks = [train(context, label).network for label in ("baseline", "gem", "max")]
    both, alone = predict(networks, photo), [predict([one], photo) for one in networks]
    np.testing.assert_allclose(both.mean_K, np.mean([one.mean_K for one in alone], axis=0), rtol=1e-6)
    assert both.agreeing == sum(one.top(1) == both.top(1) for one in alone)


@pytest.mark.parametrize("label", ["baseline", "multi-attention", "cbam:stages=inside", "stage-attention"])
def test_an_exported_program_gives_the_same_without_catdog(
    label: str, make_context: MakeContext, recipe: Recipe
) -> None:
    kept = train(make_context(recipe), label)
    images, network = read_images(kept.store, kept.context.identity.fingerprint, kept.where, 16), kept.network
    assert agreement(network, images) == 1
    data, furthest = export_program(network, images)
    assert furthest < 1e-5
    inside = {"card.json": "", "classes.txt": ""}
    program = torch.export.load(io.BytesIO(data), extra_files=inside).module()
    one = program(images.images_BSSC[:1])
    assert one["probabilities"].shape == (1, 12), "any number of images"
    assert inside["classes.txt"].splitlines()[one["probabilities"].argmax()] in network.card.classes
    assert json.loads(inside["card.json"])["variant"] == label


def test_a_network_that_is_not_there_or_damaged_is_one_line(make_context: MakeContext, recipe: Recipe) -> None:
    kept = train(make_context(recipe), "baseline", freeze=True)
    data = kept.store.get(kept.where.weights)
    (backbone,) = kept.store.list("test/backbones/")
    for key, content, problem in (
        (kept.where.weights, data[:100], "cannot be used"),
        (kept.where.weights, data.replace(b"PlainHead", b"PlainHeap"), "is not here as it was trained"),
        (backbone, kept.store.get(backbone)[:-1] + b"\1", "is damaged"),
    ):
        before = kept.store.get(key)
        kept.store.put(key, content)
        with pytest.raises(UserError, match=problem):
            _ = kept.network
        kept.store.put(key, before)
    kept.store.delete(kept.where.weights)
    with pytest.raises(UserError, match="was not kept"):
        _ = kept.network


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        (
            "arguments",
            {"num_masks": 10**9, "hidden_features": 256, "dropout": 0.5},
            "is not here as it was trained: use",
        ),
        ("arguments", {"evil": True}, "is not here as it was trained: use the version of catdog"),
        ("variant", "baseline", "is not the network of multi-attention, seed 0: restore it"),
        ("seed", 1, "is not the network of multi-attention, seed 0"),
        ("backbone", "resnet18", "is not the network of multi-attention, seed 0"),
        ("image_size", 10**6, "is not the network of multi-attention, seed 0"),
        ("backbone_sha256", "../../x", "lies outside the store"),
        ("std", [0.5, 0.0, 0.5], "describes no network"),
        ("side", 10**6, "describes no network"),
        ("groups", ["cat"], "describes no network"),
        ("classes", ["a", "b"], "its weights are not those of multi-attention .* size mismatch for head"),
    ],
)
def test_a_file_that_describes_another_network_is_one_line_and_builds_nothing(
    field: str, value: object, problem: str, frozen_multi: Kept
) -> None:
    store, where = frozen_multi.store, frozen_multi.where
    before = store.get(where.weights)
    size = int.from_bytes(before[:8], "little")
    header = json.loads(before[8 : 8 + size])
    card = json.loads(header["__metadata__"]["catdog"]) | {field: value}
    changed = json.dumps(header | {"__metadata__": {"catdog": json.dumps(card)}}).encode()
    store.put(where.weights, len(changed).to_bytes(8, "little") + changed + before[8 + size :])
    with pytest.raises(UserError, match=problem):
        _ = frozen_multi.network
    store.put(where.weights, before)


def test_a_frozen_backbone_of_another_format_is_one_line(frozen_multi: Kept) -> None:
    store, where = frozen_multi.store, frozen_multi.where
    before, (backbone,) = store.get(where.weights), store.list("test/backbones/")
    digest = Path(backbone).stem.encode()
    store.put(f"test/backbones/{sha256(b'x')}.safetensors", b"x")
    store.put(where.weights, before.replace(digest, sha256(b"x").encode()))
    with pytest.raises(UserError, match="cannot be used"):
        _ = frozen_multi.network
    store.put(where.weights, before)


TIED = """
from torch import nn
from catdog.models import ModelOutput, register_head

@register_head("tied")
class Tied(nn.Module):
    def __init__(self, in_channels, num_classes):
        super().__init__()
        self.one, self.other = (nn.Linear(in_channels, in_channels) for _ in range(2))
        self.other.weight = self.one.weight
        self.linear = nn.Linear(in_channels, num_classes)

    def forward(self, features):
        pooled = self.other(self.one(features.mean(dim=(2, 3))))
        return ModelOutput(self.linear(pooled), None, pooled.new_zeros(()))
"""


def test_a_head_whose_layers_share_weights_is_kept(
    make_context: MakeContext, recipe: Recipe, tmp_path: Path, no_external_heads: None
) -> None:
    (tmp_path / "tied.py").write_text(TIED)
    load_head_files([str(tmp_path / "tied.py")])
    kept = train(make_context(recipe), "tied")
    assert agreement(kept.network, read_images(kept.store, kept.context.identity.fingerprint, kept.where, 16)) == 1


HEADS = """
from torch import nn
from catdog.models import ModelOutput, register_head

@register_head("mine")
class Mine(nn.Module):
    def __init__(self, in_channels, num_classes):
        super().__init__()
        self.linear = nn.Linear(in_channels, num_classes)

    def forward(self, features):
        pooled = features.mean(dim=(2, 3)){change}
        return ModelOutput(self.linear(pooled), None, pooled.new_zeros(()))
"""


def test_a_head_of_ones_own_is_built_from_the_code_that_was_trained(
    make_context: MakeContext, recipe: Recipe, tmp_path: Path, no_external_heads: None
) -> None:
    mine, other = tmp_path / "mine.py", tmp_path / "other.py"
    mine.write_text(HEADS.format(change=""))
    other.write_text(HEADS.format(change=" * 2"))
    load_head_files([str(mine)])
    kept = train(make_context(recipe), "mine")
    assert kept.network.card.variant == "mine"
    load_head_files([str(other)])
    with pytest.raises(UserError, match=r"the run keeps it in test/imports"):
        _ = kept.network
