"""What jobs print: the outcome of a sweep, and where a run stands."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.table import Table

from catdog.analysis.contrasts import Contrast
from catdog.analysis.tables import tie_lines
from catdog.formatting import format_accuracy, format_count
from catdog.runs.cost import spending_lines
from catdog.runs.paths import RunPaths
from catdog.runs.status import RunStatus, missing_trials, mixed_versions

MOST_MISSING = 20


def print_outcome(
    console: Console,
    url: str,
    run_status: RunStatus,
    table: pd.DataFrame,
    contrasts: Sequence[Contrast],
    folder: Path | None = None,
) -> None:
    """Print the comparison table, the verdicts, the trials not in the averages, the cost, and where the files are.

    `folder` is where the report was written, if not to the store.
    """
    run = RunPaths(run_status.manifest.run)

    def in_store(key: str) -> str:
        return f"{url}/{key}" if "://" in url else _shown(Path(url) / key)

    def in_report(name: str) -> str:
        return in_store(run.report(name)) if folder is None else _shown(folder.absolute() / name)

    _print_comparison(console, table)
    for contrast in sorted(contrasts, key=lambda one: not one.is_primary):
        console.print(contrast.verdict, highlight=False, markup=False)
    missing = missing_trials(run_status)
    for line in missing[:MOST_MISSING]:
        console.print(f"  {line}", soft_wrap=True, highlight=False, markup=False)
    if len(missing) > MOST_MISSING:
        console.print(f"  … and {len(missing) - MOST_MISSING} more in {in_report('table.md')}", highlight=False)
    for line in mixed_versions(run_status.launches):
        console.print(f"  {line}", soft_wrap=True, highlight=False, markup=False)
    for line in spending_lines(run_status.launches):
        console.print(f"{'spent':>16}  {line}", soft_wrap=True, highlight=False, markup=False)
    places = {
        "report": in_report("report.html"),
        "table": in_report("table.md"),
        "all trials": in_report("trials.csv"),
        "contact sheets": in_store(f"{run.trials}*/seed-*/snapshots/epoch-*.png"),
    }
    for name, place in places.items():
        console.print(f"{name:>16}  {place}", soft_wrap=True, highlight=False, markup=False)


def print_status(console: Console, url: str, run_status: RunStatus, table: pd.DataFrame) -> None:
    """Print the trial counts, the comparison table, and the failed and diverged trials."""
    counts = run_status.counts
    unfinished = sum(trial.unfinished and trial.result is None for trial in run_status.trials)
    console.print(
        f"{run_status.manifest.run} in {url}: {len(run_status.trials)} trials, {counts['complete']} complete, "
        f"{counts['diverged']} diverged, {counts['failed']} failed, {counts['missing']} missing "
        f"({unfinished} of them with a checkpoint)",
        soft_wrap=True,
        highlight=False,
    )
    _print_comparison(console, table)
    for line in missing_trials(run_status):
        if not line.startswith("missing"):
            console.print(f"  {line}", soft_wrap=True, highlight=False, markup=False)


def _print_comparison(console: Console, table: pd.DataFrame) -> None:
    console.print(comparison(table))
    for line in tie_lines(table):
        console.print(line, highlight=False, markup=False)


def comparison(table: pd.DataFrame) -> Table:
    """Return the comparison table for the terminal."""
    shown = Table(header_style="bold")
    for name in ("variant", "n", "Validation", "Test", "best run: Validation", "its Test"):
        shown.add_column(name, justify="left" if name == "variant" else "right", overflow="fold")
    for row in table.to_dict("records"):
        shown.add_row(
            row["variant"],
            format_count(row["n"], row["planned"]),
            format_accuracy(row["val_mean"], row["val_std"]),
            format_accuracy(row["test_mean"], row["test_std"]),
            format_accuracy(row["best_val"], None),
            format_accuracy(row["best_val_test"], None),
        )
    return shown


def _shown(path: Path) -> str:
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
