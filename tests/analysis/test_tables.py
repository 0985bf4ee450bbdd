"""The comparison table of a run, read from a store: which trials are averaged and which are listed."""

import csv
import dataclasses
import io
import json
import math
import re
import statistics

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from catdog.analysis.intervals import summarise
from catdog.analysis.run_data import read_content
from catdog.analysis.tables import comparison_table, records, summary, tie_lines, trials_table
from catdog.formatting import format_accuracy
from catdog.report.build import build_files
from catdog.report.csv_text import csv_bytes
from catdog.report.terminal import print_status
from catdog.runs.cost import Launch
from catdog.runs.manifest import Identity
from catdog.runs.paths import RunPaths
from catdog.runs.results import Failure
from catdog.runs.status import RunStatus, missing_trials, open_run
from catdog.storage import MemoryStore
from catdog.storage.serialization import from_fields, to_json
from tests.helpers.hand_made_run import EIGHT, MANIFEST, hand_made_store, hash_of, paths_of, result
from tests.helpers.made_runs import put_small_trial
from tests.helpers.pages import text_of

TRIAL_COLUMNS = "variant,seed,status,val_accuracy,test_accuracy,best_epoch,epochs,seconds,config_hash"
TABLE_COLUMNS = "variant,n,val_mean,val_std,test_mean,test_std,best_val,best_val_test"


@pytest.fixture
def store() -> MemoryStore:
    return hand_made_store()


@pytest.fixture
def run_status(store: MemoryStore) -> RunStatus:
    return open_run(store, "night")


def test_one_value_has_no_deviation_and_no_values_have_no_mean() -> None:
    assert dataclasses.astuple(summarise([92.0])) == (1, 92.0, None)
    assert dataclasses.astuple(summarise([])) == (0, None, None)


@given(st.lists(st.floats(0, 100), min_size=2, max_size=40))
def test_the_deviation_agrees_with_pythons_statistics(values: list[float]) -> None:
    summary = summarise(values)
    assert summary.mean == pytest.approx(statistics.mean(values), abs=1e-9)
    assert summary.std == pytest.approx(statistics.stdev(values), abs=1e-6)


def test_the_table_has_the_promised_columns_and_one_row_for_each_planned_variant(run_status: RunStatus) -> None:
    table = comparison_table(run_status)
    assert ",".join(table.columns).startswith(TABLE_COLUMNS + ",")
    assert table["variant"].tolist() == ["baseline", EIGHT, "attention"]
    assert table["n"].tolist() == [3, 2, 0]
    assert table["planned"].tolist() == [3, 4, 2]


def test_the_table_averages_only_complete_trials(run_status: RunStatus) -> None:
    baseline, eight, attention = comparison_table(run_status).to_dict("records")
    assert (baseline["val_mean"], baseline["val_std"], baseline["test_mean"]) == (92.0, 2.0, 82.0)
    assert baseline["test_std"] == pytest.approx(math.sqrt(7))
    assert (baseline["best_val"], baseline["best_val_test"], baseline["best_seed"]) == (94.0, 85.0, 2)
    assert (eight["val_mean"], eight["val_std"]) == (92.0, pytest.approx(math.sqrt(2)))
    assert (eight["best_val"], eight["best_val_test"], eight["best_seed"]) == (93.0, 70.0, 3)
    assert eight["trial_seconds"] == 60.0, "the diverged trial took one"
    assert (eight["val_class_mean"], eight["test_class_mean"]) == (92.0, 82.5)
    assert all(pd.isna(attention[name]) for name in TABLE_COLUMNS.split(",")[2:])


