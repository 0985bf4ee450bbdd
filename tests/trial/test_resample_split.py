"""Every seed with a split of its own: trials, their files, and what a report makes of them."""

import dataclasses
import io
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
import pytest
import torch

from catdog.analysis.localization import attention_table, localize
from catdog.analysis.run_data import read_content
from catdog.config.presets import PRESETS
from catdog.config.recipe import Recipe
from catdog.config.variants import parse_variant
from catdog.data.datasets.base import trimaps_key
from catdog.data.prepare import DatasetInfo, check_split
from catdog.errors import UserError
from catdog.report.mask_gallery import build_gallery
from catdog.report.page import build_page
from catdog.runs.paths import RunPaths
from catdog.runs.status import open_run
from catdog.runs.trial_files import find_damage
from catdog.sweep.plan import extend_manifest
from catdog.trial.context import RunContext
from catdog.trial.inputs import load_inputs
from catdog.trial.run import run_trial

LABELS, SEEDS = ("attention", "multi-attention"), (0, 1, 2)


@pytest.fixture(params=[False, True], ids=["fine-tuned", "frozen"])
def context(request: pytest.FixtureRequest, make_context: Callable[..., RunContext], recipe: Recipe) -> RunContext:
    """A finished run of two variants and three seeds, each with a split of its own."""
    context = make_context(dataclasses.replace(recipe, resample_split=True, freeze=request.param, epochs=1))
    for seed in SEEDS:
        for label in LABELS:
            run_trial(context, parse_variant(label, context.identity.recipe), seed)
    config = dataclasses.replace(PRESETS["demo"], run="test", variants=LABELS, seeds="3")
    manifest = extend_manifest(None, config, context.identity, ("python", "jobs/sweep.py", "demo"))
    store, trimaps = context.location.open(), load_inputs(context, torch.device("cpu")).pack.trimaps
    store.put(RunPaths("test").manifest, manifest.to_json())
    store.put(trimaps_key(context.identity.fingerprint), trimaps.to_npz())
    return context


def arrays(context: RunContext, label: str, seed: int, name: str) -> Mapping[str, npt.NDArray[np.generic]]:
    where = context.trial_paths(parse_variant(label, context.identity.recipe), seed)
    with np.load(io.BytesIO(context.location.open().get(f"{where.folder}/{name}")), allow_pickle=False) as file:
        return dict(file)


def test_variants_of_a_seed_share_their_images_and_readers_take_each_seeds_own(context: RunContext) -> None:
    store = context.location.open()
    images = {(label, seed): arrays(context, label, seed, "predictions.npz") for label in LABELS for seed in SEEDS}
    for seed in SEEDS:
        first, second = (images[label, seed]["validation_images"].tolist() for label in LABELS)
        assert first == second
        assert images["attention", seed]["test_images"].tolist() == images["attention", 0]["test_images"].tolist()
    assert len({tuple(images["attention", seed]["validation_images"]) for seed in SEEDS}) == len(SEEDS)
    features = [key for key in store.list("datasets/") if key.endswith(".safetensors") and "/features-" in key]
    assert len(features) == context.identity.recipe.freeze, "one file for all splits"

    run_status = open_run(store, "test")
    assert [trial.status for trial in run_status.trials] == ["complete"] * 6
    whole = localize(store, run_status)
    for where, result in run_status.finished.items():
        alone = dataclasses.replace(run_status, trials=[one for one in run_status.trials if one.result is result])
        assert list(alone.finished) == [where]
        assert localize(store, alone)[result.variant, result.seed] == whole[result.variant, result.seed]
    assert attention_table(store, run_status)["trials"].tolist() == [3] * 4

    keys, recipe = set(store.list("test/")), context.identity.recipe
    strangers = {
        where: dataclasses.replace(result, seed=0) if result.seed == 1 else result
        for where, result in run_status.finished.items()
        if result.variant == "attention" or result.seed == 0
    }
    (wrong,) = find_damage(store, strangers, keys, recipe).values()
    assert "is damaged: it is about other images than most trials" in wrong
    shared = dataclasses.replace(recipe, resample_split=False)
    assert len(find_damage(store, run_status.finished, keys, shared)) == 6, "no split has most trials"

    content = read_content(store, run_status)
    gallery = build_gallery(content)
    assert gallery is not None
    assert len(gallery.data["trials"]) == 6
    shown = {(one["variant"], one["seed"]): gallery.data["probes"][one["probes"]] for one in gallery.data["trials"]}
    assert all(shown["attention", seed] == shown["multi-attention", seed] for seed in SEEDS)
    assert len({tuple(shown["attention", seed]["images"]) for seed in SEEDS}) == len(SEEDS)
    page = build_page(content).decode()
    assert "each seed with a split of its own" in page
    assert "the same in all trials of a seed" in page
    assert "chosen by Validation, each seed’s on images of its own" in page
    assert "(validation, the fewest of a seed) and " in page


@pytest.mark.parametrize("varied", [{"resample_split": True}, {"vary": "split"}])
def test_a_dataset_with_validation_images_of_its_own_keeps_them(varied: dict[str, object]) -> None:
    with pytest.raises(UserError, match="split: mine came with its validation images, which stay"):
        check_split(dataclasses.replace(Recipe(), **varied), "mine", has_validation=True)  # type: ignore[arg-type]
    check_split(dataclasses.replace(Recipe(), **varied), "mine", has_validation=False)  # type: ignore[arg-type]
    check_split(Recipe(), "mine", has_validation=True)


def test_cached_features_of_every_split_are_counted_twice_but_those_of_test() -> None:
    info = DatasetInfo("mine", "0" * 16, trainval_images=100, validation_images=20, test_share=0.5)
    assert info.feature_images(Recipe()) == 2 * 80 + 20 + 100
    assert info.feature_images(Recipe(limit_images=30)) == 2 * 30 + 20 + 30
    assert info.feature_images(Recipe(resample_split=True)) == 2 * 100 + 100
    assert info.feature_images(Recipe(vary="split", limit_images=30)) == 2 * 100 + 30


@pytest.mark.parametrize("freeze", [False, True])
def test_a_trial_trains_on_few_images_of_each_class_and_their_features_are_those_of_the_whole_split(
    freeze: bool, make_context: Callable[..., RunContext], recipe: Recipe
) -> None:
    few = dataclasses.replace(recipe, limit_images=None, train_images_per_class=2, freeze=freeze, epochs=1)
    context = make_context(few)
    result = run_trial(context, parse_variant("baseline", few), 0)
    inputs = load_inputs(context, torch.device("cpu"))
    split = inputs.split
    whole = load_inputs(make_context(dataclasses.replace(few, train_images_per_class=None)), torch.device("cpu")).split
    assert result.images_trained == len(split.train) == 2 * len(inputs.pack.classes)
    assert set(split.train) < set(whole.train)
    assert split.validation.tolist() == whole.validation.tolist()
    features = [key for key in context.location.open().list("datasets/") if "/features-" in key]
    assert len([key for key in features if key.endswith(".safetensors")]) == freeze, "one file, whatever the number"
