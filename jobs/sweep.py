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
from dataclasses import dataclass, replace

from rich.console import Console

from catdog.cli import ABOUT_SWEEP, ExitCode, output_console, parse_with_preset, recorded_command, run_job
from catdog.config.recipe import require
from catdog.config.recipe_file import recipe_yaml
from catdog.config.sweep_options import SweepConfig
from catdog.runs.manifest import Identity
from catdog.runs.paths import RunPaths
from catdog.runs.status import open_run
from catdog.storage import StoreLocation

PILOT_SEED = 1_000_000


@dataclass(frozen=True)
class Options(SweepConfig):
    """The options of the sweep, and the job's own."""

    print_config: bool = False
    """Print all settings as a recipe file, and start nothing."""
    detect: float | None = None
    """With --dry-run: print how many seeds it takes to find a difference of so many points of Test accuracy."""
    power: float = 0.8
    """How surely --detect is to find it."""
    scatter_of: str | None = None
    """The run in this store whose paired differences tell --detect how they scatter (default: the pilot, else the run
    itself)."""
    pilot: int | None = None
    """Run so many seeds as a run of its own, NAME-pilot, to learn how differences scatter: no seed of the sweep."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.detect is None or (0 < self.detect <= 100 and self.dry_run),
            f"--detect {self.detect}: must be a number of points above 0, with --dry-run",
        )
        require(0.05 < self.power < 1, f"--power {self.power}: must be above 0.05 and below 1")
        require(self.detect is None or len(self.variant_specs) > 1, "--detect: needs two variants to compare")
        require(self.scatter_of is None or self.detect is not None, "--scatter-of: needs --detect")
        require(self.pilot is None or 2 <= self.pilot <= 1000, f"--pilot {self.pilot}: must be from 2 to 1000 seeds")
        require(self.pilot is None or not self.until_decided, "--pilot: leave out --until-decided")

    @property
    def pilot_run(self) -> str:
        """Return the name of the pilot's run."""
        return f"{self.run_name}-pilot"


def parse_options(arguments: Sequence[str]) -> Options:
    """Parse `PRESET [options]`; a pilot becomes the run that it is."""
    config = parse_with_preset(Options, arguments, ABOUT_SWEEP, "sweep.py")
    if config.pilot is None:
        return config
    seeds = f"{PILOT_SEED}-{PILOT_SEED + config.pilot - 1}"
    return replace(config, run=config.pilot_run, seeds=seeds, pilot=None)


def main(arguments: Sequence[str]) -> int:
    """Run the sweep and write its report; returns the exit code."""
    config = parse_options(arguments)
    if config.print_config:
        print(recipe_yaml(config), end="")
        return ExitCode.COMPLETE
    console = output_console()
    if config.dry_run:
        from catdog.sweep.dry_run import print_plan

        planned = print_plan(console, config)
        if config.detect is not None:
            print_power(console, config, planned)
        return ExitCode.COMPLETE
    from catdog.api import run_sweep

    run = run_sweep(config, recorded_command("sweep", arguments), console)
    return ExitCode.of(run.status.is_complete)


def print_power(console: Console, config: Options, planned: Identity) -> None:
    """Print how many seeds `--detect` takes, by the scatter of an earlier run if there is one."""
    from catdog.report.power_plan import Target, any_scatter_lines, plan_lines

    assert config.detect is not None
    target = Target(config.detect, config.power, config.looks_of if config.until_decided else None)
    store = StoreLocation.of(config.store).open()
    known = [config.scatter_of] if config.scatter_of is not None else [config.pilot_run, config.run_name]
    there = [run for run in known if store.exists(RunPaths(run).manifest)]
    require(
        config.scatter_of is None or bool(there),
        f"--scatter-of {config.scatter_of}: there is no such run in {store.url}; check it and --store",
    )
    lines = (
        plan_lines(target, open_run(store, there[0]), config.hourly_price, planned)
        if there
        else any_scatter_lines(target, len(config.variant_specs) - 1)
    )
    for line in lines:
        console.print(line, soft_wrap=True)


def recover(arguments: Sequence[str], interrupted: bool) -> None:
    """Do what a sweep that was lost could not do: release its run, and write the report of what it has finished."""
    from catdog.sweep.lease import read_lease, release_dead

    config = parse_options(arguments)
    if config.dry_run or config.print_config:
        return
    store = StoreLocation.of(config.store, config.store_patience).open()
    release_dead(store, config.run_name)
    is_swept = read_lease(store, config.run_name) is not None  # by another process
    if not (interrupted or is_swept) and store.exists(RunPaths(config.run_name).manifest):
        from catdog.api import report_lost_run

        report_lost_run(config, open_run(store, config.run_name), output_console())


if __name__ == "__main__":
    sys.exit(run_job(main, recover=recover))