def test_the_accuracies_of_other_tasks_follow_in_every_table_and_only_where_a_run_has_them(store: MemoryStore) -> None:
    status = open_run(store, "night")
    before = comparison_table(status).columns, trials_table(status).columns
    for seed, validation, test in ((0, 97.0, 96.0), (1, 99.0, 95.0)):
        earlier = next(one for one in status.results("baseline") if one.seed == seed)
        scores = {"val_species_accuracy": validation, "test_species_accuracy": test}
        put_small_trial(store, paths_of("baseline", seed), dataclasses.replace(earlier, side_accuracies=scores))
    status = open_run(store, "night")
    trials, table = trials_table(status), comparison_table(status)
    assert [*trials.columns] == [*before[1], "val_species_accuracy", "test_species_accuracy"]
    assert trials["val_species_accuracy"].head(3).tolist() == pytest.approx([97, 99, math.nan], nan_ok=True)
    names = [f"{split}_species_{kind}" for split in ("val", "test") for kind in ("mean", "std")]
    assert [*table.columns] == [*before[0], *names]
    assert table.loc[0, names].tolist() == pytest.approx([98.0, math.sqrt(2), 95.5, math.sqrt(0.5)])
    assert table.loc[1, names].isna().all()
    files = build_files(read_content(store, status))
    for told in (files["table.md"].decode(), files["report.html"].decode()):
        assert all(text in told for text in ("Species: Validation", "Species: Test", "98.00 ± 1.41", "95.50 ± 0.71"))
    assert "The accuracies of other tasks are those of the same epoch." in files["report.html"].decode()
    header, *rows = (line for line in files["table.md"].decode().splitlines() if line.startswith("|"))
    assert {row.count("|") for row in rows} == {header.count("|")}


def test_other_tasks_take_no_room_from_the_comparison_on_a_terminal(store: MemoryStore) -> None:
    shown = {}
    for tasks in ((), ("branch", "species")):
        for seed in (0, 1):
            earlier = next(one for one in open_run(store, "night").results("baseline") if one.seed == seed)
            scores = {f"{split}_{task}_accuracy": 97.0 + seed for task in tasks for split in ("val", "test")}
            put_small_trial(store, paths_of("baseline", seed), dataclasses.replace(earlier, side_accuracies=scores))
        console = Console(file=io.StringIO(), width=80)
        print_status(console, "memory", open_run(store, "night"))
        shown[tasks] = console.file.getvalue().splitlines()
    plain, both = shown.values()
    assert [line for line in both if line not in plain] == [
        "┏━━━━━━━━━━┳━━━━━━━━━━━━┳━━━━━━━━━━━━━━┳━━━━━━━━━━━━━━┓",
        "┃ variant  ┃ other task ┃   Validation ┃         Test ┃",
        "┡━━━━━━━━━━╇━━━━━━━━━━━━╇━━━━━━━━━━━━━━╇━━━━━━━━━━━━━━┩",
        "│ baseline │     branch │ 97.50 ± 0.71 │ 97.50 ± 0.71 │",
        "│ baseline │    species │ 97.50 ± 0.71 │ 97.50 ± 0.71 │",
        "└──────────┴────────────┴──────────────┴──────────────┘",
    ]


def test_missing_values_of_a_table_are_none() -> None:
    table = pd.DataFrame({"mean": [1.5, math.nan], "seed": pd.array([None, 3], "Int64"), "text": ["a", None]})
    assert records(table) == [{"mean": 1.5, "seed": None, "text": "a"}, {"mean": None, "seed": 3, "text": None}]


def test_runs_that_tie_for_the_best_validation_are_told_wherever_the_best_run_is(store: MemoryStore) -> None:
    put_small_trial(store, paths_of("baseline", 1), result("baseline", 1, 94.0, 80.5))
    table = comparison_table(open_run(store, "night"))
    baseline, eight, attention = table.to_dict("records")
    columns = ("best_seed", "best_ties", "best_ties_test_mean", "best_ties_test_low", "best_ties_test_high")
    assert [baseline[name] for name in columns] == [1, 2, 82.75, 80.5, 85.0]
    assert [eight[name] for name in columns] == [3, 1, 70.0, 70.0, 70.0]
    assert attention["best_ties"] == 0
    line = (
        "baseline: 2 runs tie for the best Validation, 94.00; their Test is 80.50 to 85.00, on average 82.75. The run "
        "shown is that of the lowest seed, 1."
    )
    assert tie_lines(table) == [line]
    console = Console(file=io.StringIO(), width=200)
    print_status(console, "memory", open_run(store, "night"))
    files = build_files(read_content(store, open_run(store, "night")))
    for told in (files["table.md"].decode(), text_of(files["report.html"]), console.file.getvalue()):
        assert line in told


