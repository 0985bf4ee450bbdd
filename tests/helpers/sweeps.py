"""Small sweeps, in this process or their own, and what they leave behind."""

import csv
import functools
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pandas as pd

from catdog.cli import run_job
from jobs import sweep
from tests.helpers.project import ROOT

_SMALL = {"--limit-images": "24", "--image-size": "48", "--batch-size": "8", "--epochs": "2"}


def small(*arguments: str) -> list[str]:
    """The options of a small sweep, and others, which take the place of its own."""
    own = [word for option, value in _SMALL.items() if option not in arguments for word in (option, value)]
    return [*own, *arguments]


SMALL = small()

MAY_DIFFER = ("_seconds", "_at", "_host")


def run_sweep(store: Path | str, *arguments: str, preset: str = "demo") -> int:
    return run_job(sweep.main, [preset, "--store", str(store), *small(*arguments)])


def comparable(trials_csv: bytes) -> pd.DataFrame:
    """trials.csv without the columns that may differ between two runs of the same plan."""
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
        # A shell's background processes ignore SIGINT.
        preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    for _ in range(4800):
        if condition():
            return
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    raise AssertionError("it did not come to that within four minutes")


def processes_of(marker: str) -> dict[int, bytes]:
    """Return the command lines, by pid, of all processes with `marker` in their environment."""
    found = {}
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and marker.encode() in (entry / "environ").read_bytes():
                found[int(entry.name)] = (entry / "cmdline").read_bytes()
        except OSError:
            continue
    return found


def kill_all(marker: str) -> None:
    """Kill every process with `marker` in its environment, including those just being started."""
    for _ in range(1200):
        if not (left := processes_of(marker)):
            return
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)
    raise AssertionError(f"processes that do not end: {left}")
