"""Small sweeps: started in this process or in one of their own, and what they leave."""

import csv
import functools
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from catdog.cli import run_job
from jobs import sweep
from tests.helpers.project import ROOT

SMALL = ["--limit-images", "24", "--image-size", "48", "--batch-size", "8", "--epochs", "2"]


MAY_DIFFER = ("_seconds", "_at", "_host")


def run_sweep(store: Path | str, *arguments: str, preset: str = "demo") -> int:
    return run_job(sweep.main, [preset, "--store", str(store), *SMALL, *arguments])


def comparable(trials_csv: bytes) -> pd.DataFrame:
    """trials.csv without the columns that two runs of one plan may differ in."""
    table = pd.read_csv(io.BytesIO(trials_csv))
    return table.drop(columns=[c for c in table.columns if c == "seconds" or c.endswith(MAY_DIFFER)])


def report(store: Path, name: str, run: str = "demo") -> bytes:
    return (store / run / "report" / name).read_bytes()


def times_computed(history_csv: str) -> list[str]:
    return [row["finished_at"] for row in csv.DictReader(history_csv.splitlines())]


def start_job(
    store: Path | str, *arguments: str, environment: dict[str, str] | None = None, job: str = "sweep"
) -> subprocess.Popen[str]:
    command = [sys.executable, f"jobs/{job}.py", "demo", "--store", str(store), *arguments]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ | (environment or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        # Ignored where the tests run in the background of a shell.
        preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    for _ in range(1200):
        if condition():
            return
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    raise AssertionError("it did not come to that within a minute")


def processes_of(marker: str) -> dict[int, bytes]:
    """Return the command lines of all processes, by pid, that have `marker` in their environment."""
    found = {}
    for trial in Path("/proc").iterdir():
        try:
            if trial.name.isdigit() and marker.encode() in (trial / "environ").read_bytes():
                found[int(trial.name)] = (trial / "cmdline").read_bytes()
        except OSError:
            continue
    return found
