"""The published form of a run: small, and the same report is built from it."""

import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest

from catdog.analysis.run_data import read_content
from catdog.cli import run_job
from catdog.report.build import build_files
from catdog.report.csv_text import csv_bytes
from catdog.report.published_figures import published as published_figures
from catdog.runs.artifacts import SPLITS, Deletion, deletion_json, read_predictions_npz
from catdog.runs.paths import RunPaths
from catdog.runs.results import best_run
from catdog.runs.status import open_run
from catdog.storage import LocalStore
from jobs import aggregate, publish
from tests.helpers.made_runs import add_files, make_run, put_trimaps
from tests.helpers.pages import content_of, text_of
from tests.helpers.project import ROOT

RUN = RunPaths("made")
PUBLISHED = ROOT / "results" / "published"


@pytest.fixture
def store(tmp_path: Path, request: pytest.FixtureRequest) -> LocalStore:
    """A run with every outcome of a trial, measured against trimaps; its parameter: the stages with masks."""
    store = LocalStore(tmp_path / "store")
    labels = ["baseline", "attention", "multi-attention"]
    run_status = make_run(
        store, labels, range(4), epochs=3, test_images=80, image_side=32, stages=getattr(request, "param", None),
        failed=[("baseline", 3)], diverged=[("attention", 3)], missing=[("multi-attention", 3)],
    )  # fmt: skip
    falls = Deletion(9, masks=2.0, random=1.0, centre=1.5)
    for seed in range(3):
        attention = RUN.trial("attention", seed)
        maps = store.get(attention.attention)
        sheet = store.get(attention.snapshot(0))
        add_files(store, RUN.trial("baseline", seed), {"grad-cam.npz": maps, "snapshots/grad-cam.png": sheet})
        add_files(store, attention, {"deletion.json": deletion_json({"validation": falls, "test": falls})})
    store.put(RUN.head_file("0" * 16, "parts/heads.py"), b"import torch\n")
    put_trimaps(store, run_status, np.arange(64).reshape(8, 8) % 8 < 4)
    return store


def publish_made(store: LocalStore, target: Path, *options: str) -> int:
    return run_job(publish.main, ["--store", store.url, "--run", "made", "--to", str(target), *options])


