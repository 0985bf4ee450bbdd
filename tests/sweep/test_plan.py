"""What a sweep plans: one name for each network of a run, and the room that cached features take."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from catdog.cli import run_job
from catdog.config.presets import PRESETS
from catdog.config.recipe import Recipe
from catdog.data.prepare import DatasetInfo
from catdog.errors import UserError
from catdog.runs.looks import UNDECIDED, Look, store_look
from catdog.runs.manifest import Identity, Manifest
from catdog.runs.paths import RunPaths
from catdog.storage import MemoryStore
from catdog.sweep.plan import ResolvedRun, make_plan
from catdog.trial.context import RunContext
from catdog.trial.inputs import load_inputs
from jobs import sweep
from tests.helpers.made_runs import make_run
from tests.helpers.pets import DRAWN_GROUPS


def test_a_later_launch_cannot_give_a_network_of_the_run_another_name() -> None:
    recipe = dataclasses.replace(PRESETS["demo"].recipe, precision="float32")
    run = ResolvedRun(DatasetInfo("drawn", "0" * 16, 10), Identity(recipe, "0" * 16, None, 1, groups=DRAWN_GROUPS))
    store = MemoryStore()

    def launch(*labels: str) -> Manifest:
        config = dataclasses.replace(PRESETS["demo"], recipe=recipe, variants=labels)
        manifest = make_plan(config, store, run, ()).run_status.manifest
        store.put(RunPaths(manifest.run).manifest, manifest.to_json())
        return manifest

    launch("cbam", "eca:stages=layers.3", "baseline:second_task=sex")
    for label, twin in (
        ("cbam:stages=layers.3+layers.1", "'cbam', at layers.1 and layers.3: use that name"),
        ("eca:stages=last", "'eca:stages=layers.3', at layers.3: use that name"),
        ("multi-task:second_task=sex", "'baseline:second_task=sex' of this run: use that name"),
    ):
        with pytest.raises(UserError, match=f"is the same model as {twin}"):
            launch("baseline", label)
    assert launch("cbam", "eca").variants == ("cbam", "eca:stages=layers.3", "baseline:second_task=sex", "eca")


def test_a_dry_run_says_how_much_room_the_cached_features_take(
    make_context: Callable[..., RunContext], recipe: Recipe, store_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(*variants: str) -> str:
        options = ["--freeze", "--limit-images", "24", "--image-size", "48", "--dry-run"]
        assert run_job(sweep.main, ["demo", "--store", str(store_folder), *options, "--variants", *variants]) == 0
        return capsys.readouterr().out

    inputs = load_inputs(make_context(dataclasses.replace(recipe, freeze=True)), torch.device("cpu"))
    assert inputs.read_batches is not None
    inputs.read_batches(["layers.1", "layers.3"])
    sizes = sorted(path.stat().st_size for path in store_folder.glob("datasets/*/features-*.safetensors"))
    last, joined = 6 * 6 * 96 * 2 + 96 * 4, (12 * 12 * 40 + 6 * 6 * 96) * 2
    assert sizes == pytest.approx([96 * last, 96 * joined], abs=1000), "24 images of three splits, 24 mirrored"
    assert "cached features  about 0.7 MB in the store" in said("baseline", "attention")
    assert "cached features  about 2.5 MB in the store" in said("baseline", "stage-attention")
    assert run_job(sweep.main, ["demo", "--store", str(store_folder), "--dry-run"]) == 0
    assert "cached features" not in capsys.readouterr().out


def test_a_look_that_has_done_without_a_failed_trial_is_not_followed_by_another_attempt() -> None:
    store = MemoryStore()
    status = make_run(
        store, ("baseline", "se"), range(6), failed=[("se", 1)], looks=(6, 12), most_seeds=12, smallest_effect=2.0,
        test_images=40,
    )  # fmt: skip
    identity = status.manifest.identity
    config = dataclasses.replace(
        PRESETS["pets-frozen"], run="made", recipe=identity.recipe, variants=("baseline", "se"), seeds="12",
        until_decided=True, looks="6", smallest_effect=2.0,
    )  # fmt: skip
    run = ResolvedRun(DatasetInfo(identity.recipe.dataset, identity.fingerprint, 10), identity)

    def pending() -> set[tuple[str, int]]:
        return {(one.variant.label, one.seed) for one in make_plan(config, store, run, ()).pending}

    assert pending() == {("se", 1)}, "before the look"
    store_look(store, "made", Look(6, {"se": (0, 2, 3, 4, 5)}, {"se": UNDECIDED}, "2026-01-01T20:00:00+00:00"))
    assert pending() == {(label, seed) for label in ("baseline", "se") for seed in range(6, 12)}
