"""Say where a run stands, from the store alone: no Ray, no torch.

python jobs/status.py --store URL --run NAME
"""

import sys
from collections.abc import Sequence

from catdog.aggregation import comparison_table
from catdog.ledger import open_ledger
from catdog.options import COMPLETE, INCOMPLETE, RunOptions, output_console, parse, run_job
from catdog.storage import StoreLocation
from catdog.terminal import print_status


def main(arguments: Sequence[str]) -> int:
    options = parse(RunOptions, arguments, "Say where a run stands, from the store alone.", "status.py")
    store = StoreLocation.of(options.store).open()
    ledger = open_ledger(store, options.run)
    print_status(output_console(), store.url, ledger, comparison_table(ledger))
    return COMPLETE if ledger.is_complete else INCOMPLETE


if __name__ == "__main__":
    sys.exit(run_job(main))
