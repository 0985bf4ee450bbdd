"""A report shows the recipe file that makes its run again, and calls variants by their short labels."""

import dataclasses
import io
import logging
from pathlib import Path

import pandas as pd
import pytest

from catdog.analysis.run_data import MOST_RECIPE_BYTES, read_content
from catdog.config.presets import PRESETS
from catdog.config.recipe_file import MOST_BYTES, named_config
from catdog.formatting import markdown_code
from catdog.report.build import build_files
from catdog.report.origin import MAKE_AGAIN
from catdog.report.publish import publish_run
from catdog.runs.declaration import Declaration
from catdog.runs.paths import RunPaths
from catdog.runs.status import open_run
from catdog.runs.tuning import Tuning
from catdog.storage import LocalStore
from catdog.sweep.plan import whole_run_yaml
from tests.helpers.made_runs import make_run
from tests.helpers.pages import text_of

EIGHT = "multi-attention:num_masks=8"
SHORT = {"baseline": "plain", EIGHT: "8 masks"}
RUN = RunPaths("made")


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    store = LocalStore(tmp_path / "store")
    make_run(store, ["baseline", "attention", EIGHT], range(3), epochs=2, test_images=74, image_side=32,
             missing=[(EIGHT, 2)])  # fmt: skip
    return store


def test_short_labels_change_names_and_no_figure(store: LocalStore) -> None:
    before = build_files(read_content(store, open_run(store, "made")))
    manifest = open_run(store, "made").manifest
    store.put(RUN.manifest, dataclasses.replace(manifest, short_labels=SHORT).to_json())
    after = build_files(read_content(store, open_run(store, "made")))
    for name in ("table.csv", "trials.csv", "contrasts.csv"):
        plain, short = (pd.read_csv(io.BytesIO(files[name])) for files in (before, after))
        renamed = plain.replace({column: SHORT for column in ("variant", "reference") if column in plain})
        pd.testing.assert_frame_equal(
            renamed.drop(columns="verdict", errors="ignore"), short.drop(columns="verdict", errors="ignore")
        )
    assert before.keys() == after.keys()
    assert all(before[name] == after[name] for name in before if name.startswith("figures/masks-"))
    table, page = after["table.md"].decode(), text_of(after["report.html"])
    assert "| 8 masks | 2 of 3 |" in table
    assert "missing: 8 masks seed 2" in table
    assert f"- 8 masks is {markdown_code(EIGHT)}" in table
    assert table.count(EIGHT) == page.count(EIGHT) == 1, "where the short label is explained"
    assert (
        open_run(store, "made").with_short_labels() == open_run(store, "made").with_short_labels().with_short_labels()
    )


def test_a_report_holds_the_recipe_file_that_makes_the_run_again(store: LocalStore, tmp_path: Path) -> None:
    assert "recipe.yaml" not in build_files(read_content(store, open_run(store, "made")))
    recipe = "run: <made>\nvariants:\n- baseline\n"
    store.put(RUN.recipe, recipe.encode())
    target = LocalStore(tmp_path / "target")
    publish_run(store, open_run(store, "made"), target)
    for one in (store, target):
        files = build_files(read_content(one, open_run(one, "made")))
        assert files["recipe.yaml"].decode() == recipe
        assert markdown_code(MAKE_AGAIN) in files["table.md"].decode()
        assert b"<code>run: &lt;made&gt;\nvariants:\n- baseline\n</code>" in files["report.html"]
        assert MAKE_AGAIN in text_of(files["report.html"])


def test_a_recipe_file_that_is_none_is_left_out_and_named(store: LocalStore, caplog: pytest.LogCaptureFixture) -> None:
    assert MOST_RECIPE_BYTES == MOST_BYTES
    for content in (b"\xff", b"#" * (MOST_BYTES + 1)):
        store.put(RUN.recipe, content)
        with caplog.at_level(logging.WARNING):
            assert read_content(store, open_run(store, "made")).recipe_file is None
        assert "made/recipe.yaml is no recipe file" in caplog.text


def test_the_recipe_of_a_run_has_all_its_variants_and_seeds_and_its_settled_precision(
    store: LocalStore, tmp_path: Path
) -> None:
    manifest = dataclasses.replace(open_run(store, "made").manifest, short_labels={EIGHT: "8 masks"})
    manifest = manifest.extended(("baseline",), (7,), ())
    config = dataclasses.replace(PRESETS["pets-frozen"], data_root="/here", seeds="1")
    (tmp_path / "recipe.yaml").write_text(whole_run_yaml(config, manifest))
    whole = named_config(str(tmp_path / "recipe.yaml"))
    assert (whole.run_name, whole.seeds, whole.data_root) == ("made", "0-2,7", None)
    assert whole.variants == ("baseline", "attention", f"8 masks={EIGHT}")
    assert whole.recipe == dataclasses.replace(config.recipe, precision="float32")
    assert (whole.reference, whole.primary, whole.until_decided) == ("baseline", "attention", False)


def test_the_recipe_of_a_run_declares_what_an_earlier_launch_declared(store: LocalStore, tmp_path: Path) -> None:
    manifest = open_run(store, "made").manifest
    declared = Declaration("attention", "baseline", 0.3, (6, 10), tuple(range(10)))
    tuning = Tuning("search", 1, (1000,), (), {})
    manifest = dataclasses.replace(manifest, declared=(declared,), tuning=tuning)
    manifest = manifest.extended(("baseline",), tuple(range(14)), ())
    (tmp_path / "recipe.yaml").write_text(whole_run_yaml(PRESETS["pets-frozen"], manifest))
    whole = named_config(str(tmp_path / "recipe.yaml"))
    assert (whole.reference, whole.primary, whole.smallest_effect) == ("attention", "baseline", 0.3)
    assert (whole.look_list, whole.seeds, whole.tuning) == ((6, 10), "10", "search")
