"""Measure, and write benchmarks/RESULTS.md: `make bench`, or `python benchmarks/run.py [NAME ...]` for a part of it.

Each measurement runs in its own process, one after the other; nothing else should run meanwhile. The table keeps the
newest of each machine, with its commit.
"""

import dataclasses
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path

from measuring import HEADER, Figure, machine

from catdog.runs.provenance import code_version
from catdog.system.process import ENVIRONMENT

HERE = Path(__file__).parent
MEASUREMENTS = {
    "finetuning": "training:measure_finetuning",
    "frozen": "training:measure_frozen",
    "variants": "variants:measure",
    "notebook": "notebook:measure",
    "lightning": "lightning_trainer:measure",
    "starting": "starting:measure",
    "contact-sheets": "contact_sheets:measure",
    "memory": "memory:measure",
    "driver": "driver:measure",
    "aggregation": "aggregation:measure",
    "scale": "scale:measure",
    "packing": "packing:measure",
    "large": "large:measure",
    "sweep": "whole_sweep:measure",
}
"""Name → module:function, in the order of the table."""


def main(names: Sequence[str]) -> int:
    """Run the named measurements, or all, and write the table; returns the exit code."""
    if unknown := [name for name in names if name not in MEASUREMENTS]:
        print(f"no measurement {unknown[0]!r}: choose from {', '.join(MEASUREMENTS)}", file=sys.stderr)
        return 2
    failed = []
    for name in names or MEASUREMENTS:
        print(f"{name}: measuring", flush=True)
        started = time.monotonic()
        process = subprocess.run([sys.executable, __file__, "--child", name], env=os.environ | ENVIRONMENT)
        if process.returncode:
            failed.append(name)
            continue
        print(f"{name}: {time.monotonic() - started:.0f} s", flush=True)
        for figure in read(_path(name, machine()))[0]:
            print(figure.row(""), flush=True)
    (HERE / "RESULTS.md").write_text(render())
    if failed:
        print(f"not measured: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def measure(name: str) -> int:
    """Run a measurement in this process and store its figures."""
    module, function = MEASUREMENTS[name].split(":")
    figures: Callable[[], list[Figure]] = getattr(import_module(module), function)
    content = {
        "measured_at": datetime.now(UTC).isoformat(timespec="minutes"),
        "commit": code_version(),
        "machine": machine(),
        "figures": [dataclasses.asdict(figure) for figure in figures()],
    }
    path = _path(name, machine())
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    return 0


def read(path: Path) -> tuple[list[Figure], str, str]:
    """Return the figures of a measurement, its processor, and its time, commit and machine."""
    content = json.loads(path.read_text())
    figures = [Figure(**item | {"values": tuple(item["values"])}) for item in content["figures"]]
    commit = (content["commit"] or "unknown")[:12]
    origin = f"{content['measured_at'][:16].replace('T', ' ')} UTC, code {commit}, {content['machine']}"
    return figures, processor(content["machine"]), origin


def processor(machine: str) -> str:
    """Return the processor in a machine's description: `AMD EPYC`."""
    cores = machine.partition(",")[0]
    return re.sub(r"^\d+ cores of |\(R\)| Processor$", "", cores)


def measured(name: str) -> Iterator[Path]:
    """Yield the stored measurements of this name, one of each machine."""
    yield from sorted((HERE / "measured").glob(f"*/{name}.json"))


def render() -> str:
    """Return the table of all measurements."""
    lines = [
        "# How near to the limit", "",
        "Written by `make bench` (`python benchmarks/run.py NAME` measures one line's group again). Ratios of what was",
        "measured in turn in one run; medians of the repeats.", "",
        HEADER,
    ]  # fmt: skip
    origins: dict[str, list[str]] = {}
    for name in MEASUREMENTS:
        found = [read(path) for path in measured(name)]
        # What was measured on each machine stands together.
        titles = dict.fromkeys(figure.name for figures, _, _ in found for figure in figures)
        lines += [
            figure.row(on) for title in titles for figures, on, _ in found for figure in figures if figure.name == title
        ]
        for _, _, origin in found:
            origins.setdefault(origin, []).append(name)
    lines += ["", *(f"- {', '.join(names)}: {origin}" for origin, names in origins.items())]
    return "\n".join(lines) + "\n"


def _path(name: str, machine: str) -> Path:
    """Return the file of a measurement on a machine."""
    folder = re.sub(r"\W+", "-", machine.partition(",")[0].lower()).strip("-")
    return HERE / "measured" / folder / f"{name}.json"


if __name__ == "__main__":
    arguments = sys.argv[1:]
    sys.exit(measure(arguments[1]) if arguments[:1] == ["--child"] else main(arguments))