@pytest.mark.parametrize("store", [None, {"layer3": 9}], indirect=True, ids=["head", "head and stage"])
def test_the_published_form_gives_the_same_report_with_the_masks_of_the_best_runs(
    store: LocalStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = build_files(read_content(store, open_run(store, "made")))
    assert b"baseline (Grad-CAM),test," in before["attention.csv"]
    assert {"figures/grad-cam-baseline.png", "figures/masks-attention.png"} <= before.keys()
    page = text_of(before["report.html"])
    assert "Where heads without masks look: Grad-CAM" in page
    assert "(95 % intervals over 3 seeds)" in page
    assert publish_made(store, tmp_path / "out") == 1, "not all trials are complete"
    out = LocalStore(tmp_path / "out")
    after = {name: out.get(RUN.report(name)) for name in before}
    assert [name for name in before if before[name] != after[name]] == ["report.html"]
    told = "4 trials of these variants keep no masks: the published form has those of the best runs only."
    assert told in text_of(after["report.html"])
    assert told not in text_of(before["report.html"])
    capsys.readouterr()
    assert run_job(aggregate.main, ["--store", out.url, "--run", "made"]) == 1
    assert {name: out.get(RUN.report(name)) for name in before} == after


def test_a_published_trial_keeps_what_it_predicted_and_only_the_best_run_its_masks(
    store: LocalStore, tmp_path: Path
) -> None:
    publish_made(store, tmp_path / "out")
    out, status = LocalStore(tmp_path / "out"), open_run(store, "made")
    best = best_run(status.results("attention"))
    assert best is not None
    for where, result in status.finished.items():
        kept = {key.removeprefix(f"{where.folder}/") for key in out.list(f"{where.folder}/")}
        expected = {"result.json", "history.csv"}
        if result.status == "complete":
            expected |= {"predictions.npz", "grad-cam.json" if result.variant == "baseline" else "localization.json"}
            expected |= {"deletion.json"} if result.variant == "attention" else set()
            for split in SPLITS:
                whole, small = (read_predictions_npz(one.get(where.predictions), split) for one in (store, out))
                assert np.array_equal(whole.predicted_N, small.predicted_N)
                np.testing.assert_allclose(whole.log_probability_N, small.log_probability_N, rtol=1e-3, atol=1e-6)
        if result == best_run(status.results(result.variant)):
            sheets = {"masks.npz", f"snapshots/epoch-{result.best_epoch:03d}.png"}
            expected |= {"snapshots/grad-cam.png"} if result.variant == "baseline" else sheets
        assert kept == expected
    assert out.list(RUN.launches) == store.list(RUN.launches)
    assert [out.get(key) for key in out.list(RUN.imports)] == [b"import torch\n"], "recipe.yaml may name it"
    assert not out.list("datasets/")


def test_the_table_and_figure_of_a_study_are_published_with_the_run_that_has_them(
    store: LocalStore, tmp_path: Path
) -> None:
    store.put(RUN.report("scatter.csv"), b"variant,vary\n")
    store.put(RUN.report("figures/scatter.png"), b"a figure")
    publish_made(store, tmp_path / "out")
    out = LocalStore(tmp_path / "out")
    assert (out.get(RUN.report("scatter.csv")), out.get(RUN.report("figures/scatter.png"))) == (
        b"variant,vary\n", b"a figure",
    )  # fmt: skip


def test_publishing_again_leaves_nothing_over_and_changes_nothing(store: LocalStore, tmp_path: Path) -> None:
    publish_made(store, tmp_path / "out")
    out = LocalStore(tmp_path / "out")
    before = {key: out.get(key) for key in out.list("made/")}
    out.put(RUN.trial("baseline", 0).masks, b"of an earlier best run")
    publish_made(store, tmp_path / "out")
    assert {key: out.get(key) for key in out.list("made/")} == before
    publish_made(out, tmp_path / "again")
    again = LocalStore(tmp_path / "again")
    assert {key: again.get(key) for key in again.list("made/")} == before


def test_a_run_is_published_neither_over_itself_nor_over_another(
    store: LocalStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "link").symlink_to(store.url)
    assert publish_made(store, tmp_path / "link") == 2
    assert "is the run's own store" in capsys.readouterr().err
    more, other = LocalStore(tmp_path / "more"), LocalStore(tmp_path / "other")
    make_run(more, ["baseline"], range(5), epochs=1)
    make_run(other, ["baseline"], range(5), epochs=2)
    assert publish_made(other, tmp_path / "more") == 2
    assert "with another recipe (epochs: 1 → 2)" in capsys.readouterr().err
    fewer = LocalStore(tmp_path / "fewer")
    make_run(fewer, ["baseline"], range(3), epochs=1)
    assert publish_made(fewer, tmp_path / "more") == 2
    assert "has trials that this one lacks (2)" in capsys.readouterr().err
    assert run_job(publish.main, ["--run", "made", "--to", ""]) == 2
    assert "--to: empty" in capsys.readouterr().err


@pytest.mark.parametrize("run", [path.name for path in sorted(PUBLISHED.iterdir()) if (path / "report").exists()])
def test_the_published_tables_are_rebuilt_from_the_repository(run: str, tmp_path: Path) -> None:
    if (archive := PUBLISHED / run / "trials.tar.xz").exists():
        with tarfile.open(archive) as trials:
            trials.extractall(tmp_path, filter="data")
    else:
        shutil.copytree(PUBLISHED / run, tmp_path / run)
    store = LocalStore(tmp_path)
    content = read_content(store, open_run(store, run))
    tables = {"trials": content.trials, "table": content.table, "attention": content.attention}
    for name, table in tables.items():
        assert csv_bytes(table) == (PUBLISHED / run / "report" / f"{name}.csv").read_bytes()
    assert (published_figures(content) is not None) == (run != "demo"), "they are of pets"
    sizes = {path: path.stat().st_size for path in (PUBLISHED / run).rglob("*") if path.is_file()}
    report = {path: size for path, size in sizes.items() if "report" in path.parts}
    assert max(report.values()) <= 15_000_000
    assert sum(sizes.values()) - sum(report.values()) <= 9_000_000


def test_published_figures_stand_beside_no_other_images_of_the_same_dataset() -> None:
    content = content_of(["baseline"], range(1))
    assert content.run_status.manifest.identity.recipe.dataset == "oxford-iiit-pet"
    assert published_figures(content) is None
