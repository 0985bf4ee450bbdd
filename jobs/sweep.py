"""Run a sweep: seeds × model variants as parallel trials, then the comparison table.

    python jobs/sweep.py PRESET [options]

The same command, run again after any interruption, skips finished trials and resumes unfinished ones.
"""

import sys
from collections.abc import Sequence

from catdog.cli import ExitCode, output_console, parse_sweep, run_job
from catdog.runs.status import RunStatus
from catdog.storage import Store, StoreLocation


def main(arguments: Sequence[str]) -> int:
    """Run the sweep and write its report; returns the exit code."""
    config = parse_sweep(arguments, "sweep.py")
    console = output_console()
    if config.dry_run:
        from catdog.sweep.plan import print_plan

        print_plan(console, config)
        return ExitCode.COMPLETE
    from catdog.sweep.run import run_sweep

    run_status = run_sweep(config, ("python", "jobs/sweep.py", *arguments), console, refresh)
    from catdog.report.build import write_report
    from catdog.report.terminal import print_outcome

    store = StoreLocation.of(config.store, config.store_patience).open()
    content = write_report(store, run_status, force=True)
    print_outcome(console, store.url, run_status, content.table, content.contrasts)
    return ExitCode.of(run_status.is_complete)


def refresh(store: Store, run_status: RunStatus) -> None:
    """Build the report of a sweep that is still running."""
    from catdog.report.build import write_report  # imports matplotlib, once trials have started

    write_report(store, run_status, running=True)


if __name__ == "__main__":
    sys.exit(run_job(main))
