"""A sweep that stops when its questions are answered: interrupted or not, it runs and decides the same."""

import json
import os
import shutil
import signal
from pathlib import Path

import pandas as pd
import pytest

from tests.helpers.inbox import inbox
from tests.helpers.sweeps import comparable, report, run_sweep, small, start_job, wait_for

SWEEP = small(
    "--variants", "baseline", "attention", "--seeds", "10", "--until-decided", "--looks", "6,8",
    "--smallest-effect", "25",
)  # fmt: skip


def looks(store: Path) -> dict[str, object]:
    found = {path.name: json.loads(path.read_bytes()) for path in (store / "demo/looks").glob("*.json")}
    return {name: {key: value for key, value in one.items() if key != "taken_at"} for name, one in found.items()}


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_a_sweep_runs_until_it_is_decided_and_an_interrupted_one_decides_the_same(
    store_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    undisturbed, store = tmp_path / "undisturbed", store_folder
    shutil.copytree(store_folder, undisturbed, copy_function=os.link)
    with inbox() as box:
        assert run_sweep(undisturbed, *SWEEP, "--notify", box.url) == 0
    output = capsys.readouterr().out
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
    assert run_sweep(store, *SWEEP) == 0
    assert looks(store) == found
    pd.testing.assert_frame_equal(
        comparable(report(store, "trials.csv")), comparable(report(undisturbed, "trials.csv"))
    )
    capsys.readouterr()
    assert run_sweep(store, *SWEEP) == 0
    assert "nothing to run: every contrast is decided, or the last look was taken" in capsys.readouterr().out
    assert looks(store) == found
