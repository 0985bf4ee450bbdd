"""Compare the effects of variants across runs: backbones, datasets and recipes. No Ray, no torch.

python jobs/compare.py RUN [RUN ...] --store URL [--out DIR]
"""

import itertools
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from catdog.cli import ExitCode, output_console, parse, run_job
from catdog.config.sweep_options import check_run_name, check_store
from catdog.errors import UserError
from catdog.formatting import counted
from catdog.runs.status import RunStatus, open_run
from catdog.storage import Store, StoreLocation, open_target


@dataclass(frozen=True)
class Options:
    """Where the runs are, and where the comparison goes."""

    store: str = "results"
    """A folder, or s3://bucket/prefix."""
    out: str = "compare"
    """A folder, or s3://bucket/prefix: across.csv, across_all.csv, across.png."""

    def __post_init__(self) -> None:
        check_store(self.store)
        if self.out == "":
            raise UserError("--out: empty; give the folder of the comparison, or leave the option out")


def main(arguments: Sequence[str]) -> int:
    """Write and print the comparison; returns the exit code."""
    runs = list(itertools.takewhile(lambda one: not one.startswith("-"), arguments))
    rest = arguments[len(runs) :]
    if not runs and {"-h", "--help"}.isdisjoint(rest):
        raise UserError("usage: compare.py RUN [RUN ...] [options]; see compare.py --help")
    options = parse(Options, rest, "Compare effects across runs, from the store alone.", "compare.py RUN [RUN ...]")
    if twice := next((run for run in runs if runs.count(run) > 1), None):
        raise UserError(f"RUN {twice}: given {runs.count(twice)} times; keep one")
    from catdog.analysis.across_sets import compare_sets
    from catdog.analysis.predictions import read_predictions
    from catdog.analysis.sets import check_sets, sets_of
    from catdog.report.across_sets import build_files, print_across_sets
    from catdog.report.terminal import place_of

    store = StoreLocation.of(options.store).open()
    statuses = [_opened(store, run) for run in runs]
    check_sets([one for status in statuses for one in sets_of(status, None)])  # before hundreds of files are read
    target = open_target("--out", options.out)
    sets = [one for status in statuses for one in sets_of(status, read_predictions(store, status))]
    found, console = compare_sets(sets), output_console()
    print_across_sets(console, found)
    for line in filter(None, map(_missing, statuses)):
        console.print(f"  {line}", soft_wrap=True)
    for name, data in build_files(found).items():
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
