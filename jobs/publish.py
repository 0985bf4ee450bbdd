"""Put a run's small files where a repository can keep them, and build the report from these alone.

python jobs/publish.py --run NAME [--store URL] [--to FOLDER]
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from catdog.cli import ExitCode, RunOptions, output_console, parse, run_job
from catdog.config.recipe import require
from catdog.report.terminal import print_outcome
from catdog.runs.status import open_run
from catdog.storage import StoreLocation, open_target


@dataclass(frozen=True)
class Options(RunOptions):
    """The run, and where its small files go."""

    to: str = "results/published"
    """A folder, or s3://bucket/prefix."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.to != "", "--to: empty; give a folder or s3://bucket/prefix")


def main(arguments: Sequence[str]) -> int:
    """Publish the run; returns the exit code."""
    options = parse(Options, arguments, "Publish the small files of a run, and its report.", "publish.py")
    from catdog.report.build import write_report
    from catdog.report.publish import publish_run

    store, target = StoreLocation.of(options.store).open(), open_target("--to", options.to)
    publish_run(store, open_run(store, options.run), target)
    published = open_run(target, options.run)
    content = write_report(target, published)
    print_outcome(output_console(), target.url, content)
    return ExitCode.of(published.is_complete)


if __name__ == "__main__":
    sys.exit(run_job(main))
