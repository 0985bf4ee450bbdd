"""Say where a run stands, from the store alone: no Ray, no torch.

python jobs/status.py --store URL --run NAME
"""

import sys
from collections.abc import Sequence

from catdog.analysis.tables import comparison_table
from catdog.cli import ExitCode, RunOptions, output_console, parse, run_job
from catdog.report.terminal import print_status
from catdog.runs.status import open_run
from catdog.storage import StoreLocation


def main(arguments: Sequence[str]) -> int:
    """Print the status; returns the exit code."""
    options = parse(RunOptions, arguments, "Say where a run stands, from the store alone.", "status.py")
    store = StoreLocation.of(options.store).open()
    run_status = open_run(store, options.run).with_short_labels()
    print_status(output_console(), store.url, run_status, comparison_table(run_status))
    return ExitCode.of(run_status.is_complete)


if __name__ == "__main__":
    sys.exit(run_job(main))
