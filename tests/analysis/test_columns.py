"""The tables of a run: their columns are those that published reports have, their numbers those of its trials."""

import csv
import io
import json
import statistics
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest

from catdog.analysis.contrasts import compare
from catdog.analysis.localization import attention_table
from catdog.analysis.predictions import read_predictions
from catdog.analysis.studies import lambda_table, scatter_table
from catdog.analysis.tables import comparison_table, summary, trials_table
from catdog.analysis.verdicts import contrasts_table
from catdog.runs.status import RunStatus
from catdog.storage import MemoryStore
from tests.helpers.made_runs import make_run, put_trimaps
from tests.helpers.project import ROOT

LABELS = ["baseline", "attention", "multi-attention"]
PUBLISHED = ROOT / "results/published/pets-frozen/report"

Made = tuple[MemoryStore, RunStatus]


@pytest.fixture(scope="module")
def made() -> Made:
    """Three breeds, two of them with a single test image; animals as thin as the images' diagonal."""
    store = MemoryStore()
    run_status = make_run(store, LABELS, range(4), failed=[("attention", 1)], classes=3, test_images=4)
    put_trimaps(store, run_status, np.eye(64, dtype=bool))
    return store, run_status


def test_contrasts_show_both_intervals() -> None:
    store = MemoryStore()
    run_status = make_run(store, ["baseline", "multi-attention"], range(6), test_images=60)
    (contrast,) = compare(run_status, read_predictions(store, run_status))
    (row,) = contrasts_table([contrast]).to_dict("records")
    assert contrast.interval is not None
    assert contrast.interval_new_images is not None
    assert (row["variant"], row["reference"], row["n"]) == ("multi-attention", "baseline", 6)
    assert row["primary"] is True
    assert row["difference"] == pytest.approx(statistics.mean(contrast.differences))
    assert (row["difference_low"], row["difference_high"]) == (contrast.interval.low, contrast.interval.high)
    assert row["new_images_low"] == contrast.interval_new_images.low
    assert row["new_images_high"] == contrast.interval_new_images.high
    assert row["detectable"] == contrast.detectable


def test_the_tables_have_the_columns_of_the_published_ones(made: Made) -> None:
    store, run_status = made
    tables = {
        "trials": trials_table(run_status),
        "table": comparison_table(run_status),
        "contrasts": contrasts_table(compare(run_status, None)),
        "attention": attention_table(store, run_status),
    }
    for name, table in tables.items():
        assert set(pd.read_csv(PUBLISHED / f"{name}.csv").columns) <= set(table.columns), name
    published = json.loads((PUBLISHED / "summary.json").read_text())
    found = summary(run_status, *(tables[name] for name in ("table", "contrasts", "attention")))
    assert published.keys() <= found.keys()
    assert found["versions"] == {"python": "3.11.7", "torch": "2.14.1", "ray": "2.60.0"}
    assert found["commands"] == [["python", "jobs/sweep.py", "pets-frozen"]]
    assert found["spent"][0].keys() >= published["spent"][0].keys()  # type: ignore[index]


def test_a_mask_is_compared_with_one_that_ignores_the_image(made: Made) -> None:
    table = attention_table(*made)
    on_the_diagonal = 100 / 7  # of the 7 × 7 cells' centres, seven are on the animal; so is the Gaussian's peak
    assert (table["pointing"] - table["pointing_lift_uniform"]).tolist() == pytest.approx([on_the_diagonal] * 4)
    assert (table["pointing"] - table["pointing_lift_gaussian"]).tolist() == pytest.approx([100] * 4)
    assert (table["energy"] - table["energy_lift_uniform"]).tolist() == pytest.approx([100 / 64] * 4)
    gaussian = table["energy"] - table["energy_lift_gaussian"]
    assert gaussian.nunique() == 1
    assert gaussian[0] > 100 / 64
    assert table["images"].tolist() == [3, 3, 4, 4]  # validation, then test
    assert table["breeds"].tolist() == [3, 3, 3, 3]


def test_a_breed_with_one_image_is_recognised_or_not(made: Made) -> None:
    predictions = read_predictions(*made)
    assert predictions is not None
    for label in LABELS:
        right_SN = predictions.correct_SN(label)
        by_hand_SK = [[50 * (right[0] + right[3]), 100 * right[1], 100 * right[2]] for right in right_SN.astype(float)]
        assert predictions.class_accuracy_SK(label).tolist() == by_hand_SK


def deviation(values: Sequence[float | None]) -> float:
    return statistics.stdev(value for value in values if value is not None)


def test_the_lambda_table_holds_the_accuracies_and_overlaps_of_its_trials(made: Made) -> None:
    store, run_status = made
    (row,) = lambda_table(store, run_status).to_dict("records")
    results = run_status.results("multi-attention")
    assert list(row) == [
        "lambda", "variant", "n", "val_mean", "val_std", "test_mean", "test_std",
        "overlap_mean", "overlap_low", "overlap_high", "overlap_std",
        "val_difference_mean", "val_difference_low", "val_difference_high",
        "test_difference_mean", "test_difference_low", "test_difference_high",
    ]  # fmt: skip
    assert (row["lambda"], row["variant"], row["n"]) == (0.001, "multi-attention", 4)
    assert row["val_mean"] == pytest.approx(statistics.mean(result.val_accuracy or 0 for result in results))
    assert row["val_std"] == pytest.approx(deviation([result.val_accuracy for result in results]))
    assert row["test_std"] == pytest.approx(deviation([result.test_accuracy for result in results]))
    overlaps = []
    for result in results:
        history = store.get(f"made/trials/multi-attention/seed-{result.seed:02d}/history.csv")
        rows = csv.DictReader(io.StringIO(history.decode()))
        overlaps += [float(one["mask_overlap"]) for one in rows if int(one["epoch"]) == result.best_epoch]
    assert (row["overlap_mean"], row["overlap_std"]) == pytest.approx((statistics.mean(overlaps), deviation(overlaps)))


def test_the_scatter_table_holds_deviations_and_their_shares_of_the_variance() -> None:
    seeds = range(6)
    runs = {vary: make_run(MemoryStore(), ["se"], seeds, rng_seed=seed) for seed, vary in enumerate(("order", "all"))}
    order, everything = scatter_table(runs).to_dict("records")
    assert list(order) == [
        "variant", "vary", "n", "test_mean", "test_std", "test_std_low", "test_std_high",
        "share", "share_low", "share_high", "rank_low", "rank_high", "val_std",
    ]  # fmt: skip
    values = {vary: [result.test_accuracy or 0 for result in run.results("se")] for vary, run in runs.items()}
    assert (order["variant"], order["vary"], order["n"]) == ("se", "order", 6)
    assert order["test_mean"] == pytest.approx(statistics.mean(values["order"]))
    assert order["test_std"] == pytest.approx(deviation(values["order"]))
    assert order["share"] == pytest.approx((deviation(values["order"]) / deviation(values["all"])) ** 2)
    assert (order["rank_low"], order["rank_high"]) == (1, 1), "it is the only source"
    validation = [result.val_accuracy or 0 for result in runs["order"].results("se")]
    assert order["val_std"] == pytest.approx(deviation(validation))
    assert everything["test_std"] == pytest.approx(deviation(values["all"]))
