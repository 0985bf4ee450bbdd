"""A run's tables and summary.

Accuracies are percentages. Failed, diverged and missing trials are listed, never averaged away.
"""

import dataclasses
import re
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import pandas as pd

from catdog.analysis.intervals import summarise
from catdog.formatting import format_accuracy, format_count
from catdog.runs.cost import summarise_spending
from catdog.runs.results import TrialResult, best_run
from catdog.runs.status import RunStatus, missing_trials, mixed_versions


def trials_table(run_status: RunStatus) -> pd.DataFrame:
    """Return trials.csv: one row per planned trial."""
    rows = []
    for trial in run_status.trials:
        missing = TrialResult(
            trial.planned.variant.title,
            trial.planned.seed,
            trial.status,
            None,
            None,
            None,
            0,
            float("nan"),
            trial.config_hash,
        )
        rows.append((trial.result or missing).row())
    table = pd.DataFrame(rows)
    integers = [name for name in table.columns if name.endswith(("epoch", "epochs", "parameters", "threads"))]
    return table.astype(dict.fromkeys(integers, "Int64"))


def comparison_table(run_status: RunStatus) -> pd.DataFrame:
    """Return table.csv: one row per variant; the best run is chosen by validation."""
    rows = []
    side_tasks = _side_tasks(run_status)
    for label in run_status.manifest.variants:
        results = run_status.results(label)
        best = best_run(results)
        tied = [result for result in results if best is not None and result.val_accuracy == best.val_accuracy]
        ties = [result.test_accuracy for result in tied if result.test_accuracy is not None]
        rows.append(
            {
                "variant": label,
                **summarise_accuracies(results),
                "best_val": best.val_accuracy if best else None,
                "best_val_test": best.test_accuracy if best else None,
                "best_seed": best.seed if best else None,
                "planned": len(run_status.manifest.seeds[label]),
                "val_class_mean": summarise(
                    [r.val_class_accuracy for r in results if r.val_class_accuracy is not None]
                ).mean,
                "test_class_mean": summarise(
                    [r.test_class_accuracy for r in results if r.test_class_accuracy is not None]
                ).mean,
                "head_parameters": results[0].head_parameters if results else None,
                "trial_seconds": summarise([r.seconds for r in results]).mean,
                "best_ties": len(ties),
                "best_ties_test_mean": summarise(ties).mean,
                "best_ties_test_low": min(ties, default=None),
                "best_ties_test_high": max(ties, default=None),
                **_side_accuracies(results, side_tasks),
            }
        )
    return pd.DataFrame(rows).astype({"best_seed": "Int64", "head_parameters": "Int64"})


def _side_tasks(run_status: RunStatus) -> list[str]:
    """Return the tasks besides the main one that any trial has, as `val_TASK` and `test_TASK`."""
    names = (name for label in run_status.manifest.variants for one in run_status.results(label)
             for name in one.side_accuracies)  # fmt: skip
    return [name.removesuffix("_accuracy") for name in dict.fromkeys(names)]


def _side_accuracies(results: Sequence[TrialResult], side_tasks: Sequence[str]) -> dict[str, float | None]:
    row: dict[str, float | None] = {}
    for name in side_tasks:
        found = summarise(
            [one.side_accuracies[key] for one in results if (key := f"{name}_accuracy") in one.side_accuracies]
        )
        row |= {f"{name}_mean": found.mean, f"{name}_std": found.std}
    return row


def side_columns(table: pd.DataFrame) -> dict[str, str]:
    """Return what to call the accuracies of other tasks in table.csv, by the beginning of their columns' names."""
    splits = {"val": "Validation", "test": "Test"}
    found = [match for name in table.columns if (match := re.fullmatch("(val|test)_(.+)_std", name))]
    return {
        f"{split}_{task}": f"{task[0].upper()}{task[1:]}: {splits[split]}"
        for split, task in map(re.Match.groups, found)
    }


def accuracy_cells(row: Mapping[Hashable, Any]) -> tuple[str, ...]:
    """Return n, Validation, Test, the best run's Validation and its Test of a row of table.csv, as they are shown."""
    return (
        format_count(row["n"], row["planned"]),
        format_accuracy(row["val_mean"], row["val_std"]),
        format_accuracy(row["test_mean"], row["test_std"]),
        format_accuracy(row["best_val"]),
        format_accuracy(row["best_val_test"]),
    )


def tie_lines(table: pd.DataFrame) -> list[str]:
    """Return one line per variant of which several runs share the best validation accuracy."""
    lines = []
    for row in table.to_dict("records"):
        low, high, mean = (format_accuracy(row[f"best_ties_test_{name}"]) for name in ("low", "high", "mean"))
        if row["best_ties"] > 1:
            lines.append(
                f"{row['variant']}: {row['best_ties']} runs tie for the best Validation, "
                f"{format_accuracy(row['best_val'])}; their Test is "
                f"{low if low == high else f'{low} to {high}, on average {mean}'}. The run shown is that of the lowest "
                f"seed, {row['best_seed']}."
            )
    return lines


def records(table: pd.DataFrame) -> list[dict[Hashable, Any]]:
    """Return the rows of a table, with None for missing values."""
    return table.astype(object).where(table.notna(), None).to_dict("records")


def summary(
    run_status: RunStatus, table: pd.DataFrame, contrasts: pd.DataFrame, attention: pd.DataFrame
) -> dict[str, object]:
    """Return the content of summary.json."""
    manifest = run_status.manifest
    return {
        "run": manifest.run,
        "preset": manifest.preset,
        "complete": run_status.is_complete,
        "trials": {status: run_status.counts[status] for status in ("complete", "diverged", "failed", "missing")},
        "gaps": missing_trials(run_status),
        "mixtures": mixed_versions(run_status),
        "trial_seconds": sum(trial.result.seconds for trial in run_status.trials if trial.result),
        "spent": [
            dataclasses.asdict(spending) | {"idle_share": spending.idle_share}
            for spending in summarise_spending(run_status.launches)
        ],
        "variants": records(table),
        "contrasts": records(contrasts),
        "attention": records(attention),
        "declared": dataclasses.asdict(manifest.declaration),
        "identity": dataclasses.asdict(manifest.identity),
        "commands": [list(command) for command in manifest.commands],
        "versions": dict(manifest.versions),
        "code": manifest.code,
        "created_at": manifest.created_at,
        "finished_at": max(
            (trial.result.finished_at or "" for trial in run_status.trials if trial.result), default=None
        ),
    }


def summarise_accuracies(results: Sequence[TrialResult]) -> dict[str, float | None]:
    """Return n and the means and deviations of complete trials' accuracies, by the names of their columns."""
    val = summarise([result.val_accuracy for result in results if result.val_accuracy is not None])
    test = summarise([result.test_accuracy for result in results if result.test_accuracy is not None])
    return {"n": val.n, "val_mean": val.mean, "val_std": val.std, "test_mean": test.mean, "test_std": test.std}
