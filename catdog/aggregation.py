"""The comparison table of a run, from the store alone: no Ray, no torch.

Accuracies are percentages. Failed, diverged and missing trials are listed, never averaged away.
"""

import dataclasses
from collections.abc import Sequence

import pandas as pd

from catdog.ledger import Ledger, best_run
from catdog.records import Launch, TrialResult
from catdog.spending import summarise_spending
from catdog.statistics import summarise, summarise_accuracies

TRIAL_COLUMNS = [
    "variant", "seed", "status", "val_accuracy", "test_accuracy", "best_epoch", "epochs", "seconds", "config_hash",
]  # fmt: skip
TABLE_COLUMNS = ["variant", "n", "val_mean", "val_std", "test_mean", "test_std", "best_val", "best_val_test"]


def trials_table(ledger: Ledger) -> pd.DataFrame:
    """Return one row for every planned trial."""
    rows = []
    for entry in ledger.entries:
        missing = TrialResult(
            entry.trial.variant.label,
            entry.trial.seed,
            entry.status,
            None,
            None,
            None,
            0,
            float("nan"),
            entry.config_hash,
        )
        rows.append((entry.result or missing).row())
    table = pd.DataFrame(rows)
    assert list(table.columns[: len(TRIAL_COLUMNS)]) == TRIAL_COLUMNS
    integers = [name for name in table.columns if name.endswith(("epoch", "epochs", "parameters", "threads"))]
    return table.astype(dict.fromkeys(integers, "Int64"))


def comparison_table(ledger: Ledger) -> pd.DataFrame:
    """Return one row for every variant; the best run is chosen by validation."""
    rows = []
    for label in ledger.manifest.variants:
        results = ledger.results(label)
        val, test = summarise_accuracies(results)
        best = best_run(results)
        rows.append(
            {
                "variant": label,
                "n": val.n,
                "val_mean": val.mean,
                "val_std": val.std,
                "test_mean": test.mean,
                "test_std": test.std,
                "best_val": best.val_accuracy if best else None,
                "best_val_test": best.test_accuracy if best else None,
                "best_seed": best.seed if best else None,
                "planned": len(ledger.manifest.seeds[label]),
                "val_class_mean": summarise(
                    [r.val_class_accuracy for r in results if r.val_class_accuracy is not None]
                ).mean,
                "test_class_mean": summarise(
                    [r.test_class_accuracy for r in results if r.test_class_accuracy is not None]
                ).mean,
                "head_parameters": results[0].head_parameters if results else None,
                "trial_seconds": summarise([r.seconds for r in results]).mean,
            }
        )
    table = pd.DataFrame(rows)
    assert list(table.columns[: len(TABLE_COLUMNS)]) == TABLE_COLUMNS
    return table.astype({"best_seed": "Int64", "head_parameters": "Int64"})


def gaps(ledger: Ledger) -> list[str]:
    """Return one line for every trial that is not in the averages."""
    lines = []
    for entry in ledger.entries:
        if entry.status == "failed" and entry.failure is not None:
            failure = entry.failure
            lines.append(
                f"failed: {entry.trial.name}: {failure.error}: {failure.message} "
                f"(attempts: {failure.attempts}; log: {failure.log})"
            )
        elif entry.status == "diverged" and entry.result is not None:
            lines.append(f"diverged: {entry.trial.name}: the loss was not finite in epoch {entry.result.best_epoch}")
        elif entry.status == "missing":
            why = entry.damage or ("unfinished" if entry.unfinished else None)
            lines.append(f"missing: {entry.trial.name}{f' ({why})' if why else ''}")
    return lines


def mixtures(launches: Sequence[Launch]) -> list[str]:
    """Return one line for everything that was not the same in all launches of a run: it may have changed results."""
    seen = {"code (git's trees)": dict.fromkeys(launch.code[:12] for launch in launches if launch.code)}
    for launch in launches:
        for package, version in launch.versions.items():
            seen.setdefault(package, {})[version] = None
    return [f"launches ran with different {name}: {', '.join(found)}" for name, found in seen.items() if len(found) > 1]


def format_accuracy(mean: float | None, std: float | None) -> str:
    """Return `92.29 ± 0.25`, `92.29` where there is no deviation, or a dash."""
    if mean is None or pd.isna(mean):
        return "–"
    return f"{mean:.2f}" if std is None or pd.isna(std) else f"{mean:.2f} ± {std:.2f}"


def records(table: pd.DataFrame) -> list[dict[str, object]]:
    """Return the rows of a table, None where something is not known."""
    return [
        {str(name): None if pd.isna(value) else value for name, value in row.items()}
        for row in table.astype(object).to_dict("records")
    ]


def summary(ledger: Ledger, table: pd.DataFrame, contrasts: pd.DataFrame, attention: pd.DataFrame) -> dict[str, object]:
    """Return the content of summary.json."""
    manifest = ledger.manifest
    return {
        "run": manifest.run,
        "preset": manifest.preset,
        "complete": ledger.is_complete,
        "trials": {status: ledger.counts[status] for status in ("complete", "diverged", "failed", "missing")},
        "gaps": gaps(ledger),
        "mixtures": mixtures(ledger.launches),
        "trial_seconds": sum(entry.result.seconds for entry in ledger.entries if entry.result),
        "spent": [
            dataclasses.asdict(spending) | {"idle_share": spending.idle_share}
            for spending in summarise_spending(ledger.launches)
        ],
        "variants": records(table),
        "contrasts": records(contrasts),
        "attention": records(attention),
        "identity": manifest.identity.to_json(),
        "commands": [list(command) for command in manifest.commands],
        "versions": dict(manifest.versions),
        "code": manifest.code,
        "created_at": manifest.created_at,
        "finished_at": max((entry.result.finished_at or "" for entry in ledger.entries if entry.result), default=None),
    }
