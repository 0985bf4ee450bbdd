"""Say where a run stands, from the store alone: no Ray, no torch.

python jobs/status.py --store URL --run NAME
python jobs/status.py --store URL --run NAME --watch
python jobs/status.py --store URL --run NAME --link
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from catdog.cli import ExitCode, RunOptions, output_console, parse, run_job
from catdog.config.recipe import require
from catdog.errors import UserError
from catdog.report.terminal import print_status
from catdog.runs.paths import RunPaths
from catdog.runs.status import open_run
from catdog.storage import Store, StoreLocation


@dataclass(frozen=True)
class Options(RunOptions):
    """The run, and how to look at it."""

    watch: bool = False
    """Go on looking until the run is complete or nobody sweeps it any more."""
    link: bool = False
    """Print instead a URL of the report, for a browser: on S3 a presigned one, which needs no credentials."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(not (self.watch and self.link), "--link: prints a URL and ends; leave out --watch")


def main(arguments: Sequence[str]) -> int:
    """Print the status; returns the exit code."""
    options = parse(Options, arguments, "Say where a run stands, from the store alone.", "status.py")
    store = StoreLocation.of(options.store).open()
    if options.link:
        print_link(store, options.run)
        return ExitCode.COMPLETE
    console = output_console()
    if options.watch:
        from catdog.report.watch import watch_run
        from catdog.sweep.lease import LeaseWatch

        try:
            run_status = watch_run(console, store, options.run, LeaseWatch(store, options.run).is_held)
        except KeyboardInterrupt:
            print("the watch has ended; the run goes on", file=sys.stderr)
            return ExitCode.INTERRUPTED
    else:
        run_status = open_run(store, options.run).with_short_labels()
    print_status(console, store.url, run_status)
    return ExitCode.of(run_status.is_complete)


def print_link(store: Store, run: str) -> None:
    """Print the URL of a run's report, and on stderr for whom and how long it is good."""
    page = RunPaths(run).report("report.html")
    if not store.exists(page):
        raise UserError(
            f"--link: {store.url} has no {page}: a sweep writes it a minute after its first trials began, aggregate.py "
            "at any time; or check --run and --store"
        )
    link = store.link(page)
    print(link.url)
    print(f"good {link.lasts}; it shows the report as it is when it is opened", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(run_job(main))
