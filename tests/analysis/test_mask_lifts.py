"""Lifts of masks over masks that ignore the image: intervals over seeds, and sentences that say no more than these."""

import math

import numpy as np
import pandas as pd
import pytest

from catdog.analysis.intervals import Interval, t_interval
from catdog.analysis.localization import attention_table
from catdog.analysis.mask_lifts import ADDED, Lift, lift_columns, mask_verdicts, verdict
from catdog.report.tables import attention, lifts
from catdog.runs.artifacts import Deletion, deletion_json
from catdog.runs.paths import RunPaths
from catdog.runs.status import open_run
from catdog.storage import MemoryStore
from tests.helpers.made_runs import add_files, make_run, put_trimaps

ABOVE, BELOW, OPEN = Interval(0.1, 2.0), Interval(-2.0, -0.1), Interval(-1.0, 1.0)


def pair(uniform: Interval | None, gaussian: Interval | None, n: int = 5) -> list[Lift]:
    return [Lift(n, 1.0, uniform), Lift(n, 1.0, gaussian)]


def test_the_interval_of_a_few_values_is_students() -> None:
    found = t_interval(np.array([1.0, 2.0, 6.0]))
    assert found is not None
    half = 4.302653 * math.sqrt(7) / math.sqrt(3)  # t of two degrees of freedom; the variance is 7
    assert (found.low, found.high) == pytest.approx((3 - half, 3 + half), abs=1e-5)
    assert t_interval(np.array([1.0, 2.0])) is None
    assert t_interval(np.array([2.0, 2.0, 2.0])) is None


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (
            {"pointing": pair(ABOVE, ABOVE), "energy": pair(ABOVE, ABOVE), "pxap": pair(ABOVE, ABOVE)},
            "the masks beat both a uniform mask and a centred Gaussian in pointing, energy and PxAP "
            "(95 % intervals over 5 seeds).",
        ),
        (
            {"pointing": pair(ABOVE, OPEN), "energy": pair(ABOVE, BELOW), "deletion": pair(ABOVE, ABOVE, n=4)},
            "the masks beat both a uniform mask and a centred Gaussian in deletion; in pointing they beat a uniform "
            "mask and are not shown to differ from a centred Gaussian; in energy they beat a uniform mask and fall "
            "below a centred Gaussian (95 % intervals over 4 to 5 seeds).",
        ),
        (
            {"pointing": pair(OPEN, OPEN), "energy": pair(None, None), "pxap": pair(BELOW, BELOW)},
            "in no measure do the masks beat both a uniform mask and a centred Gaussian; in pointing and energy they "
            "are not shown to differ from either; in PxAP they fall below either (95 % intervals over 5 seeds).",
        ),
        (
            {"energy": pair(None, None, n=2)},
            "2 seeds, too few to say whether the masks beat a uniform mask or a centred Gaussian.",
        ),
    ],
)
def test_the_sentence_claims_what_the_intervals_show(found: dict[str, list[Lift]], said: str) -> None:
    assert verdict("masks", found) == said


def test_a_sentence_that_holds_of_several_rows_stands_once() -> None:
    said = [("test", "attention: x."), ("validation", "abmil: y."), ("test", "cbam at layer3: x."), ("test", "ep: z.")]
    table = pd.DataFrame(said, columns=["part", "verdict"])
    assert mask_verdicts(table) == ["attention, cbam at layer3: x.", "ep: z."]


def test_trials_without_the_later_measures_add_nothing() -> None:
    values = [{"pointing": 50.0, "pointing_lift_uniform": 9.0 + seed, "pxap": None} for seed in range(4)]
    assert lift_columns("attention", "masks", values) == dict.fromkeys(ADDED)


def test_a_lift_is_that_of_the_trials_that_have_it() -> None:
    lift = {"pxap": 60.0, "pxap_lift_uniform": 8.0, "pxap_lift_gaussian": -3.0}
    deletion = {"deletion": 2.0, "deletion_lift_uniform": 1.0, "deletion_lift_gaussian": 0.5}
    row = lift_columns("attention", "masks", [lift | deletion, lift | deletion, lift])
    assert (row["pxap"], row["pxap_std"], row["deletion"], row["deletion_trials"]) == (60, 0, 2, 2)
    assert row["deletion_lift_gaussian"] == 0.5
    assert row["verdict"].endswith("(95 % intervals over 2 to 3 seeds).")


def test_a_single_seed_has_neither_a_deviation_nor_an_interval() -> None:
    store = MemoryStore()
    run_status = make_run(store, ["attention"], [3])
    put_trimaps(store, run_status, np.eye(64, dtype=bool))
    table, (sentence, *_) = attention_table(store, run_status), mask_verdicts(attention_table(store, run_status))
    assert sentence == "attention: 1 seed, too few to say whether the masks beat a uniform mask or a centred Gaussian."
    shown, intervals = attention(table, "breeds"), lifts(table)
    assert shown is not None
    assert intervals is not None
    assert "±" not in shown.rows[0][7]
    assert {row[3] for row in intervals.rows} == {"–"}


def test_the_table_and_the_report_show_deletion_with_and_without_outlines() -> None:
    store = MemoryStore()
    make_run(store, ["baseline", "attention"], range(3))
    for seed in range(3):
        falls = Deletion(9, masks=2.0 + 0.1 * seed, random=1.0, centre=2.1)
        data = deletion_json({"validation": falls, "test": falls})
        add_files(store, RunPaths("made").trial("attention", seed), {"deletion.json": data})
    run_status = open_run(store, "made")
    without = attention_table(store, run_status)
    assert without[["variant", "part", "trials", "images"]].to_numpy().tolist() == [
        ["attention", "validation", 3, 9],
        ["attention", "test", 3, 9],
    ]
    assert without["pointing"].isna().all()
    shown = attention(without, "breeds")
    assert shown is not None
    assert shown.columns[3:] == ("Deletion", "above uniform, Gaussian")
    assert shown.rows[1][3:] == ("2.10 ± 0.10", "+1.10, 0.00")
    assert mask_verdicts(without) == [
        "attention: in no measure do the masks beat both a uniform mask and a centred Gaussian; in deletion they beat "
        "a uniform mask and are not shown to differ from a centred Gaussian (95 % intervals over 3 seeds)."
    ]
    outline = np.zeros((64, 64), dtype=bool)
    outline[16:48, 16:48] = True
    put_trimaps(store, run_status, outline)
    table = attention_table(store, run_status)
    assert table["deletion_lift_uniform"].tolist() == pytest.approx([1.1, 1.1])
    assert table["images"].tolist() != [9, 9], "those of the pointing game"
    intervals = lifts(table)
    assert intervals is not None
    assert [row[1] for row in intervals.rows] == ["Pointing game", "Energy inside", "PxAP", "Deletion"]
    assert intervals.rows[3][2:4] == ("+1.10", "+0.85 to +1.35")
    assert table["pxap"].notna().all()
