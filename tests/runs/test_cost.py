"""What a sweep has used and cost: computed by hand with a fake clock, and on a real Ray."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catdog.cli import run_job
from catdog.runs.cost import Launch, launch_cost, spending_lines, summarise_spending
from catdog.storage.serialization import to_json
from catdog.sweep.usage_meter import Meter
from jobs import sweep
from tests.helpers.inbox import inbox
from tests.helpers.sweeps import SMALL

LAUNCH = Launch("abc", "2026-01-01T00:00:00+00:00", "GPU", 2.0)


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def test_a_meter_counts_available_units_and_those_that_trials_use() -> None:
    clock, units = Clock(), [4.0]
    meter = Meter(LAUNCH, 0.5, lambda: units[0], clock)
    meter.started("baseline", 0)
    clock.seconds += 1800
    meter.started("se", 0)
    assert meter.read().unit_hours == pytest.approx(2.0)
    units[0] = 1.0
    clock.seconds += 1800
    meter.ended("baseline", 0)
    meter.ended("baseline", 0)
    launch = meter.read()
    assert launch.seconds == 3600
    assert launch.unit_hours == pytest.approx(2.5)
    assert launch.busy_hours == pytest.approx({"baseline": 0.5, "se": 0.25})
    assert launch_cost(launch) == pytest.approx(5.0)
    assert not launch.closed
    meter.close()
    assert meter.read().closed


def test_launches_add_up_and_time_that_no_trial_used_is_idle() -> None:
    launches = [
        Launch("a", "", "GPU", 2.0, 3600, 2.0, {"baseline": 1.0}),
        Launch("b", "", "GPU", 1.0, 3600, 4.0, {"baseline": 2.0, "se": 1.0}),
        Launch("c", "", "CPU", None, 3600, 2.0, {"se": 2.0}),
    ]
    gpu, cpu = summarise_spending(launches)
    assert (gpu.unit, gpu.unit_hours, gpu.cost) == ("GPU", 6.0, 8.0)
    assert gpu.busy_hours == {"baseline": 3.0, "se": 1.0}
    assert gpu.variant_costs == {"baseline": 4.0, "se": 1.0}
    assert gpu.idle_share == pytest.approx(1 / 3)
    assert (cpu.cost, cpu.variant_costs, cpu.idle_share) == (None, None, 0.0)
    assert spending_lines(launches) == [
        "6.00 GPU-hours in 2 launches, 33% of them idle, cost 8.00 (baseline 4.00, se 1.00, idle 3.00)",
        "2.00 core-hours in 1 launch, 0% of them idle",
    ]


@given(
    st.builds(
        Launch,
        name=st.text(min_size=1),
        started_at=st.text(),
        unit=st.sampled_from(["GPU", "CPU"]),
        hourly_price=st.none() | st.floats(0.01, 100),
        unit_hours=st.floats(0, 1e6),
        busy_hours=st.dictionaries(st.text(), st.floats(0, 1e6)),
        closed=st.booleans(),
    )
)
def test_a_launch_survives_json(launch: Launch) -> None:
    assert Launch.from_json(to_json(launch)) == launch


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_a_sweep_starts_no_more_trials_once_it_has_reached_its_maximum_cost(
    store_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*arguments: str) -> int:
        return run_job(sweep.main, ["demo", "--store", str(store_folder), *SMALL, "--seeds", "4", *arguments])

    with inbox() as box:
        limit = ["--hourly-price", "1000000", "--max-cost", "0.01"]
        assert run("--variants", "baseline", *limit, "--notify", box.url) == 1
    assert box.titles == [
        "catdog demo: --max-cost 0.01 is reached: no more trials start", "catdog demo: ended, and not complete"
    ]  # fmt: skip
    output = capsys.readouterr().out
    assert "missing: baseline seed 3" in output
    assert "core-hours in 1 launch" in output
    assert run("--variants", "baseline", "--hourly-price", "3", "--max-cost", "1") == 1, "it has cost more already"
    assert "--max-cost 1 is reached" in capsys.readouterr().out
    assert run("--variants", "baseline") == 0
    summary = json.loads((store_folder / "demo/report/summary.json").read_bytes())
    assert summary["spent"][0]["unit"] == "CPU"
    assert summary["spent"][0]["cost"] is None, "the last launch had no price"
    assert set(summary["spent"][0]["busy_hours"]) == {"baseline"}
    assert len(list((store_folder / "demo/launches").glob("*.json"))) == 2, "the second never began"


def test_the_plan_states_the_expected_cost(store_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["demo", "--store", str(store_folder), "--dry-run"]
    assert run_job(sweep.main, arguments) == 0
    assert "core-hours; its price: --hourly-price" in capsys.readouterr().out
    assert run_job(sweep.main, [*arguments, "--hourly-price", "0.5", "--max-cost", "7"]) == 0
    output = capsys.readouterr().out
    assert "core-hours at 0.5" in output
    assert "no trial starts after 7" in output
    assert run_job(sweep.main, [*arguments, "--max-cost", "7"]) == 2
    assert "needs --hourly-price" in capsys.readouterr().err
