"""jobs/compare.py on runs in a store: what it prints and writes, its exit codes, and mistakes."""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from catdog.analysis.across_sets import AcrossSets, compare_sets
from catdog.analysis.between_runs import compare_runs
from catdog.analysis.sets import sets_of
from catdog.api import load_run
from catdog.cli import run_job
from catdog.config.recipe import Recipe
from catdog.report.forest_plot import forest_plot
from catdog.report.several_runs import render
from catdog.report.tables import Table
from catdog.storage import LocalStore, MemoryStore
from jobs import compare
from tests.helpers.made_runs import make_run

SMALL = {"epochs": 1, "classes": 3, "test_images": 60}
R50 = "backbone=resnet50"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two sets of one run, one of another, and a run that is not complete."""
    folder, effect = tmp_path_factory.mktemp("store"), {"se": 12.0, f"se:{R50}": 12.0}
    labels = ("baseline", "se", f"baseline:{R50}", f"se:{R50}", "gem")
    make_run(LocalStore(folder), labels, range(8), run="pets", effect=effect, **SMALL)  # type: ignore[arg-type]
    recipe = Recipe(precision="float32", image_size=64)
    make_run(LocalStore(folder), labels[:2], range(8), run="small", effect=effect, recipe=recipe, **SMALL)  # type: ignore[arg-type]
    recipe, failed = Recipe(precision="float32"), [("se", 1)]
    make_run(LocalStore(folder), labels[:2], range(2), run="torn", recipe=recipe, failed=failed, **SMALL)  # type: ignore[arg-type]
    return str(folder)


def test_the_sentences_come_first_then_the_numbers_and_the_files(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_job(compare.main, ["pets", "small", "--store", store]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("se is better than baseline on all 3 sets.\n  From +")
    assert "gem, which ran on 1 of the 3 sets, against baseline: undecided on pets.\n" in printed
    assert "compare/across.png" in printed
    effects, all_sets = (pd.read_csv(f"compare/{name}.csv") for name in ("across", "across_all"))
    assert list(effects) == [
        "set", "run", "dataset", "backbone", "variant", "reference", "n", "difference", "difference_low",
        "difference_high", "p", "p_adjusted", "outcome", "smallest_effect",
    ]  # fmt: skip
    assert list(all_sets) == [
        "variant", "sets", "better", "worse", "equivalent", "undecided", "p_all", "p_all_adjusted", "mean", "mean_low",
        "mean_high", "sentence",
    ]  # fmt: skip
    assert list(zip(effects["set"], effects["backbone"], effects["variant"], strict=True)) == [
        ("pets", "timm/tf_efficientnet_lite0", "se"), (f"pets {R50}", "resnet50", "se"), ("small", "resnet34", "se"),
        ("pets", "timm/tf_efficientnet_lite0", "gem"),
    ]  # fmt: skip
    assert all_sets["sentence"][0] == "se is better than baseline on all 3 sets."
    assert (all_sets["sets"].tolist(), all_sets["undecided"].tolist()) == ([3, 1], [0, 1])
    assert Path("compare/across.png").read_bytes().startswith(b"\x89PNG")


def test_runs_are_compared_with_the_first_in_every_format(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = Recipe(precision="float32", split_seed=1)
    make_run(LocalStore(Path(store)), ["baseline"], range(8), run="other_split", recipe=recipe, **SMALL)  # type: ignore[arg-type]
    assert run_job(compare.main, ["pets", "small", "other_split", "--store", store, "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "paired by seed" in printed
    assert "unpaired: another split" in printed
    between = pd.read_csv(tmp_path / "between.csv")
    assert list(zip(between["variant"], between["run"], between["unpaired"].fillna(""), strict=True)) == [
        ("baseline", "small", ""), ("baseline", "other_split", "another split"), ("se", "small", ""),
    ]  # fmt: skip
    runs = pd.read_csv(tmp_path / "runs.csv").set_index(["run", "variant"])["test_mean"]
    for _, row in between.iterrows():
        means = runs[row["run"], row["variant"]] - runs["pets", row["variant"]]
        assert row["difference"] == pytest.approx(means, abs=1e-5)
        assert row["difference_low"] <= row["difference"] <= row["difference_high"]
    assert (between["p"] <= between["p_adjusted"]).all()
    tex, page, text = ((tmp_path / f"compare.{ending}").read_text() for ending in ("tex", "html", "md"))
    assert tex.count(r"\begin{tabular}") == tex.count(r"\bottomrule") == 3
    assert r"other\_split" in tex
    assert r"$\pm$" in tex
    assert "<td>8, 8</td>" in page
    assert 'src="data:image/png;base64,' in page
    assert "| baseline | small − pets | 8 |" in text

    assert run_job(compare.main, ["pets", "--store", store, "--out", str(tmp_path / "one"), "--format", "latex"]) == 0
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["compare.tex"]


def test_latex_shows_the_characters_that_its_default_font_lacks() -> None:
    table = Table("Runs", ("p",), (("< 0.001",), ("a|b_{c} −1 \\x",)))
    (text,) = re.findall(r"\\midrule\n(.*)\\bottomrule", render("latex", [table], [], None).decode(), re.DOTALL)
    assert text == "$<$ 0.001 \\\\\n" r"a$|$b\_\{c\} $-$1 \textbackslash{}x \\" "\n"


def test_runs_of_a_single_variant_have_no_effects_but_a_difference(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, size in (("one", 64), ("two", 96)):
        recipe = Recipe(precision="float32", image_size=size)
        make_run(LocalStore(tmp_path), ["baseline"], range(3), run=name, recipe=recipe, **SMALL)  # type: ignore[arg-type]
    assert run_job(compare.main, ["one", "two", "--store", str(tmp_path), "--out", str(tmp_path / "out")]) == 0
    assert not (tmp_path / "out" / "across.png").exists()
    assert "two − one" in (tmp_path / "out" / "compare.md").read_text()
    assert run_job(compare.main, ["one", "--store", str(tmp_path)]) == 2
    assert "run one: has a single variant, nothing to compare: name another run" in capsys.readouterr().err


def test_a_dataset_in_a_folder_whose_name_is_no_utf_8_is_compared(tmp_path: Path) -> None:
    names = {"recipe": Recipe(dataset="folder:photos\udce9", precision="float32"), "classes": ["photos\udce9", "b"]}
    make_run(LocalStore(tmp_path), ["baseline", "se"], range(6), run="one", **(SMALL | names))  # type: ignore[arg-type]
    assert run_job(compare.main, ["one", "--store", str(tmp_path), "--out", str(tmp_path / "out")]) == 0
    assert pd.read_csv(tmp_path / "out" / "across.csv")["dataset"].tolist() == [r"folder:photos\udce9"]
    assert set(load_run(str(tmp_path), "one").predictions["label"]) == {r"photos\udce9", "b"}


def test_runs_that_share_few_of_their_seeds_are_not_paired_by_those_few(tmp_path: Path) -> None:
    store, recipe = LocalStore(tmp_path), Recipe(precision="float32")
    runs = [
        make_run(store, ["baseline"], seeds, run=f"from{seeds.start}", recipe=recipe, **SMALL)  # type: ignore[arg-type]
        for seeds in (range(8), range(1, 9), range(6, 14), range(8, 16), range(2), range(1))
    ]
    found = [(one.n, one.unpaired) for one in compare_runs(runs)]
    assert found == [
        ((7, 7), None),
        ((8, 8), "2 seeds in common"),
        ((8, 8), "no seed in common"),
        ((2, 2), None),
        ((1, 1), None),
    ]
    *_, two, one = compare_runs(runs)
    assert two.p == two.p_adjusted == 1.0
    assert (one.p, one.p_adjusted, one.interval) == (None, None, None), "nothing can be said of one pair"


def test_a_run_whose_trials_are_all_equal_is_compared_with_another(tmp_path: Path) -> None:
    store, recipe = LocalStore(tmp_path), Recipe(precision="float32")
    one, other = (
        make_run(store, ["baseline"], seeds, run=f"from{seeds.start}", recipe=recipe, **SMALL)  # type: ignore[arg-type]
        for seeds in (range(4), range(4, 8))
    )
    equal = dataclasses.replace(
        one,
        trials=[
            dataclasses.replace(trial, result=dataclasses.replace(trial.result, test_accuracy=90.0))
            for trial in one.trials
            if trial.result is not None
        ],
    )
    (found,) = compare_runs([equal, other])
    assert found.interval is not None
    assert found.interval.low < found.mean < found.interval.high


def test_a_run_that_is_not_complete_is_named(store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_job(compare.main, ["torn", "--store", store, "--out", str(tmp_path)]) == 1
    assert "  run torn: 1 of 4 trials failed or are missing\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ([], "usage: compare.py RUN [RUN ...] [options]"),
        (["pets", "pets"], "RUN pets: given 2 times; keep one"),
        (["no-run"], "RUN no-run: there is no such run in"),
        (["no/run"], "RUN no/run: use 1 to 100 letters"),
        (["pets", "--format", "pdf"], "--format pdf: no format 'pdf'; choose from html, md, latex, csv, png"),
        (["pets", "--out", ""], "--out: empty; give the folder"),
        (["pets", "--out", "/proc/nowhere"], "--out /proc/nowhere"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[str], problem: str, store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_job(compare.main, [*arguments, "--store", store]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {problem}")
    assert error.count("\n") == 1


def test_the_forest_plot_has_room_for_all_and_is_drawn_alike_again() -> None:
    heads = ("baseline", "se", "gem", "max", "eca", "ep", "abmil", "attention")

    def found_on(sets: int) -> Sequence[AcrossSets]:
        labels = [f"{head}:learning_rate=0.{number}" for head in heads for number in range(1, sets + 1)]
        return compare_sets(sets_of(make_run(MemoryStore(), labels, range(6), smallest_effect=1.0, **SMALL), None))  # type: ignore[arg-type]

    on_one, on_two, on_eight = found_on(1), found_on(2), found_on(8)
    assert [(len(found), len(found[0].sets)) for found in (on_one, on_two, on_eight)] == [(7, 1), (7, 2), (7, 8)]
    one, fewer, two, eight = (png_size(forest_plot(found)) for found in (on_one, on_one[:3], on_two, on_eight))
    assert forest_plot(on_two) == forest_plot(on_two)
    assert one[1] > fewer[1], "a row per contender"
    assert two[1] < 1.2 * one[1], "a panel per set"
    assert eight[0] > two[0], "six panels beside each other"
    assert eight[1] > 1.8 * one[1], "the seventh contender's panel is below"


def png_size(png: bytes) -> tuple[int, int]:
    return int.from_bytes(png[16:20], "big"), int.from_bytes(png[20:24], "big")


def test_a_contrast_between_runs_calls_a_variant_as_the_tables_of_its_run_do(tmp_path: Path) -> None:
    label, store = "baseline:label_smoothing=0.2", LocalStore(tmp_path)
    runs = [make_run(store, [label], range(8), run=run, **SMALL) for run in ("one", "two")]  # type: ignore[arg-type]
    named = [dataclasses.replace(run, manifest=run.manifest.renamed({label: "smooth"})) for run in runs]
    assert [one.variant for one in compare_runs(named)] == ["smooth"]


def test_contrasts_between_runs_do_not_depend_on_their_order(tmp_path: Path) -> None:
    store, tuned = LocalStore(tmp_path), "baseline:learning_rate=0.1"
    plain = make_run(store, ["baseline"], range(8), run="plain", **SMALL)  # type: ignore[arg-type]
    other = make_run(store, [tuned, "baseline"], range(8), run="tuned", **SMALL)  # type: ignore[arg-type]
    manifest = other.manifest.renamed({tuned: "baseline", "baseline": "mean"})
    other = dataclasses.replace(other, manifest=manifest)
    (one,), (back,) = compare_runs([plain, other]), compare_runs([other, plain])
    assert one.variant == back.variant == "baseline"
    assert one.mean == -back.mean
    means = [np.mean([of.test_accuracy for of in run.results(run.manifest.variants[0])]) for run in (other, plain)]
    assert one.mean == pytest.approx(means[0] - means[1]), "the tuned one, which the other run calls baseline"


def test_a_variant_with_a_short_label_in_one_run_only_is_compared(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    first, other = (make_run(store, ["baseline", "se"], range(8), run=run, **SMALL) for run in ("one", "two"))  # type: ignore[arg-type]
    named = dataclasses.replace(other, manifest=other.manifest.renamed({"se": "squeeze"}))
    there, back = compare_runs([first, named]), compare_runs([named, first])
    assert [one.variant for one in there] == ["baseline", "se"]
    assert [one.variant for one in back] == ["baseline", "squeeze"]
    assert [one.mean for one in there] == [-one.mean for one in back]
