"""Run a study: what the divergence weight does, or which source of randomness makes results scatter.

    python jobs/study.py lambda PRESET [options of sweep.py]
    python jobs/study.py scatter PRESET [options of sweep.py]

A study is one or more sweeps; the same command resumes it after any interruption. Its table and figure go into the
report of its (last) run. `python jobs/study.py lambda --help` lists the options.
"""

import sys

if __name__ == "__main__":
    from catdog.system.supervisor import hold_signals

    hold_signals()  # the imports below take a second

import dataclasses
import functools
from collections.abc import Callable, Sequence

from rich.console import Console

from catdog.analysis.studies import lambda_table, scatter_lines, scatter_table
from catdog.cli import ExitCode, given_options, output_console, parse_sweep, recorded_command, run_job
from catdog.config.presets import ALL, lambda_config, scatter_configs
from catdog.config.sweep_options import SweepConfig, require_all_seeds
from catdog.data.prepare import DatasetInfo, find_dataset, prepare_dataset
from catdog.errors import UserError
from catdog.runs.cost import total_cost
from catdog.runs.manifest import read_manifest
from catdog.runs.paths import RunPaths
from catdog.runs.status import RunStatus, open_run
from catdog.storage import Store, StoreLocation


def main(arguments: Sequence[str]) -> int:
    """Run the named study; returns the exit code."""
    if arguments[:1] in (["-h"], ["--help"]):
        print(__doc__)
        return ExitCode.COMPLETE
    if not arguments or arguments[0] not in STUDIES:
        raise UserError("usage: study.py STUDY PRESET [options of sweep.py]; studies: lambda, scatter")
    study, rest = arguments[0], arguments[1:]
    config = parse_sweep(rest, f"study.py {study}")
    ignored = {
        "lambda": [option for option in given_options(rest) if option in ("--grid", "--lambda-divergence")],
        "scatter": ["--vary"] * (config.recipe.vary != ALL) + ["--resample-split"] * config.recipe.resample_split,
    }[study]
    if ignored:
        raise UserError(f"{ignored[0]}: the study {study} sets it; leave the option out")
    require_all_seeds(config)
    return STUDIES[study](config, recorded_command("study", arguments), output_console())


def study_lambda(config: SweepConfig, command: tuple[str, ...], console: Console) -> int:
    """Sweep over the divergence weight; returns the exit code."""
    from catdog.report.csv_text import csv_bytes
    from catdog.report.study_figures import lambda_figure

    config = lambda_config(config)
    run_status = _sweep(config, command, console)
    if run_status is None:
        return ExitCode.COMPLETE
    store = StoreLocation.of(config.store, config.store_patience).open()
    table = lambda_table(store, run_status)
    _put(store, config.run_name, "lambda", csv_bytes(table), lambda_figure(table), console)
    return ExitCode.of(run_status.is_complete)


def study_scatter(config: SweepConfig, command: tuple[str, ...], console: Console) -> int:
    """Run one sweep per source of randomness, then one with all of them; returns the exit code."""
    from catdog.report.csv_text import csv_bytes
    from catdog.report.study_figures import scatter_figure

    store = StoreLocation.of(config.store, config.store_patience).open()
    dataset, _ = find_dataset(config, store)
    if dataset is None and not config.dry_run:  # only the images tell whether Validation came with them
        dataset = prepare_dataset(config, store, functools.partial(console.print, soft_wrap=True))
    configs, done, left = _scatter(config, store, dataset), dict[str, RunStatus](), config.max_cost
    for purpose, one in configs.items():
        if left is not None and left <= 0:
            console.print(f"--max-cost {config.max_cost:g} is reached: the study's other runs do not start")
            return ExitCode.of(False)
        run_status = _sweep(dataclasses.replace(one, max_cost=left), command, console)
        if run_status is not None:
            done[purpose] = run_status
            left = None if left is None else left - total_cost(run_status.launches, config.hourly_price)
    if not done:
        return ExitCode.COMPLETE
    table = scatter_table(done)
    for line in scatter_lines(table):
        console.print(line, soft_wrap=True)
    *_, last = configs.values()
    _put(store, last.run_name, "scatter", csv_bytes(table), scatter_figure(table), console)
    return ExitCode.of(all(run_status.is_complete for run_status in done.values()))


STUDIES: dict[str, Callable[[SweepConfig, tuple[str, ...], Console], int]] = {
    "lambda": study_lambda,
    "scatter": study_scatter,
}


def recover(arguments: Sequence[str], interrupted: bool) -> None:
    """Do what a study that was lost could not do: release its runs, report what they have finished, tell of it."""
    from catdog.api import report_lost_run
    from catdog.sweep.lease import release_dead

    config = parse_sweep(arguments[1:], f"study.py {arguments[0]}")
    if config.dry_run:
        return
    store = StoreLocation.of(config.store, config.store_patience).open()
    if arguments[0] == "lambda":
        configs = [lambda_config(config)]
    else:
        configs = [*_scatter(config, store, find_dataset(config, store)[0]).values()]
    for one in configs:
        was_lost = release_dead(store, one.run_name)
        if not interrupted and store.exists(RunPaths(one.run_name).manifest):
            told = one if was_lost else dataclasses.replace(one, notify=())  # the others' ends were told
            report_lost_run(told, open_run(store, one.run_name), output_console())


def _scatter(config: SweepConfig, store: Store, dataset: DatasetInfo | None) -> dict[str, SweepConfig]:
    """Return the sweeps of a scatter study.

    The split is no source if the dataset came with its validation images, nor in a study that was begun without it.
    """
    configs = scatter_configs(config, with_split=dataset is None or not dataset.has_validation)
    begun = read_manifest(store, configs[ALL].run_name)
    if begun is not None and not begun.identity.recipe.resample_split:
        return scatter_configs(config, with_split=False)
    return configs


def _sweep(config: SweepConfig, command: tuple[str, ...], console: Console) -> RunStatus | None:
    """Run one sweep of a study and write its report; None on a dry run."""
    from catdog.sweep.dry_run import print_plan

    if config.dry_run:
        print_plan(console, config)
        return None
    from catdog.api import run_sweep

    return run_sweep(config, command, console).status


def _put(store: Store, run: str, name: str, table_csv: bytes, figure_png: bytes, console: Console) -> None:
    for file, content in ((f"{name}.csv", table_csv), (f"figures/{name}.png", figure_png)):
        key = RunPaths(run).report(file)
        store.put(key, content)
        console.print(f"{'study':>16}  {store.url}/{key}", soft_wrap=True)


if __name__ == "__main__":
    sys.exit(run_job(main, recover=recover))
