"""What all measurements share: figures, their median, and the machine they were measured on.

A figure is a ratio of two things measured in turn in one run: machines differ and have bad minutes, ratios hold. A few
are absolute, where a user waits for them.
"""

import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from catdog.system.process import usable_cores

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Figure:
    """One line of the table."""

    name: str
    values: tuple[float, ...]
    """One per repeat."""
    unit: str
    """Follows the number; empty for a ratio."""
    target: float
    at_least: bool
    """Whether more is better."""
    detail: str
    """What was compared, in absolute figures on this machine."""

    @property
    def median(self) -> float:
        """Return the median over the repeats."""
        return statistics.median(self.values)

    @property
    def is_met(self) -> bool:
        """Return whether the median meets the target."""
        return self.median >= self.target if self.at_least else self.median <= self.target

    def row(self, processor: str) -> str:
        """Return the figure, measured on this processor, as a row of a Markdown table."""
        spread = f"{show(min(self.values))}–{show(max(self.values))}" if len(self.values) > 1 else "–"
        sign = "≥" if self.at_least else "≤"
        target = f"{sign} {self.target:g}{self.unit}"
        return (
            f"| {self.name} | **{show(self.median)}{self.unit}** | {spread} | {len(self.values)} | {target} | "
            f"{'yes' if self.is_met else 'no'} | {processor} | {self.detail} |"
        )


HEADER = "| what | median | range | repeats | target | met | on | measured |\n|---|---:|---:|---:|---:|---|---|---|"


def show(value: float) -> str:
    """Return a number with three significant digits."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def ratios(numerators: Sequence[float], denominators: Sequence[float]) -> tuple[float, ...]:
    """Return the ratio of each pair."""
    return tuple(a / b for a, b in zip(numerators, denominators, strict=True))


class Cost(NamedTuple):
    """What a command took."""

    seconds: float
    gigabytes: float
    """Its process's peak."""


def timed_job(store: str, run: str, job: str, *options: str) -> Cost:
    """Run jobs/JOB.py on a run of a store, in a process of its own."""
    # A process begins with the peak of the one that started it: this one's may be larger, so a small one starts it.
    start = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL); "
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    command = [sys.executable, f"jobs/{job}.py", "--store", store, "--run", run, *options]
    started = time.perf_counter()
    process = subprocess.run([sys.executable, "-c", start, *command], cwd=ROOT, stdout=subprocess.PIPE, check=True)
    return Cost(time.perf_counter() - started, int(process.stdout) * 1024 / 1e9)


def data_root() -> Path | None:
    """Return the folder of the real images, if CATDOG_DATA_ROOT names it."""
    root = os.environ.get("CATDOG_DATA_ROOT")
    return Path(root) if root else None


def real_images(what: str) -> Path:
    """Return the folder of the real images, which `what` needs; ends this process if there is none."""
    if (root := data_root()) is None:
        raise SystemExit(f"{what} needs the real images: set CATDOG_DATA_ROOT")
    return root


def machine() -> str:
    """Describe this machine in one line."""
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return (
        f"{usable_cores()} cores of {model}, {memory:.0f} GiB, {', '.join(gpus) or 'no GPU'}, "
        f"Python {platform.python_version()}, torch {torch.__version__}"
    )
