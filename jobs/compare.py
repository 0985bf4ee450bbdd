"""Compare runs: backbones, datasets and recipes, in one table, and the effects of variants in each. No Ray, no torch.

python jobs/compare.py RUN [RUN ...] --store URL [--out DIR] [--format html,md,latex,csv,png]
"""

import itertools
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from catdog.cli import ExitCode, output_console, parse, run_job
from catdog.config.recipe import require
from catdog.config.sweep_options import all_looks, check_run_name, check_store
from catdog.errors import UserError
from catdog.formatting import counted
from catdog.runs.status import RunStatus, open_run
from catdog.storage import Store, StoreLocation, open_target

FORMATS = ("html", "md", "latex", "csv", "png")


@dataclass(frozen=True)
class Options:
    """Where the runs are, and where the comparison goes."""

    store: str = "results"
    """A folder, or s3://bucket/prefix."""
    out: str = "compare"
    """A folder, or s3://bucket/prefix: compare.html, compare.md, compare.tex, tables in .csv, across.png."""
    format: str = "html,md,latex,csv,png"
    """Which files to write, joined by commas."""

    @property
    def formats(self) -> list[str]:
        """Return the formats."""
        return self.format.split(",")

    def __post_init__(self) -> None:
        check_store(self.store)
        for one in self.formats:
            require(one in FORMATS, f"--format {self.format}: no format {one!r}; choose from {', '.join(FORMATS)}")
        require(self.out != "", "--out: empty; give the folder of the comparison, or leave the option out")


def main(arguments: Sequence[str]) -> int:
    """Write and print the comparison; returns the exit code."""
    runs = list(itertools.takewhile(lambda one: not one.startswith("-"), arguments))
    rest = arguments[len(runs) :]
    if not runs and {"-h", "--help"}.isdisjoint(rest):
        raise UserError("usage: compare.py RUN [RUN ...] [options]; see compare.py --help")
    options = parse(Options, rest, "Compare runs, from the store alone.", "compare.py RUN [RUN ...]")
    if twice := next((run for run in runs if runs.count(run) > 1), None):
        raise UserError(f"RUN {twice}: given {runs.count(twice)} times; keep one")
    from catdog.analysis.across_sets import compare_sets
    from catdog.analysis.between_runs import compare_runs
    from catdog.analysis.predictions import read_predictions
    from catdog.analysis.sets import check_sets, sets_of
    from catdog.analysis.stopping import early_stops
    from catdog.report import several_runs
    from catdog.report.terminal import place_of

    store = StoreLocation.of(options.store).open()
    statuses = [_opened(store, run) for run in runs]
    there = [one for status in statuses for one in sets_of(status, None)]
    check_sets(there)  # before hundreds of files are read
    if not there and len(runs) == 1:
        raise UserError(f"run {runs[0]}: has a single variant, nothing to compare: name another run")
    target = open_target("--out", options.out)
    predictions = [read_predictions(store, status) for status in statuses]
    sets = [one for of_run in zip(statuses, predictions, strict=True) for one in sets_of(*of_run)]
    found, between, console = compare_sets(sets) if sets else [], compare_runs(statuses), output_console()
    if found:
        several_runs.print_across_sets(console, found)
    accuracies, contrasts = several_runs.runs_table(statuses), several_runs.between_table(between)
    for table in (accuracies, contrasts) if len(runs) > 1 else ():
        if table.rows:
            console.print(several_runs.for_terminal(table))
    for line in filter(None, map(_missing, statuses)):
        console.print(f"  {line}", soft_wrap=True)
    stops = [stop for of_run in zip(statuses, predictions, strict=True) for stop in early_stops(*of_run, all_looks)]
    if stops:
        console.print(several_runs.for_terminal(several_runs.stops_table(stops)))
    files = several_runs.files(options.formats, statuses, found, between, stops)
    for name, data in files.items():
        target.put(name, data)
        console.print(f"{name:>16}  {place_of(target.url, name)}", soft_wrap=True)
    return ExitCode.of(all(status.is_complete for status in statuses))


def _opened(store: Store, run: str) -> RunStatus:
    try:
        check_run_name(run)
        return open_run(store, run)
    except UserError as error:
        raise UserError(str(error).replace("--run", "RUN")) from None  # here it is no option


def _missing(run_status: RunStatus) -> str | None:
    """Return a line on what keeps a run from being complete; None if it is."""
    if run_status.is_complete:
        return None
    lost = run_status.counts["failed"] + run_status.counts["missing"]
    trials = f"{lost} of {counted(len(run_status.trials), 'trial')} failed or are missing" if lost else ""
    return f"run {run_status.manifest.run}: {'; '.join(filter(None, (trials, run_status.waiting)))}"


if __name__ == "__main__":
    sys.exit(run_job(main))
