"""Two studies that are sweeps: what the divergence weight λ does, and which randomness makes results scatter.

λ: the same variant with λ = 0 and six values, against the overlap of its masks and its
accuracy. Scatter: the same sweep with one source of randomness let go at a time (`--vary`), the others as in seed 0;
each is a run of its own, since what the seed changes belongs to a run's identity.
"""

import dataclasses
import io
from collections.abc import Mapping
from typing import Literal

import numpy as np
import pandas as pd

from catdog.config import SweepConfig
from catdog.ledger import Ledger
from catdog.paths import RunPaths
from catdog.seeding import PURPOSES, Purpose
from catdog.statistics import std_interval, summarise, summarise_accuracies, variance_share
from catdog.storage import Store, read_many

LAMBDAS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
WITHOUT = "multi-attention-free"
"""The variant with λ = 0."""
ALL: Literal["all"] = "all"


def lambda_config(config: SweepConfig) -> SweepConfig:
    """Return the sweep of a λ study; the run is named after the preset unless the user named it."""
    labels = (WITHOUT, *(f"multi-attention:lambda_divergence={value:g}" for value in LAMBDAS))
    return dataclasses.replace(config, run=config.run or f"{config.preset}-lambda", variants=labels)


def lambda_table(store: Store, ledger: Ledger) -> pd.DataFrame:
    """Return one row for each λ of multi-attention: accuracies, and the overlap of its masks in the chosen epoch."""
    rows: list[dict[str, object]] = []
    for label in ledger.manifest.variants:
        value = _lambda(ledger, label)
        if value is None:
            continue
        val, test = summarise_accuracies(ledger.results(label))
        overlap = summarise(_overlaps(store, ledger, label))
        rows.append(
            {
                "lambda": value,
                "variant": label,
                "n": val.n,
                "val_mean": val.mean,
                "val_std": val.std,
                "test_mean": test.mean,
                "test_std": test.std,
                "overlap_mean": overlap.mean,
                "overlap_std": overlap.std,
            }
        )
    return _numbers(rows).sort_values("lambda", ignore_index=True) if rows else pd.DataFrame()


def scatter_configs(config: SweepConfig) -> dict[str, SweepConfig]:
    """Return the sweeps of a scatter study by what the seed changes in them; the last one changes everything."""
    base = config.run or f"{config.preset}-scatter"
    purposes: tuple[Purpose | Literal["all"], ...] = (*PURPOSES, ALL)
    return {
        purpose: dataclasses.replace(
            config, run=f"{base}-{purpose}", recipe=dataclasses.replace(config.recipe, vary=purpose)
        )
        for purpose in purposes
    }


def scatter_table(ledgers: Mapping[str, Ledger]) -> pd.DataFrame:
    """Return one row for each variant and source of randomness: the standard deviation of its test accuracies.

    With 95 % intervals, and the share of the variance that it has when everything varies. The shares need not add up to
    one: sources act together.
    """
    rows: list[dict[str, object]] = []
    for label in ledgers[ALL].manifest.variants:
        accuracies = {
            purpose: np.array([result.test_accuracy for result in ledger.results(label)], dtype=np.float64)
            for purpose, ledger in ledgers.items()
        }
        for purpose, values in accuracies.items():
            summary, interval = summarise(values), std_interval(values)
            share = variance_share(values, accuracies[ALL]) if purpose != ALL else None
            rows.append(
                {
                    "variant": label,
                    "vary": purpose,
                    "n": summary.n,
                    "test_mean": summary.mean,
                    "test_std": summary.std,
                    "test_std_low": interval.low if interval else None,
                    "test_std_high": interval.high if interval else None,
                    "share": share[0] if share else None,
                    "share_low": share[1].low if share else None,
                    "share_high": share[1].high if share else None,
                }
            )
    return _numbers(rows)


def _numbers(rows: list[dict[str, object]]) -> pd.DataFrame:
    """Return the rows as a table whose numbers are numbers, unknown ones NaN."""
    table = pd.DataFrame(rows)
    return table.astype({name: float for name in table.columns if name not in ("variant", "vary", "n")})


def _lambda(ledger: Ledger, label: str) -> float | None:
    """Return λ of a variant of multi-attention; None for any other variant."""
    spec = ledger.manifest.spec(label)
    return float(spec.arguments["lambda_divergence"]) if spec.name in ("multi-attention", WITHOUT) else None


def _overlaps(store: Store, ledger: Ledger, label: str) -> list[float]:
    """Return the mean cosine between a trial's masks on validation, in its chosen epoch, for each complete trial."""
    run, folder = RunPaths(ledger.manifest.run), ledger.manifest.spec(label).folder
    epochs = {run.trial(folder, result.seed).history: result.best_epoch for result in ledger.results(label)}
    overlaps = []
    for key, data in read_many(store, epochs):
        history = pd.read_csv(io.BytesIO(data))
        overlaps += history.loc[history["epoch"] == epochs[key], "mask_overlap"].tolist()
    return overlaps
