"""The files of a run's report: table.csv, table.md, trials.csv, summary.json, figures. Alone imports matplotlib."""

import shlex
from pathlib import Path

import pandas as pd

from catdog.aggregation import comparison_table, format_accuracy, gaps, summary, trials_table
from catdog.ledger import Ledger
from catdog.paths import RunPaths
from catdog.records import to_json
from catdog.report.figures import accuracy_figure
from catdog.statistics import best_run
from catdog.storage import LocalStore, Store

_FORMAT = "%.6f"


def write_report(store: Store, ledger: Ledger, folder: Path | None = None) -> pd.DataFrame:
    """Write all files of the report into the run's report folder, or into `folder`, and return the comparison table."""
    table = comparison_table(ledger)
    run = RunPaths(ledger.manifest.run)
    files = build_report(ledger, table) | best_contact_sheets(store, ledger)
    for name, content in files.items():
        if folder is None:
            store.put(run.report(name), content)
        else:
            LocalStore(folder.absolute()).put(name, content)
    return table


def build_report(ledger: Ledger, table: pd.DataFrame) -> dict[str, bytes]:
    """Return the report's files by name."""
    trials = trials_table(ledger)
    files = {
        "table.csv": table.to_csv(index=False, float_format=_FORMAT).encode(),
        "table.md": table_markdown(ledger, table).encode(),
        "trials.csv": trials.to_csv(index=False, float_format=_FORMAT).encode(),
        "summary.json": to_json(summary(ledger, table)),
    }
    if ledger.counts["complete"]:
        files["figures/accuracy.png"] = accuracy_figure(trials, ledger.manifest.variants)
    return files


def best_contact_sheets(store: Store, ledger: Ledger) -> dict[str, bytes]:
    """Return the contact sheet of each variant's best run, in its chosen epoch."""
    sheets = {}
    for label in ledger.manifest.variants:
        best = best_run(ledger.results(label))
        if best is None or best.best_epoch is None:
            continue
        folder = ledger.manifest.spec(label).folder
        key = RunPaths(ledger.manifest.run).trial(folder, best.seed).snapshot(best.best_epoch)
        if store.exists(key):
            sheets[f"figures/masks-{folder}.png"] = store.get(key)
    return sheets


def table_markdown(ledger: Ledger, table: pd.DataFrame) -> str:
    """Return the comparison table for people, with what is missing from it and how it was made."""
    manifest = ledger.manifest
    recipe = manifest.identity.recipe
    lines = [
        f"# {manifest.run}",
        "",
        f"{recipe.dataset}, {recipe.backbone} ({recipe.weights}{', frozen' if recipe.freeze else ''}), "
        f"{recipe.image_size} px, {recipe.epochs} epochs. Accuracy in percent, mean ± sample standard deviation over "
        "n seeds. The best run is a maximum over n, chosen by validation.",
        "",
        "| variant | n | Validation | Test | best run: Validation | its Test |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for row in table.to_dict("records"):
        of_planned = "" if row["n"] == row["planned"] else f" of {row['planned']}"
        lines.append(
            f"| {row['variant']} | {row['n']}{of_planned} "
            f"| {format_accuracy(row['val_mean'], row['val_std'])} "
            f"| {format_accuracy(row['test_mean'], row['test_std'])} "
            f"| {format_accuracy(row['best_val'], None)} | {format_accuracy(row['best_val_test'], None)} |"
        )
    missing = gaps(ledger)
    if missing:
        lines += ["", f"Not in the averages ({len(missing)}):", "", *(f"- {line}" for line in missing)]
    commands = ", then ".join(f"`{shlex.join(command)}`" for command in manifest.commands)
    lines += ["", f"Made by {commands} (code {(manifest.code or 'unknown')[:12]}).", ""]
    return "\n".join(lines)
