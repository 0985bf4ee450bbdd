"""Sweeps as processes, on a Ray of their own, in odd surroundings: stopped as batch systems do it, and without Ray."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch

from catdog.runs.paths import RunPaths
from tests.helpers.inbox import inbox
from tests.helpers.sweeps import processes_of, report, start_job, wait_for

LONG = ["--variants", "baseline", "--seeds", "2", "--epochs", "30", "--limit-images", "48", "--image-size", "64"]


@pytest.fixture
def surroundings(tmp_path: Path) -> dict[str, str]:
    """A long TMPDIR, a home that does not exist, and a mark on all processes."""
    folder = tmp_path / ("long" * 20)
    folder.mkdir()
    return {"TMPDIR": str(folder), "HOME": "/nonexistent", "CATDOG_TEST": str(tmp_path), "CATDOG_CACHE": str(tmp_path)}


def is_training(store: Path) -> bool:
    return any(store.glob("demo/trials/baseline/seed-*/checkpoint.pt"))


def assert_nothing_is_left(store: Path, surroundings: dict[str, str]) -> None:
    assert processes(surroundings) == {}
    assert not (store / RunPaths("demo").lease).exists()


def processes(surroundings: dict[str, str]) -> dict[int, bytes]:
    return processes_of(f"CATDOG_TEST={surroundings['CATDOG_TEST']}")


def raylets(surroundings: dict[str, str]) -> list[int]:
    return [pid for pid, command in processes(surroundings).items() if command.split(b"\0")[0].endswith(b"/raylet")]


def workers(surroundings: dict[str, str]) -> list[int]:
    return [pid for pid, command in processes(surroundings).items() if command.startswith(b"ray::ImplicitFunc")]


@pytest.mark.slow
def test_a_sweep_is_stopped_by_its_batch_system_loses_its_ray_and_resumes(
    store_folder: Path, surroundings: dict[str, str]
) -> None:
    arguments = [*LONG, "--checkpoint-seconds", "0"]

    # As soon as the driver's Ray has started, every process gets the signal, Ray's too.
    process = start_job(store_folder, *arguments, environment=surroundings)
    wait_for(lambda: bool(raylets(surroundings)), process)
    for pid in processes(surroundings):
        os.kill(pid, signal.SIGTERM)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 130, output
    assert output.splitlines()[-1].startswith("interrupted: nothing that was finished is lost")
    assert_nothing_is_left(store_folder, surroundings)

    # In the middle of a trial, three times, the process group.
    process = start_job(store_folder, *arguments, environment=surroundings)
    wait_for(lambda: is_training(store_folder), process)
    for _ in range(3):
        os.killpg(process.pid, signal.SIGTERM)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 130, output
    assert "Traceback" not in output
    assert "SIGTERM received" not in output, "Ray's stack trace"
    assert output.splitlines()[-1].startswith("interrupted: nothing that was finished is lost")
    assert_nothing_is_left(store_folder, surroundings)

    # The local Ray dies, and with it the driver. Its workers die too: they would end short trials before Ray notices.
    with inbox() as box:
        process = start_job(store_folder, *arguments, "--notify", box.url, environment=surroundings)
        wait_for(lambda: bool(workers(surroundings)), process)
        for pid in raylets(surroundings) + workers(surroundings):
            os.kill(pid, signal.SIGKILL)
        output = process.communicate(timeout=120)[0]
    assert process.returncode == 1, output
    assert box.titles == ["catdog demo: its process was lost: the same command resumes"]
    assert output.splitlines()[-1].startswith("error: the job was lost (exit code 1): its Ray was ended")
    assert b"baseline" in report(store_folder, "table.md")
    assert_nothing_is_left(store_folder, surroundings)

    # The same command ends it.
    process = start_job(store_folder, *arguments, environment=surroundings)
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0, output
    assert pd.read_csv(store_folder / "demo/report/trials.csv")["status"].tolist() == ["complete"] * 2
    assert_nothing_is_left(store_folder, surroundings)
    assert not list(Path(surroundings["TMPDIR"]).glob("catdog-tune-*")), "of killed drivers"


@pytest.mark.slow
def test_a_sweep_that_is_stopped_leaves_checkpoints_of_the_steps_its_trials_were_at(store_folder: Path) -> None:
    arguments = (
        *("--variants", "attention", "--seeds", "1", "--epochs", "50", "--limit-images", "600", "--image-size", "64"),
        *("--batch-size", "4", "--checkpoint-seconds", "600"),
    )
    process = start_job(store_folder, *arguments)
    trial = store_folder / "demo" / "trials" / "attention" / "seed-00"
    wait_for(lambda: (trial / "snapshots" / "epoch-000.png").exists(), process)
    os.killpg(process.pid, signal.SIGTERM)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 130, output
    assert len(torch.load(trial / "checkpoint.pt", weights_only=True)["state"]["history"]) >= 1


@pytest.mark.parametrize("seconds", [0.5, 2.0])
def test_a_sweep_that_has_hardly_started_ends_in_order(store_folder: Path, seconds: float) -> None:
    process = start_job(store_folder)
    time.sleep(seconds)
    os.killpg(process.pid, signal.SIGTERM)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 130, output
    assert output.splitlines()[-1].startswith("interrupted: nothing that was finished is lost")
    assert not (store_folder / RunPaths("demo").lease).exists()


def test_a_home_is_made_up_for_a_user_without_a_name(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in ("HOME", "USER", "LOGNAME")}
    command = "import catdog.sweep.run, getpass; print(getpass.getuser())"
    done = subprocess.run(
        ["unshare", "--user", "--map-user=12345", sys.executable, "-c", command],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if "unshare" in done.stderr:
        pytest.skip("no user namespaces here")
    assert (done.stdout, done.stderr) == ("12345\n", "")
