"""Recipes, sweeps, presets and the identity of a run; every mistake gives one line that names its option."""

import dataclasses
import hashlib
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catdog.cli import parse_sweep
from catdog.config.presets import PRESETS, lambda_config, preset_config, scatter_configs
from catdog.config.recipe import NAMED_WEIGHTS, Recipe
from catdog.config.sweep_options import SweepConfig, parse_seeds
from catdog.config.variants import parse_variant
from catdog.errors import UserError
from catdog.runs.manifest import Identity
from catdog.storage.serialization import from_fields, read_json, to_json

OTHER_VALUES: dict[str, object] = {
    "dataset": "drawn",
    "backbone": "resnet18",
    "weights": "none",
    "freeze": True,
    "train_modules_only": True,
    "freeze_batch_norm": False,
    "image_size": 160,
    "epochs": 3,
    "batch_size": 16,
    "optimizer": "sgd",
    "learning_rate": 1e-3,
    "backbone_learning_rate": 1e-3,
    "schedule": "cosine",
    "weight_decay": 0.1,
    "mask_weight_decay": 0.1,
    "loss": "mine",
    "label_smoothing": 0.1,
    "second_task": "sex",
    "second_task_weight": 0.5,
    "lambda_divergence": 0.01,
    "gradient_clip": 1.0,
    "mixup": 0.2,
    "cutmix": 1.0,
    "ema": 0.99,
    "crop_scale": 0.5,
    "flip": False,
    "split_seed": 1,
    "resample_split": True,
    "limit_images": 100,
    "train_images_per_class": 5,
    "probe_images": 2,
    "precision": "bfloat16",
    "compile": True,
    "deterministic": True,
    "vary": "init",
}
"""For each field of the recipe, a legal value other than its default."""

LIMITS = {
    "image_size": (16, 2048),
    "epochs": (1, 100_000),
    "batch_size": (1, 65_536),
    "probe_images": (1, 1000),
    "split_seed": (0, 2**32 - 1),
    "limit_images": (1, 10_000_000),
    "train_images_per_class": (1, 10_000_000),
}

OUT_OF_RANGE: list[tuple[str, object]] = [
    ("image_size", -224),
    *((name, smallest - 1) for name, (smallest, _) in LIMITS.items()),
    *((name, largest + 1) for name, (_, largest) in LIMITS.items()),
    *((name, value) for name in ("learning_rate", "backbone_learning_rate") for value in (0.0, -1.0, 100.0)),
    *((name, value) for name in ("weight_decay", "mask_weight_decay") for value in (-0.1, 10.0)),
    ("label_smoothing", 1.0),
    ("label_smoothing", -0.1),
    ("lambda_divergence", 0.0),
    ("lambda_divergence", -1.0),
    ("crop_scale", 0.0),
    ("crop_scale", 1.1),
    *(("gradient_clip", value) for value in (0.0, -1.0, math.nan, math.inf)),
    *((name, value) for name in ("mixup", "cutmix") for value in (-0.1, 101.0, math.nan)),
    *(("ema", value) for value in (-0.1, 1.0, math.nan)),
    *(("second_task_weight", value) for value in (0.0, -1.0, 1001.0, math.nan, math.inf)),
    *(
        (name, value)
        for name in ("learning_rate", "backbone_learning_rate", "weight_decay", "mask_weight_decay")
        for value in (math.nan, math.inf)
    ),
    *(
        (name, value)
        for name in ("label_smoothing", "lambda_divergence", "crop_scale")
        for value in (math.nan, math.inf)
    ),
    ("backbone", ""),
    ("weights", ""),
]


def identity(**fields: object) -> Identity:
    recipe = Recipe(precision="float32")
    return dataclasses.replace(Identity(recipe, "0123456789abcdef", None, 2), **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "seeds"),
    [
        ("1", (0,)),
        ("3", (0, 1, 2)),
        ("30", tuple(range(30))),
        ("0-9", tuple(range(10))),
        ("5-5", (5,)),
        ("0-4,7", (0, 1, 2, 3, 4, 7)),
        ("7,0-2", (0, 1, 2, 7)),
        ("10000", tuple(range(10000))),
    ],
)
def test_seeds_are_a_count_or_ranges(text: str, seeds: tuple[int, ...]) -> None:
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize(
    ("said", "texts"),
    [
        ("5-2 runs backwards; ", ["5-2"]),
        ("must be from 1 to 10000; ", ["0", "10001", "1000000"]),
        ("more than 10000 seeds; ", ["0-99999999", "0-9999,10000", "1-9999,20000-20001"]),
        ("a seed is named twice; ", ["0-4,4"]),
        ("", ["", "-1", "a", "1-", "1e3", "3.0", " 3", "3\n", "0-4,", "1,,2", "0--4", "٣", "9" * 5000]),
    ],
)
def test_malformed_seeds_are_a_mistake_that_names_the_option(said: str, texts: list[str]) -> None:
    remedy = r"give a number of seeds \(30\), a range \(0-9\) or a list of ranges \(0-4,7\)$"
    for text in texts:
        with pytest.raises(UserError, match=rf"(?s)^--seeds {text[:9]}.*: {said}{remedy}"):
            parse_seeds(text)