def test_runs_that_tie_on_test_too_have_one_number(store: MemoryStore) -> None:
    put_small_trial(store, paths_of("baseline", 1), result("baseline", 1, 94.0, 85.0))
    (line,) = tie_lines(comparison_table(open_run(store, "night")))
    assert "their Test is 85.00. The run shown" in line


def test_a_variant_with_one_complete_trial_has_a_mean_but_no_deviation(store: MemoryStore) -> None:
    for seed in (1, 2):
        store.delete(paths_of("baseline", seed).result)
    row = comparison_table(open_run(store, "night")).to_dict("records")[0]
    assert (row["n"], row["val_mean"], row["best_val"]) == (1, 90.0, 90.0)
    assert pd.isna(row["val_std"])
    assert pd.isna(row["test_std"])


def test_the_trials_table_has_the_promised_columns_and_one_row_for_each_planned_trial(run_status: RunStatus) -> None:
    table = trials_table(run_status)
    assert ",".join(table.columns).startswith(TRIAL_COLUMNS + ",")
    planned = [(label, seed) for label in MANIFEST.variants for seed in MANIFEST.seeds[label]]
    assert list(zip(table["variant"], table["seed"], strict=True)) == planned
    statuses = "complete complete complete complete diverged failed complete missing missing"
    assert table["status"].tolist() == statuses.split()
    assert table["config_hash"].tolist() == [hash_of(label, seed) for label, seed in planned]
    scored = table["val_accuracy"].notna().tolist()
    assert scored == [status == "complete" for status in table["status"]]


def test_the_summary_is_json_without_nan(run_status: RunStatus) -> None:
    content = json.loads(
        to_json(summary(run_status, comparison_table(run_status), pd.DataFrame(), pd.DataFrame())),
        parse_constant=pytest.fail,
    )
    assert content["trials"] == {"complete": 5, "diverged": 1, "failed": 1, "missing": 2}
    assert content["complete"] is False
    assert content["gaps"] == missing_trials(run_status)
    assert [row["n"] for row in content["variants"]] == [3, 2, 0]
    assert content["variants"][2]["val_mean"] is None
    assert content["variants"][0]["best_seed"] == 2
    assert content["trial_seconds"] == 301.0
    assert content["finished_at"].startswith("2026-01-01T03")
    assert from_fields(Identity, content["identity"]) == MANIFEST.identity


def test_the_summary_of_a_run_without_results_is_valid_json() -> None:
    store = MemoryStore()
    store.put(RunPaths("night").manifest, MANIFEST.to_json())
    run_status = open_run(store, "night")
    files = build_files(read_content(store, run_status))
    content = json.loads(files["summary.json"], parse_constant=pytest.fail)
    assert content["trials"]["missing"] == 9
    assert content["finished_at"] is None
    assert len(files["trials.csv"].splitlines()) == 10


