"""Run a sweep: seeds × model variants as parallel trials, then the comparison table.

    python jobs/sweep.py PRESET [options]

The same command, run again after any interruption, skips finished trials and goes on with unfinished ones.
"""

import functools
import sys
from collections.abc import Sequence

from rich.console import Console

from catdog.options import COMPLETE, INCOMPLETE, output_console, parse_sweep, run_job
from catdog.storage import StoreLocation


def main(arguments: Sequence[str]) -> int:
    config = parse_sweep(arguments, "sweep.py")
    console: Console = output_console()
    from catdog.terminal import print_outcome, print_plan

    if config.dry_run:
        print_plan(console, config)
        return COMPLETE
    from catdog.report import write_report
    from catdog.sweep import run_sweep

    refresh = functools.partial(write_report, running=True)
    ledger = run_sweep(config, ("python", "jobs/sweep.py", *arguments), console, refresh)
    store = StoreLocation.of(config.store, config.store_patience).open()
    content = write_report(store, ledger)
    print_outcome(console, store.url, ledger, content.table, content.contrasts)
    return COMPLETE if ledger.is_complete else INCOMPLETE


if __name__ == "__main__":
    sys.exit(run_job(main))