@given(st.lists(st.tuples(st.integers(0, 300), st.integers(0, 30)), min_size=1, max_size=8))
def test_ranges_name_all_their_seeds_regardless_of_order(ranges: list[tuple[int, int]]) -> None:
    named = [seed for first, more in ranges for seed in range(first, first + more + 1)]
    text = ",".join(f"{first}-{first + more}" if more else str(first) for first, more in ranges)
    if text.isdigit():
        assert parse_seeds(f"{text}-{text}") == (int(text),)  # a single number is a count
    elif len(set(named)) == len(named):
        assert parse_seeds(text) == tuple(sorted(named))
    else:
        with pytest.raises(UserError, match="a seed is named twice"):
            parse_seeds(text)


@given(st.one_of(st.text(), st.text("0123456789-,")))
def test_any_text_gives_distinct_sorted_seeds_or_a_user_error(text: str) -> None:
    try:
        seeds = parse_seeds(text)
    except UserError:
        return
    assert list(seeds) == sorted(set(seeds))
    assert seeds


@pytest.mark.parametrize("name", PRESETS)
def test_the_options_of_a_preset_default_to_its_values(name: str) -> None:
    config = parse_sweep([name], "sweep.py")
    assert config == PRESETS[name] == preset_config(name)
    assert config.run_name == name
    assert config.variant_specs
    assert config.seed_list


def test_the_presets_have_the_seeds_and_variants_that_the_docs_promise() -> None:
    assert {name: len(config.seed_list) for name, config in PRESETS.items()} == {
        "demo": 3, "pets-frozen": 30, "pets-cpu": 3, "paper": 30,
    }  # fmt: skip
    for config in PRESETS.values():
        assert config.variants == ("baseline", "attention", "multi-attention")


FIRST_VARIANTS = (
    "baseline", "attention", "multi-attention", "attention-relu", "attention-softmax", "se", "multi-attention-free",
    "multi-attention-fixed",
)  # fmt: skip


def test_trials_that_existing_stores_hold_are_found_again() -> None:
    """A changed default, or a changed setting of a preset, would make every trial of its runs start again."""
    hashes = {}
    for name, config in PRESETS.items():
        recipe = dataclasses.replace(config.recipe, precision="float32")
        for variant in FIRST_VARIANTS if name == "demo" else ["multi-attention"]:
            spec = parse_variant(variant, recipe)
            hashes[name, variant] = identity(recipe=recipe, threads=1, result_format=3).trial_hash(spec, 7)
    assert hashes == {
        ("demo", "baseline"): "016c2325b3bb3ec4",
        ("demo", "attention"): "b786232a0208a088",
        ("demo", "multi-attention"): "256ffb23993abe77",
        ("demo", "attention-relu"): "4deeeae061f92be7",
        ("demo", "attention-softmax"): "e683fa83e3ebe4d5",
        ("demo", "se"): "c7939d6673293d53",
        ("demo", "multi-attention-free"): "7d00814eb9646dd4",
        ("demo", "multi-attention-fixed"): "0e719d9b182fc7da",
        ("pets-frozen", "multi-attention"): "b09f18163c202b1e",
        ("pets-cpu", "multi-attention"): "6770a7686fa1dc76",
        ("paper", "multi-attention"): "ea0ea07d9eebd24e",
    }


def test_a_sweep_uses_no_gpu_keeps_no_weights_and_starts_unless_it_is_told_otherwise() -> None:
    for name, config in PRESETS.items():
        assert not config.dry_run
        assert (config.store, config.tracker, config.keep_weights) == ("results", "none", "auto")
        assert (config.cpus_per_trial, config.gpus_per_trial) == (1, None if name == "paper" else 0)
        assert (config.checkpoint_seconds, config.max_retries, config.store_patience) == (60, 20, 600)
        assert config.run is config.hourly_price is config.max_cost is None


@pytest.mark.parametrize("run", [None, "mine"])
def test_studies_are_named_after_the_run_or_else_the_preset(run: str | None) -> None:
    config = dataclasses.replace(PRESETS["pets-frozen"], run=run)
    of_lambda = lambda_config(config)
    assert of_lambda.run_name == (run or "pets-frozen-lambda")
    weights = [spec.arguments["lambda_divergence"] for spec in of_lambda.variant_specs]
    assert weights == pytest.approx([0, *(10.0**exponent for exponent in range(-6, 0))])
    assert of_lambda.recipe == config.recipe
    for source, of_scatter in scatter_configs(config, with_split=True).items():
        assert of_scatter.run_name == f"{run or 'pets-frozen-scatter'}-{source}"
        assert of_scatter.recipe == dataclasses.replace(config.recipe, vary=source, resample_split=source == "all")
        assert of_scatter.variants == config.variants


