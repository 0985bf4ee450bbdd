"""Recipe files: what they set, what they extend, what is wrong with them, and that they say all of a sweep."""

import dataclasses
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from catdog.cli import parse_sweep
from catdog.config.head_registry import EXTERNAL, HEAD_CLASSES
from catdog.config.presets import PRESETS, lambda_config
from catdog.config.recipe import Recipe
from catdog.config.recipe_file import MOST_BYTES, SETTINGS, named_config, recipe_yaml
from catdog.config.sweep_options import SweepConfig, format_seeds, parse_seeds
from catdog.errors import UserError
from jobs import sweep


def written(folder: Path, name: str = "my.yaml", content: str | bytes = "") -> str:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def test_a_file_sets_options_by_name_on_top_of_a_preset(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        content="extends: pets-frozen\nseeds: 0-4,7\nlearning_rate: 1e-3\nflip: false\ngpus_per_trial: null\n"
        "limit_images: 24\nprecision: bfloat16\nvary: order\nrun: 2026-07-01\nstore: 's3://bucket/x'\n",
    )
    config, base = named_config(path), PRESETS["pets-frozen"]
    recipe = dataclasses.replace(
        base.recipe, learning_rate=1e-3, flip=False, limit_images=24, precision="bfloat16", vary="order"
    )
    assert config == dataclasses.replace(
        base, preset=path, seeds="0-4,7", run="2026-07-01", store="s3://bucket/x", gpus_per_trial=None, recipe=recipe
    )


def test_without_extends_the_options_own_defaults_hold(tmp_path: Path) -> None:
    path = written(tmp_path, content="epochs: 3")
    assert named_config(path) == SweepConfig(preset=path, recipe=Recipe(epochs=3))


def test_none_is_nothing_where_an_option_may_be_none(tmp_path: Path) -> None:
    config = named_config(written(tmp_path, "a.yaml", "run: None\ntuning: None\nlimit_images: None\nsecond_task: null"))
    assert (config.run, config.tuning, config.recipe.limit_images, config.recipe.second_task) == (None,) * 4


def test_the_command_line_overrides_the_file_and_the_file_what_it_extends(tmp_path: Path) -> None:
    written(tmp_path, "shared/base.yaml", "extends: demo\nepochs: 5\nbatch_size: 16\nseeds: 2\nrun: other\n")
    path = written(tmp_path, content="extends: shared/base.yaml\nbatch_size: 8\nseeds: 3\nrun: mine\n")
    config = parse_sweep([path, "--seeds", "4"], "sweep.py")
    assert (config.recipe.epochs, config.recipe.batch_size, config.seeds, config.run_name) == (5, 8, "4", "mine")
    assert config.recipe.backbone == "tiny"


def test_a_run_is_named_after_its_file_and_a_study_after_its_run(tmp_path: Path) -> None:
    config = named_config(written(tmp_path, "night-1.yml", "extends: demo"))
    assert (config.run_name, lambda_config(config).run_name) == ("night-1", "night-1-lambda")


def test_a_preset_wins_over_a_file_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("demo", "plain"):
        written(tmp_path, name, "extends: demo\nepochs: 3")
    assert named_config("demo") == PRESETS["demo"]
    assert named_config("plain").recipe.epochs == 3
    assert named_config("plain").run_name == "plain"


