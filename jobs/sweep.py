"""Run a sweep: seeds × model variants as parallel trials, then the comparison table.

    python jobs/sweep.py PRESET [options]
    python jobs/sweep.py my.yaml [options]

The same command, run again after any interruption, skips finished trials and resumes unfinished ones.
"""

import sys

if __name__ == "__main__":
    from catdog.system.supervisor import hold_signals

    hold_signals()  # the imports below take a second

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console

from catdog.cli import ExitCode, output_console, parse_with_preset, run_job
from catdog.config.recipe_file import recipe_yaml
from catdog.config.sweep_options import SweepConfig
from catdog.runs.looks import Look
from catdog.runs.paths import RunPaths
from catdog.runs.status import RunStatus, open_run
from catdog.storage import Store, StoreLocation


@dataclass(frozen=True)
class Options(SweepConfig):
    """The options of the sweep, and the job's own."""

    print_config: bool = False
    """Print all settings as a recipe file, and start nothing."""


def parse_options(arguments: Sequence[str]) -> Options:
    """Parse `PRESET [options]`."""
    about = "Run a sweep: seeds × model variants as parallel trials, then the comparison table."
    return parse_with_preset(Options, arguments, about, "sweep.py")


def main(arguments: Sequence[str]) -> int:
    """Run the sweep and write its report; returns the exit code."""
    config = parse_options(arguments)
    if config.print_config:
        print(recipe_yaml(config), end="")
        return ExitCode.COMPLETE
    console = output_console()
    if config.dry_run:
        from catdog.sweep.plan import print_plan

        print_plan(console, config)
        return ExitCode.COMPLETE
    from catdog.sweep.run import run_sweep

    run_status = run_sweep(config, ("python", "jobs/sweep.py", *arguments), console, refresh, look)
    return report(config, run_status, console)


def report(config: SweepConfig, run_status: RunStatus, console: Console) -> int:
    """Write a run's report and print it; returns the exit code."""
    from catdog.report.build import write_report
    from catdog.report.terminal import print_outcome

    store = StoreLocation.of(config.store, config.store_patience).open()
    content = write_report(store, run_status, force=True)
    print_outcome(console, store.url, run_status, content.table, content.contrasts)
    return ExitCode.of(run_status.is_complete)


def recover(arguments: Sequence[str], interrupted: bool) -> None:
    """Do what a sweep that was lost could not do: release its run, and write the report of what it has finished."""
    from catdog.sweep.lease import release_dead

    config = parse_options(arguments)
    store = StoreLocation.of(config.store, config.store_patience).open()
    release_dead(store, config.run_name)
    if not interrupted and store.exists(RunPaths(config.run_name).manifest):
        report(config, open_run(store, config.run_name), output_console())


def look(store: Store, run_status: RunStatus) -> Look | None:
    """Return what the next look at a sweep finds that may stop early; None if none is left."""
    from catdog.analysis.predictions import read_predictions
    from catdog.analysis.stopping import take_look

    return take_look(run_status, read_predictions(store, run_status))


def refresh(store: Store, run_status: RunStatus) -> None:
    """Build the report of a sweep that is still running."""
    from catdog.report.build import write_report  # imports matplotlib, once trials have started

    write_report(store, run_status, running=True)


if __name__ == "__main__":
    sys.exit(run_job(main, recover=recover))