@pytest.mark.parametrize(
    ("freeze", "weights", "kept"), [(True, "imagenet", True), (True, "none", False), (False, "a.pth", False)]
)
def test_batch_norms_keep_the_statistics_that_pretraining_gave_them(freeze: bool, weights: str, kept: bool) -> None:
    assert Recipe(freeze_batch_norm=freeze, weights=weights).keeps_batch_norm is kept


@pytest.mark.parametrize(
    ("backbone", "library"), [("tiny", None), ("timm/resnet18", "timm"), ("resnet18", "torchvision")]
)
def test_the_backbones_library_follows_from_its_name(backbone: str, library: str | None) -> None:
    assert Recipe(backbone=backbone, weights="none").backbone_library == library


def test_the_presets_need_no_weights_file() -> None:
    assert {config.recipe.weights for config in PRESETS.values()} == {"imagenet", "lite0", "none"} < set(NAMED_WEIGHTS)


def test_an_unknown_preset_lists_the_legal_ones() -> None:
    with pytest.raises(UserError, match="unknown preset 'dmo': choose from demo, pets-frozen, pets-cpu, paper"):
        preset_config("dmo")


@pytest.mark.parametrize(("name", "value"), OUT_OF_RANGE)
def test_a_setting_out_of_range_is_one_line_that_names_its_option(name: str, value: object) -> None:
    with pytest.raises(UserError, match=f"^--{name.replace('_', '-')}[ :]") as error:
        dataclasses.replace(Recipe(), **{name: value})  # type: ignore[arg-type]
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, limit) for name, limits in LIMITS.items() for limit in limits),
        *((name, 0.0) for name in ("weight_decay", "mask_weight_decay", "label_smoothing")),
        ("crop_scale", 1.0),
    ],
)
def test_the_ends_of_a_range_are_legal(name: str, value: object) -> None:
    assert getattr(dataclasses.replace(Recipe(), **{name: value}), name) == value  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "value"),
    [("cpus_per_trial", 256), ("gpus_per_trial", 0.0), ("gpus_per_trial", 1.0), ("checkpoint_seconds", 0.0),
     ("store_patience", 0.0), ("max_retries", 0), ("max_retries", 10**6)],
)  # fmt: skip
def test_the_ends_of_a_sweeps_ranges_are_legal(name: str, value: object) -> None:
    assert getattr(dataclasses.replace(PRESETS["demo"], **{name: value}), name) == value  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cpus_per_trial", 0),
        ("cpus_per_trial", 1000),
        ("gpus_per_trial", 1.5),
        ("gpus_per_trial", -0.1),
        ("gpus_per_trial", math.nan),
        ("checkpoint_seconds", -1.0),
        ("checkpoint_seconds", math.nan),
        ("checkpoint_seconds", math.inf),
        ("hourly_price", math.nan),
        ("hourly_price", math.inf),
        ("hourly_price", 0.0),
        ("data_root", ""),
        ("max_retries", -1),
        ("max_retries", 10**9),
        ("store", ""),
        ("seeds", "x"),
    ],
)
def test_a_sweep_setting_out_of_range_names_its_option(name: str, value: object) -> None:
    with pytest.raises(UserError, match=f"^--{name.replace('_', '-')}[ :]"):
        dataclasses.replace(PRESETS["demo"], **{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "arguments",
    [["--epochs", "0"], ["--crop-scale", "nan"], ["--weights", "imagenet"], ["--seeds", "5-2"],
     ["--run", "a/b"], ["--epochs", "x"], ["--optimizer", "adam"]],
)  # fmt: skip
def test_a_mistake_on_the_command_line_is_one_line_that_names_the_option(arguments: list[str]) -> None:
    with pytest.raises(UserError, match=arguments[0]) as error:
        parse_sweep(["demo", *arguments], "sweep.py")
    assert "\n" not in str(error.value)


def test_images_cannot_be_pasted_into_features() -> None:
    with pytest.raises(UserError, match=r"--cutmix 1\.0: needs images, .* use --mixup"):
        Recipe(freeze=True, cutmix=1.0)
    assert Recipe(freeze=True, mixup=1.0).mixup == 1.0


def test_later_settings_at_their_defaults_are_not_part_of_a_trials_hash() -> None:
    mine, spec = identity(), parse_variant("baseline")
    content = dataclasses.asdict(mine) | {"variant": [spec.name, dict(spec.arguments)], "seed": 3}
    later = ("gradient_clip", "mixup", "cutmix", "ema", "loss", "train_modules_only", "second_task")
    for name in (*later, "second_task_weight", "resample_split", "train_images_per_class"):
        del content["recipe"][name]
    del content["groups"], content["workers"]
    first_version = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
    assert mine.trial_hash(spec, 3) == first_version


def test_the_tiny_backbone_takes_no_weights() -> None:
    with pytest.raises(UserError, match="add --weights none"):
        Recipe(backbone="tiny")
    assert Recipe(backbone="tiny", weights="none").backbone == "tiny"


@pytest.mark.parametrize(
    "run",
    [
        "",
        ".",
        "..",
        "a/b",
        "a\\b",
        "-run",
        ".hidden",
        "läufe",
        "猫",
        "a b",
        "run\n",
        "x" * 101,
        "x" * 300,
        "datasets",
        "a:b",
    ],
)
def test_a_run_name_unfit_for_a_folder_is_a_mistake(run: str) -> None:
    with pytest.raises(UserError, match=r"(?s)^--run .*: use 1 to 100 .* digit first; 'datasets' is taken$") as error:
        SweepConfig(preset="demo", run=run)
    assert len(str(error.value)) < 250


@pytest.mark.parametrize("run", ["a", "demo-2", "2026-07-01_night.1", "x" * 100, "Datasets"])
def test_ordinary_run_names_are_accepted(run: str) -> None:
    assert SweepConfig(preset="demo", run=run).run_name == run


def test_every_field_of_the_recipe_has_another_value_to_test_with() -> None:
    assert list(OTHER_VALUES) == [field.name for field in dataclasses.fields(Recipe)], (
        "a new setting of the recipe needs a line in OTHER_VALUES"
    )


@pytest.mark.parametrize("name", OTHER_VALUES)
def test_every_setting_of_the_recipe_changes_the_trial_hash_and_is_shown_as_a_difference(
    name: str,
) -> None:
    mine = identity(recipe=Recipe(precision="float32", second_task="species"))
    theirs = identity(recipe=dataclasses.replace(mine.recipe, **{name: OTHER_VALUES[name]}))  # type: ignore[arg-type]
    spec = parse_variant("multi-attention")
    assert mine.trial_hash(spec, 0) != theirs.trial_hash(spec, 0)
    assert mine.differences(theirs) == [f"{name}: {getattr(mine.recipe, name)} → {OTHER_VALUES[name]}"]


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        (
            "fingerprint",
            "fedcba9876543210",
            "the images changed, or their labels, masks, split or packing: fingerprint",
        ),
        ("threads", 4, "threads:"),
        ("workers", 2, "workers:"),
        ("weights_digest", "ab" * 32, "the weights changed: sha256"),
        ("result_format", 99, "result_format:"),
    ],
)
def test_data_weights_threads_and_format_change_the_trial_hash(name: str, value: object, said: str) -> None:
    mine, theirs = identity(), identity(**{name: value})
    spec = parse_variant("baseline")
    assert mine.trial_hash(spec, 0) != theirs.trial_hash(spec, 0)
    assert mine.differences(theirs) == [f"{said} {getattr(mine, name)} → {value}"]