def test_variants_are_a_list_or_have_short_labels_that_change_no_identity(tmp_path: Path) -> None:
    listed = named_config(written(tmp_path, content="variants: [baseline, 'multi-attention:num_masks=8']"))
    named = named_config(
        written(tmp_path, content="variants:\n  baseline: baseline\n  big: multi-attention:num_masks=8\n")
    )
    assert named.variant_specs == listed.variant_specs
    assert [spec.folder for spec in named.variant_specs] == ["baseline", "multi-attention__num_masks=8"]
    assert [spec.title for spec in named.variant_specs] == ["baseline", "big"]
    assert [spec.title for spec in listed.variant_specs] == ["baseline", "multi-attention:num_masks=8"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory whose heads are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    EXTERNAL.clear()
    HEAD_CLASSES.clear()


HEAD = """from catdog.config.head_registry import register_head

@register_head("mine")
class Mine:
    def __init__(self, in_channels, num_classes): ...
"""


def test_a_file_may_import_heads(here: Path) -> None:
    written(here, "mine.py", HEAD)
    config = named_config(written(here, content="import: [mine.py]\nvariants: [mine]"))
    assert (config.imports, config.variant_specs[0].label) == (("mine.py",), "mine")
    again = named_config(written(here, "again.yaml", recipe_yaml(config)))
    assert again == dataclasses.replace(config, preset=again.preset, run="my")
    with pytest.raises(UserError, match=r"my.yaml: import none.py: no such file"):
        named_config(written(here, content="import: [none.py]"))


def test_a_file_gives_variants_settings_of_their_own_and_a_grid_which_files_that_extend_it_keep(here: Path) -> None:
    (here / "base.yaml").write_text("grid: ['num_masks=2,8']\nvariants: {m: 'multi-attention:epochs=3'}\n")
    config = named_config("base.yaml")
    assert [spec.label for spec in config.variant_specs] == [
        "multi-attention:num_masks=2,epochs=3",
        "multi-attention:num_masks=8,epochs=3",
    ]
    assert [spec.title for spec in config.variant_specs] == ["m 2", "m 8"]
    (here / "child.yaml").write_text("extends: base.yaml\nvariants: [multi-attention-free]\n")
    assert next(spec.label for spec in named_config("child.yaml").variant_specs) == "multi-attention-free:num_masks=2"
    (here / "other.yaml").write_text("extends: base.yaml\ngrid: ['epochs=1,2']\nvariants: [baseline]\n")
    assert [spec.label for spec in named_config("other.yaml").variant_specs] == [
        "baseline:epochs=1",
        "baseline:epochs=2",
    ]


def test_imports_on_the_command_line_replace_those_of_the_file(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("mine", "yours", "theirs"):
        written(here, f"{name}.py", HEAD.replace('"mine"', f'"{name}"'))
    path = written(here, content="import: [mine.py]\nvariants: [mine]")
    own = ["--import", "yours.py", "--import=theirs.py"]
    assert parse_sweep([path], "sweep.py").imports == ("mine.py",)
    assert parse_sweep([path, *own, "--variants", "yours", "theirs"], "sweep.py").imports == ("yours.py", "theirs.py")
    with pytest.raises(UserError, match=r"unknown variant 'mine'"):
        parse_sweep([path, *own], "sweep.py")
    with pytest.raises(SystemExit):
        parse_sweep([path, "--help"], "sweep.py")
    assert "(default: mine.py)" in " ".join(capsys.readouterr().out.split())


def test_only_the_last_imports_and_variants_count(here: Path) -> None:
    (here / "base.yaml").write_text("import: [gone.py]\nvariants: [nowhere]\nepochs: 3\n")
    written(here, "heads.py", HEAD)
    (here / "child.yaml").write_text("extends: base.yaml\nimport: [heads.py]\nvariants: [baseline, mine]\n")
    config = named_config("child.yaml")
    assert (config.imports, config.variants, config.recipe.epochs) == (("heads.py",), ("baseline", "mine"), 3)
    with pytest.raises(UserError, match=r"^base\.yaml: import gone\.py: no such file"):
        named_config("base.yaml")


def test_help_shows_the_files_values_as_defaults(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_sweep([written(tmp_path, content="epochs: 77"), "--help"], "sweep.py")
    assert "(default: 77)" in capsys.readouterr().out


WRONG: dict[str, tuple[str | bytes, str]] = {
    "misspelt": ("learing_rate: 1", "learing_rate: no such setting; perhaps learning_rate"),
    "with hyphens": ("learning-rate: 1", "learning-rate: no such setting; perhaps learning_rate"),
    "preset": ("preset: demo", "preset: no such setting; perhaps extends"),
    "unlike any": ("'#': 1", "#: no such setting; perhaps "),
    "out of range": ("learning_rate: 200", "learning_rate 200.0: must be above 0 and below 100"),
    "two that do not fit": ("backbone: tiny", "weights imagenet: the backbone tiny has no pretrained weights"),
    "no number": ("learning_rate: fast", "learning_rate: 'fast' is not a number"),
    "other digits": ("epochs: 1_000", "epochs: '1_000' is not an integer"),
    "no choice": ("schedule: linear", "schedule: 'linear': choose from one-cycle, cosine"),
    "no boolean": ("flip: 1", "flip: '1' is neither true nor false"),
    "nothing": ("epochs:", "epochs: has no value; give one"),
    "list for a value": ("epochs: [1, 2]", "epochs: give a single value"),
    "mapping for a value": ("recipe: {epochs: 1}", "recipe: no such setting"),
    "variants as text": ("variants: baseline", "variants: give a list"),
    "unknown variant": ("variants: [bas]", "unknown variant 'bas': choose from baseline"),
    "short label twice": ("variants: {a: se, a: attention}", "variant 'a=attention': its short label is taken"),
    "short label of markup": ("variants: {'<b>': se}", "short label '<b>' of variant 'se': use 1 to 40 letters"),
    "given twice": ("epochs: 1\nseeds: 3\nepochs: 2", "epochs: given twice, the second time in line 3; keep one"),
    "no setting": ("dry_run: true", "dry_run: no setting; give --dry-run on the command line"),
    "unknown base": ("extends: dmeo", "extends dmeo: choose from demo, pets-frozen, pets-cpu, paper, or name a"),
    "itself": ("extends: my.yaml", "my.yaml: a recipe file cannot extend itself"),
    "empty": ("# nothing\n", "is empty"),
    "a list": ("- epochs: 1", "is no mapping"),
    "text": ("epochs", "is no mapping"),
    "no YAML": ("epochs: [1", "line 1: "),
    "a tab": ("epochs:\n\t- 1", "line 2: "),
    "two documents": ("epochs: 1\n---\nepochs: 2", "line 2: "),
    "a tag": ("run: !!python/object/apply:os.system ['touch x']", "line 1: tags, anchors and aliases"),
    "an alias": ("run: &x a\nstore: *x", "line 1: tags, anchors and aliases"),
    "deep": ("variants: [[[[[[" + "[" * 100_000, "line 1: is nested too deeply"),
    "control characters": ("run: a\0", "special characters are not allowed"),
    "no character": (r'run: "\UFFFFFFFF"', "my.yaml: "),
    "not UTF-8": (b"run: \xff", "is not UTF-8 text"),
    "too large": (b"#" * (MOST_BYTES + 1), "has more than 200,000 bytes"),
}


@pytest.mark.parametrize(("content", "message"), WRONG.values(), ids=WRONG)
def test_a_mistake_is_one_line_that_names_the_file(content: str | bytes, message: str, tmp_path: Path) -> None:
    path = written(tmp_path, content=content)
    with pytest.raises(UserError) as caught:
        named_config(path)
    assert str(caught.value).startswith(f"{path}: ") or "which extends" in str(caught.value)
    assert message in str(caught.value)
    assert "--" not in str(caught.value) or message.startswith("dry_run")
    assert "\n" not in str(caught.value)


def test_what_is_no_file_or_goes_in_circles_is_named(tmp_path: Path) -> None:
    (tmp_path / "folder.yaml").mkdir()
    os.mkfifo(tmp_path / "pipe.yaml")
    written(tmp_path, "a.yaml", "extends: b.yaml")
    written(tmp_path, "b.yaml", "extends: ./a.yaml")
    written(tmp_path, "läufe.yaml", "epochs: 3")
    for name, message in {
        "folder.yaml": "is no file", "pipe.yaml": "is no file", "none.yaml": "there is no such file",
        "x" * 300 + ".yaml": "there is no such file", "läufe.yaml": "run läufe: use 1 to 100 letters",
        "a.yaml": "cannot extend itself",
    }.items():  # fmt: skip
        with pytest.raises(UserError, match=message):
            named_config(str(tmp_path / name))


@given(st.one_of(st.binary(max_size=60), st.text(max_size=60).map(str.encode)))
def test_any_content_is_a_sweep_or_one_line(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = written(tmp_path_factory.getbasetemp(), "any.yaml", content)
    message = path
    try:
        named_config(path)
    except UserError as error:
        message = str(error)
    assert message.startswith(path)


def numbers(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(low, high, allow_subnormal=False, exclude_max=True)


TEXT = st.text(st.characters(), min_size=1, max_size=20)
RECIPES = st.fixed_dictionaries(
    {},
    optional={
        "dataset": st.sampled_from(["drawn", "oxford-iiit-pet"]),
        "weights": TEXT,
        "epochs": st.integers(1, 100_000),
        "learning_rate": numbers(1e-30, 100),
        "weight_decay": numbers(0, 10),
        "lambda_divergence": numbers(1e-12, 1e6),
        "crop_scale": numbers(1e-9, 1),
        "flip": st.booleans(),
        "limit_images": st.none() | st.integers(1, 10_000_000),
        "optimizer": st.sampled_from(["adamw", "sgd"]),
        "vary": st.sampled_from(["all", "init", "order"]),
    },
)
SWEEPS = st.fixed_dictionaries(
    {},
    optional={
        "run": st.sampled_from(["null", "no", "1", "1e3", "2026-07-01", "0x1f", "a-b"]),
        "store": TEXT,
        "data_root": st.none() | TEXT,
        "variants": st.sampled_from(
            [("se",), ("baseline", "8 masks=multi-attention:num_masks=8"), ("1=se", "null=attention:dropout=0.1")]
        ),
        "seeds": st.sampled_from(["30", "0-9", "0-4,7", "5-5"]),
        "gpus_per_trial": st.none() | numbers(0, 1),
        "checkpoint_seconds": numbers(0, 1e300),
        "tracker": st.sampled_from(["none", "mlflow"]),
    },
)


@given(preset=st.sampled_from(list(PRESETS)), recipe=RECIPES, options=SWEEPS)
def test_the_effective_file_says_all_of_a_sweep(
    tmp_path_factory: pytest.TempPathFactory, preset: str, recipe: dict[str, Any], options: dict[str, Any]
) -> None:
    base = PRESETS[preset]
    if base.recipe.backbone == "tiny":
        recipe.pop("weights", None)
    config = dataclasses.replace(base, **options, recipe=dataclasses.replace(base.recipe, **recipe))
    text = recipe_yaml(config)
    assert text.isascii()
    path = written(tmp_path_factory.getbasetemp(), "effective.yaml", text)
    assert named_config(path) == dataclasses.replace(config, preset=path, run=config.run_name)
    assert recipe_yaml(named_config(path)) == text


def test_the_effective_file_lists_every_option_in_order() -> None:
    names = [field.name for field in dataclasses.fields(Recipe)]
    assert list(yaml.safe_load(recipe_yaml(PRESETS["paper"]))) == list(SETTINGS)
    assert set(SETTINGS.values()) == {f.name for f in dataclasses.fields(SweepConfig)} - {
        "preset",
        "imported",
        "recipe",
        "dry_run",
        "notify",
    } | {*names}
    assert all(math.isfinite(value) for value in yaml.safe_load(recipe_yaml(PRESETS["demo"])).values()
               if isinstance(value, float))  # fmt: skip


@given(st.sets(st.integers(0, 300), min_size=1, max_size=30))
def test_seeds_are_written_as_they_are_read(seeds: set[int]) -> None:
    assert parse_seeds(format_seeds(seeds)) == tuple(sorted(seeds))


def test_print_config_starts_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = tmp_path / "store"
    arguments = ["demo", "--store", str(store), "--epochs", "3"]
    assert sweep.main([*arguments, "--print-config"]) == 0
    path = written(tmp_path, content=capsys.readouterr().out)
    assert named_config(path) == dataclasses.replace(parse_sweep(arguments, "sweep.py"), preset=path, run="demo")
    assert not store.exists()
