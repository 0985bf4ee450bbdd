"""Check everything a sweep needs before spending a night on it: one line each, with the remedy.

    python jobs/doctor.py PRESET [options of sweep.py] [--json] [--wait-seconds S]
    python jobs/doctor.py PRESET [options of sweep.py] [--json] --cluster cluster.yaml      # before ray up

The exit code is 0 if nothing stands in the way, else 2.
"""

import sys

if __name__ == "__main__":
    from catdog.system.supervisor import hold_signals

    hold_signals()  # the imports below take a second

import math
from collections.abc import Sequence
from dataclasses import dataclass

from catdog.cli import ExitCode, given_options, output_console, parse_with_preset, run_job
from catdog.config.recipe import require
from catdog.config.sweep_options import SweepConfig
from catdog.errors import UserError
from catdog.formatting import counted


@dataclass(frozen=True)
class Options(SweepConfig):
    """The options of the sweep, and the doctor's own."""

    json: bool = False
    """Print each finding as a line of JSON."""
    wait_seconds: float = 900.0
    """How long to wait for a node that the autoscaler has to start."""
    cluster: str | None = None
    """The file for `ray up`, on AWS: check the account for it instead of a cluster; starts nothing and is free."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(not self.dry_run, "--dry-run: the checks start what they need; leave it out, or give --cluster")
        seconds = self.wait_seconds
        require(0 <= seconds < math.inf, f"--wait-seconds {seconds}: must be a number of seconds from 0")


def main(arguments: Sequence[str]) -> int:
    """Print the findings; returns the exit code."""
    about = "Check everything that a sweep needs, before a night is spent on it."
    options = parse_with_preset(Options, arguments, about, "doctor.py")
    if options.cluster is not None and "--wait-seconds" in given_options(arguments):
        raise UserError("--wait-seconds: with --cluster no node is started; leave it out")
    console = output_console()

    def print_line(text: str) -> None:
        console.print(text, soft_wrap=True)

    from catdog.sweep.doctor import examine, examine_before

    report_progress = (lambda message: None) if options.json else print_line
    if options.cluster is None:
        checks = examine(options, options.wait_seconds, report_progress)
    else:
        checks = examine_before(options, options.cluster)
    faults = 0
    for check in checks:
        print_line(check.as_json() if options.json else check.line)
        faults += check.status == "fault"
    if not options.json:
        print_line(
            "nothing stands in the way" if not faults else f"the sweep would fail: {counted(faults, 'check')} failed"
        )
    return ExitCode.MISTAKE if faults else ExitCode.COMPLETE


if __name__ == "__main__":
    sys.exit(run_job(main))
