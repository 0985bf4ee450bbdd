"""Tables of the two studies: the effect of λ, and which sources of randomness make results scatter."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from catdog.analysis.intervals import bounds, std_interval, summarise, t_interval, variance_share
from catdog.analysis.significance import rank_intervals
from catdog.analysis.tables import summarise_accuracies
from catdog.config.presets import ALL, WITH, WITHOUT
from catdog.formatting import format_size
from catdog.runs.history import epoch_row, read_history
from catdog.runs.results import TrialResult
from catdog.runs.status import RunStatus
from catdog.runs.trial_files import read_files
from catdog.storage import Store


def lambda_table(store: Store, run_status: RunStatus) -> pd.DataFrame:
    """Return one row per λ of multi-attention: accuracies, and mask overlap in the chosen epoch.

    With the differences from λ = 0, paired by seed, and 95 % intervals (Student's t, each on its own).
    """
    rows: list[dict[str, object]] = []
    manifest = run_status.manifest
    lambdas = {label: value for label in manifest.variants if (value := _lambda(run_status, label)) is not None}
    free = {one.seed: one for label, value in lambdas.items() if value == 0 for one in run_status.results(label)}
    for label, value in lambdas.items():
        results = run_status.results(label)
        pairs = [(result, free[result.seed]) for result in results if result.seed in free]
        overlaps = np.array(_overlaps(store, run_status, label), dtype=np.float64)
        overlap = summarise(overlaps)
        rows.append(
            {
                "lambda": value,
                "variant": manifest.spec(label).title,
                **summarise_accuracies(results),
                **_with_interval("overlap", overlaps),
                "overlap_std": overlap.std,
                **_with_interval("val_difference", _differences(pairs, "val_accuracy")),
                **_with_interval("test_difference", _differences(pairs, "test_accuracy")),
            }
        )
    return _numbers(rows).sort_values("lambda", ignore_index=True) if rows else pd.DataFrame()


def scatter_table(run_statuses: Mapping[str, RunStatus]) -> pd.DataFrame:
    """Return one row per variant and source of randomness: the standard deviation of test accuracy.

    With 95 % intervals, the variance as a share of that with everything varying, and the ranks that a source may have.
    Shares need not add up to one: sources interact.
    """
    rows: list[dict[str, object]] = []
    manifest = run_statuses[ALL].manifest
    for label in manifest.variants:
        accuracies = {
            source: np.array([result.test_accuracy for result in run_status.results(label)], dtype=np.float64)
            for source, run_status in run_statuses.items()
        }
        sources = [source for source in accuracies if source != ALL]
        ranks = dict(zip(sources, rank_intervals([accuracies[source] for source in sources]), strict=True))
        for source, values in accuracies.items():
            summary = summarise(values)
            shared = None if source == ALL else variance_share(values, accuracies[ALL])
            share, share_interval = shared or (None, None)
            rows.append(
                {
                    "variant": manifest.spec(label).title,
                    "vary": source,
                    "n": summary.n,
                    "test_mean": summary.mean,
                    "test_std": summary.std,
                    **bounds("test_std", std_interval(values)),
                    "share": share,
                    **bounds("share", share_interval),
                    "rank_low": ranks[source][0] if source in ranks else None,
                    "rank_high": ranks[source][1] if source in ranks else None,
                    "val_std": summarise_accuracies(run_statuses[source].results(label))["val_std"],
                }
            )
    return _numbers(rows)


def scatter_lines(table: pd.DataFrame) -> list[str]:
    """Return a sentence for each variant of a scatter table: its sources by the deviation, each with its ranks."""
    lines = []
    for variant, rows in table[table["vary"] != ALL].groupby("variant", sort=False):
        ranked = rows.sort_values("test_std", ascending=False, kind="stable")
        sources = [
            f"{row['vary']} {format_size(row['test_std'])} ({_ranks(row['rank_low'], row['rank_high'])})"
            for row in ranked.to_dict("records")
            if row["n"] > 1
        ]
        lines += [f"{variant}: std of Test by source, points (rank): {', '.join(sources)}"] if sources else []
    return lines


def _ranks(low: float, high: float) -> str:
    return f"{low:.0f}" if low == high else f"{low:.0f} to {high:.0f}"


def _numbers(rows: list[dict[str, object]]) -> pd.DataFrame:
    """Return the rows as a table with float columns, NaN where unknown."""
    table = pd.DataFrame(rows)
    return table.astype({name: float for name in table.columns if name not in ("variant", "vary", "n")})


def _lambda(run_status: RunStatus, label: str) -> float | None:
    """Return λ of a variant of multi-attention; None for any other variant."""
    spec = run_status.manifest.spec(label)
    return float(spec.arguments["lambda_divergence"]) if spec.name in (WITH, WITHOUT) else None


def _with_interval(name: str, values: npt.NDArray[np.float64]) -> dict[str, float | None]:
    return {f"{name}_mean": summarise(values).mean, **bounds(name, t_interval(values))}


def _differences(pairs: Sequence[tuple[TrialResult, TrialResult]], measure: str) -> npt.NDArray[np.float64]:
    return np.array([getattr(one, measure) - getattr(other, measure) for one, other in pairs], dtype=np.float64)


def _overlaps(store: Store, run_status: RunStatus, label: str) -> list[float]:
    """Return each complete trial's mean cosine between masks, on Validation in its chosen epoch."""
    results = {where: result for where, result in run_status.finished.items() if result.variant == label}
    overlaps = []
    for result, history in read_files(store, results, "history.csv", read_history):
        chosen = epoch_row(history, result.best_epoch)
        overlaps += [chosen["mask_overlap"]] if chosen and result.status == "complete" else []
    return overlaps