def test_within_a_run_the_trial_hash_depends_only_on_seed_and_model() -> None:
    mine = identity()
    labels = [
        "baseline",
        "baseline:dropout=0.4",
        "attention",
        "attention-relu",
        "multi-attention",
        "multi-attention-free",
    ]
    hashes = [mine.trial_hash(parse_variant(label), seed) for label in labels for seed in (0, 1)]
    assert len(set(hashes)) == len(hashes)
    assert all(len(value) == 16 and int(value, 16) >= 0 for value in hashes)
    assert hashes[0] == identity().trial_hash(parse_variant("baseline:dropout=0.5"), 0)
    zero, minus_zero = (parse_variant(f"attention:dropout={text}") for text in ("0", "-0"))
    assert mine.trial_hash(zero, 0) == mine.trial_hash(minus_zero, 0)


def test_equal_identities_show_no_difference_and_unequal_ones_show_each() -> None:
    mine = identity()
    assert mine.differences(identity()) == []
    theirs = identity(recipe=dataclasses.replace(mine.recipe, epochs=3, flip=False), threads=1)
    assert sorted(mine.differences(theirs)) == ["epochs: 10 → 3", "flip: True → False", "threads: 2 → 1"]


@pytest.mark.parametrize("name", PRESETS)
def test_an_identity_survives_json(name: str) -> None:
    recipe = dataclasses.replace(PRESETS[name].recipe, precision="float32", limit_images=24, vary="order")
    mine = Identity(recipe, "0123456789abcdef", "ab" * 32, 3)
    again = from_fields(Identity, read_json(to_json(mine)))
    assert again == mine
    spec = parse_variant("multi-attention", recipe)
    assert again.trial_hash(spec, 5) == mine.trial_hash(spec, 5)
