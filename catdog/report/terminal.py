"""What jobs print: the outcome of a sweep, and where a run stands."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd
from rich.console import Console, RenderableType

from catdog.analysis.log_loss import log_loss_line
from catdog.analysis.run_data import ReportContent
from catdog.analysis.tables import accuracy_cells, comparison_table, side_columns, tie_lines
from catdog.formatting import NumbersTable, counted, format_accuracy
from catdog.runs.cost import spending_lines
from catdog.runs.paths import RunPaths
from catdog.runs.status import RunStatus, missing_trials, mixed_versions

MOST_MISSING = 20
MOST_VERDICTS = 5
"""In a message, which a phone shows."""


def print_outcome(console: Console, url: str, content: ReportContent, report_url: str | None = None) -> None:
    """Print the comparison table, the verdicts, the trials not in the averages, the cost, and where the files are.

    `report_url` is where the report was written, if not to the store.
    """
    run_status = content.run_status
    run = RunPaths(run_status.manifest.run)

    def in_report(name: str) -> str:
        return place_of(url, run.report(name)) if report_url is None else place_of(report_url, name)

    _print(console, _comparison(content.table))
    for contrast in sorted(content.contrasts, key=lambda one: not one.is_primary):
        console.print(contrast.words, style="bold")
        console.print(f"  {contrast.figures}", soft_wrap=True)
        if line := log_loss_line(contrast):
            console.print(f"  {line}", soft_wrap=True)
    _print(console, _some(missing_trials(run_status), f"in {in_report('table.md')}"))
    for line in mixed_versions(run_status):
        console.print(f"  {line}", soft_wrap=True)
    _print(console, _waiting(run_status))
    for line in spending_lines(run_status.launches):
        console.print(f"{'spent':>16}  {line}", soft_wrap=True)
    places = {
        "report": in_report("report.html"),
        "table": in_report("table.md"),
        "all trials": in_report("trials.csv"),
        "contact sheets": place_of(url, f"{run.trials}*/seed-*/snapshots/epoch-*.png"),
    }
    for name, place in places.items():
        console.print(f"{name:>16}  {place}", soft_wrap=True)


def print_status(console: Console, url: str, run_status: RunStatus) -> None:
    """Print the trial counts, the comparison table, and the failed and diverged trials."""
    _print(console, status_parts(url, run_status))


def status_parts(url: str, run_status: RunStatus) -> Iterator[RenderableType]:
    """Yield what `print_status` prints."""
    yield counts_line(url, run_status)
    yield from _comparison(comparison_table(run_status))
    known = [line for line in missing_trials(run_status) if not line.startswith("missing")]
    yield from _some(known, "in the table.md that aggregate.py writes")
    yield from _waiting(run_status)


def counts_line(url: str, run_status: RunStatus) -> str:
    """Return how many trials a run has, and how many have ended how."""
    counts = run_status.counts
    unfinished = sum(trial.unfinished and trial.result is None for trial in run_status.trials)
    return (
        f"{run_status.manifest.run} in {url}: {counted(len(run_status.trials), 'trial')}, "
        f"{counts['complete']} complete, {counts['diverged']} diverged, {counts['failed']} failed, "
        f"{counts['missing']} missing ({unfinished} of them with a checkpoint)"
    )


def outcome_lines(url: str, content: ReportContent) -> Iterator[str]:
    """Yield the outcome of a sweep in a few lines of plain text, for a message."""
    yield counts_line(url, content.run_status)
    for contrast in sorted(content.contrasts, key=lambda one: not one.is_primary)[:MOST_VERDICTS]:
        yield contrast.verdict
    yield from (f"spent: {line}" for line in spending_lines(content.run_status.launches))


def _print(console: Console, parts: Iterator[RenderableType]) -> None:
    for part in parts:
        console.print(part, soft_wrap=isinstance(part, str))


def _some(lines: Sequence[str], elsewhere: str) -> Iterator[str]:
    yield from (f"  {line}" for line in lines[:MOST_MISSING])
    if len(lines) > MOST_MISSING:
        yield f"  … and {len(lines) - MOST_MISSING} more {elsewhere}"


def _waiting(run_status: RunStatus) -> Iterator[str]:
    if run_status.waiting is not None:
        yield f"  not finished: {run_status.waiting}"


def _comparison(table: pd.DataFrame) -> Iterator[RenderableType]:
    yield comparison(table)
    if (others := other_tasks(table)) is not None:
        yield others
    yield from tie_lines(table)


def comparison(table: pd.DataFrame) -> NumbersTable:
    """Return the comparison table for the terminal, of the main task."""
    rows = table.to_dict("records")
    names = ("variant", "n", "Validation", "Test", "best run: Validation", "its Test")
    columns = zip(*((row["variant"], *accuracy_cells(row)) for row in rows), strict=True)
    return NumbersTable(dict(zip(names, columns, strict=True)), optional=names[-2:])


def other_tasks(table: pd.DataFrame) -> NumbersTable | None:
    """Return the accuracies of other tasks for the terminal, a row for each task of a variant; None without any."""
    tasks = [name.removeprefix("val_") for name in side_columns(table) if name.startswith("val_")]
    found = [(row, task) for row in table.to_dict("records") for task in tasks if pd.notna(row[f"val_{task}_mean"])]
    columns = {
        "variant": [row["variant"] for row, _ in found],
        "other task": [task for _, task in found],
    }
    for split, title in (("val", "Validation"), ("test", "Test")):
        columns[title] = [
            format_accuracy(row[f"{split}_{task}_mean"], row[f"{split}_{task}_std"]) for row, task in found
        ]
    return NumbersTable(columns, optional=()) if found else None


def place_of(url: str, key: str) -> str:
    """Return where an object is: its url, or its path from the current folder."""
    if "://" in url:
        return f"{url}/{key}"
    path = Path(url) / key
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