def test_the_files_of_the_report_match_the_tables(store: MemoryStore, run_status: RunStatus) -> None:
    files = build_files(read_content(store, run_status))
    table = list(csv.DictReader(io.StringIO(files["table.csv"].decode())))
    trials = list(csv.DictReader(io.StringIO(files["trials.csv"].decode())))
    assert files["table.csv"].decode().startswith(TABLE_COLUMNS + ",")
    assert files["trials.csv"].decode().startswith(TRIAL_COLUMNS + ",")
    assert float(table[0]["test_std"]) == pytest.approx(math.sqrt(7), abs=1e-5)
    assert table[2]["n"] == "0"
    assert table[2]["val_mean"] == table[2]["best_seed"] == ""
    complete = [float(row["test_accuracy"]) for row in trials if row["variant"] == "baseline"]
    assert statistics.stdev(complete) == pytest.approx(float(table[0]["test_std"]), abs=1e-5)
    assert trials[0]["best_epoch"] == "5"
    assert len(trials[0]["val_accuracy"].partition(".")[2]) >= 4
    assert [row["status"] for row in trials].count("missing") == 2
    assert "nan" not in files["table.md"].decode().lower()
    assert "82.00 ± 2.65" in files["table.md"].decode()
    assert all(line in files["table.md"].decode() for line in missing_trials(run_status))


HOSTILE = "\x1b[31m=cmd|' /C calc'!A0 <script>x</script> | [l](http://e) `\nnext \x9b\u202e\ud800"


def test_text_from_a_store_is_harmless_in_every_file_of_the_report(store: MemoryStore) -> None:
    """As a failure's error and message, a launch's version and a command."""
    manifest = dataclasses.replace(MANIFEST, commands=(("python", HOSTILE),), code="<b>")
    store.put(RunPaths("night").manifest, manifest.to_json())
    failure = Failure("baseline", 2, hash_of("baseline", 2), HOSTILE, HOSTILE, "", 1, "launch", HOSTILE, "")
    store.put(paths_of("baseline", 2).failure, to_json(failure))
    store.delete(paths_of("baseline", 2).result)
    for number, version in enumerate(("1", HOSTILE)):
        launch = Launch(f"{number}", "2026", "CPU", None, code=version, versions={"torch": version})
        store.put(f"{RunPaths('night').launches}{number}.json", to_json(launch))
    files = build_files(read_content(store, open_run(store, "night")))
    text = {name: data.decode() for name, data in files.items() if not name.endswith(".png")}
    page = text["table.md"]
    assert r"failed: baseline seed 2: \\u001b\[31m=cmd\|' /C calc'!A0 &lt;script>x&lt;/script> \|" in page
    assert "different torch: 1, " in page
    assert [line for line in page.splitlines() if line.startswith("next")] == []
    assert "<" not in re.sub("(`+).*?[^`]\\1(?!`)", "", page), "HTML stands in code only"
    assert "<script>x" not in text["report.html"]
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", page)


@pytest.mark.parametrize(
    ("cell", "written"),
    [
        ("=1+1", "'=1+1"), ("+1", "'+1"), ("-1", "'-1"), ("@SUM(A1)", "'@SUM(A1)"), ("＝1", "'＝1"),
        ("\t=1", r"\t=1"), ("\r=1", r"\r=1"), ("a\x1b", r"a\u001b"),
        ("multi-attention:num_masks=8", "multi-attention:num_masks=8"), (-1.5, "-1.500000"), (None, ""), (True, "True"),
    ],
)  # fmt: skip
def test_no_text_in_a_csv_is_a_formula(cell: object, written: str) -> None:
    table = pd.DataFrame({"x": [cell], "y": [-2]})
    assert csv_bytes(table).decode() == f"x,y\n{written},-2\n"


def test_the_csv_of_ordinary_tables_is_that_of_pandas(store: MemoryStore, run_status: RunStatus) -> None:
    for table in (trials_table(run_status), comparison_table(run_status)):
        assert csv_bytes(table) == table.to_csv(index=False, float_format="%.6f").encode()


@pytest.mark.parametrize(
    ("mean", "std", "text"),
    [
        (92.294, 0.253, "92.29 ± 0.25"),
        (92.294, None, "92.29"),
        (92.294, math.nan, "92.29"),
        (None, None, "–"),
        (math.nan, 1.0, "–"),
    ],
)
def test_an_accuracy_reads_as_mean_and_deviation(mean: float | None, std: float | None, text: str) -> None:
    assert format_accuracy(mean, std) == text
