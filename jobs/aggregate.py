"""Build a run's report from the store alone: no Ray, no torch, no GPU.

python jobs/aggregate.py --store URL --run NAME [--out DIR] [--force]
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import rich.progress

from catdog.cli import ExitCode, RunOptions, output_console, parse, run_job
from catdog.config.recipe import require
from catdog.errors import UserError
from catdog.report.terminal import print_outcome
from catdog.runs.status import open_run
from catdog.runs.trial_files import Objects
from catdog.storage import StoreLocation, open_target


@dataclass(frozen=True)
class Options(RunOptions):
    """The run, and where its report goes."""

    out: str | None = None
    """Write the report into this folder, or below s3://bucket/prefix, instead of the store."""
    force: bool = False
    """Replace a report of more complete trials, too."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.out != "", "--out: empty; give the folder of the report, or leave the option out")


def main(arguments: Sequence[str]) -> int:
    """Write the report; returns the exit code."""
    options = parse(Options, arguments, "Build a run's report from the store alone.", "aggregate.py")
    from catdog.report.build import write_report

    store = StoreLocation.of(options.store).open()
    console = output_console()

    def track(objects: Objects, total: int) -> Objects:
        quiet = not console.is_terminal
        return rich.progress.track(objects, "reading", total, console=console, transient=True, disable=quiet)

    run_status = open_run(store, options.run, keep=True, track=track)
    target = None if options.out is None else open_target("--out", options.out)
    if target is not None and f"{target.url}/".startswith(f"{store.url}/{options.run}/"):
        raise UserError(
            f"--out {options.out}: lies among the run's files: leave the option out, or choose another folder"
        )
    content = write_report(store, run_status, target, track=track, force=options.force)
    print_outcome(console, store.url, content, None if target is None else target.url)
    return ExitCode.of(run_status.is_complete)


if __name__ == "__main__":
    sys.exit(run_job(main))
