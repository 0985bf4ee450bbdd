"""A sweep that stops when its questions are answered: interrupted or not, it runs and decides the same."""

import json
import signal
from pathlib import Path

import pandas as pd
import pytest

from tests.helpers.inbox import inbox
from tests.helpers.sweeps import SMALL, comparable, report, start_job, wait_for

SWEEP = [
    *SMALL, "--variants", "baseline", "attention", "--seeds", "10", "--until-decided", "--looks", "6,8",
    "--smallest-effect", "25",
]  # fmt: skip


def looks(store: Path) -> dict[str, object]:
    found = {path.name: json.loads(path.read_bytes()) for path in (store / "demo/looks").glob("*.json")}
    return {name: {key: value for key, value in one.items() if key != "taken_at"} for name, one in found.items()}


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_a_sweep_runs_until_it_is_decided_and_an_interrupted_one_decides_the_same(tmp_path: Path) -> None:
    undisturbed, store = tmp_path / "undisturbed", tmp_path / "store"
    with inbox() as box:
        process = start_job(undisturbed, *SWEEP, "--notify", box.url)
        output = process.communicate(timeout=300)[0]
    assert process.returncode == 0, output
    assert "12 trials to run, 0 already done" in output
    found = looks(undisturbed)
    last = sorted(found.values(), key=lambda look: look["planned"])[-1]
    assert last["outcomes"]["attention"] != "undecided" or last["planned"] == 10, output
    outcomes = {look["planned"]: look["outcomes"]["attention"] for look in found.values()}
    decided = [f"after {n} seeds: attention {what}" for n, what in sorted(outcomes.items()) if what != "undecided"]
    assert box.titles == [f"catdog demo: {what}" for what in (*decided, "complete")]
    assert any(line.startswith("attention ") for line in box.messages[-1][1]), "the verdict"
    trials = pd.read_csv(undisturbed / "demo/report/trials.csv")
    assert len(trials) == 2 * last["planned"], "no trial beyond the look that decided"
    assert "of at most 10 seeds" in report(undisturbed, "table.md").decode()

    with inbox() as box:
        process = start_job(store, *SWEEP, "--notify", box.url)
        wait_for(lambda: len(list((store / "demo/trials").glob("*/*/result.json"))) >= 3, process)
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=60)[0]
    assert process.returncode == 130
    assert box.titles == ["catdog demo: interrupted: the same command resumes"]
    assert not looks(store), "not all of its trials have ended"
    process = start_job(store, *SWEEP)
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0, output
    assert looks(store) == found
    pd.testing.assert_frame_equal(
        comparable(report(store, "trials.csv")), comparable(report(undisturbed, "trials.csv"))
    )
    again = start_job(store, *SWEEP)
    assert "nothing to run: every contrast is decided, or the last look was taken" in again.communicate(timeout=120)[0]
    assert looks(store) == found
