"""Effects across sets as files and for the terminal."""

from collections.abc import Sequence

import pandas as pd
from rich.console import Console

from catdog.analysis.across_sets import AcrossSets, Effect
from catdog.analysis.across_words import figures, sentence
from catdog.formatting import NumbersTable, printable
from catdog.report.csv_text import csv_bytes
from catdog.report.tables import interval, p_value, signed


def csv_files(found: Sequence[AcrossSets]) -> dict[str, bytes]:
    """Return the tables of a comparison across sets by name."""
    return {"across.csv": csv_bytes(effects_table(found)), "across_all.csv": csv_bytes(summary_table(found))}


def effects_table(found: Sequence[AcrossSets]) -> pd.DataFrame:
    """Return across.csv: one row per contender and set, differences in percentage points."""
    return pd.DataFrame(
        [
            {
                "set": effect.of.name,
                "run": effect.of.run,
                "dataset": printable(effect.of.identity.recipe.dataset),  # pandas takes UTF-8 alone
                "backbone": printable(effect.of.identity.recipe.backbone),
                "variant": one.title,
                "reference": one.reference,
                "n": effect.n,
                "difference": effect.mean,
                "difference_low": effect.interval and effect.interval.low,
                "difference_high": effect.interval and effect.interval.high,
                "p": effect.difference and effect.difference.p,
                "p_adjusted": effect.difference and effect.difference.p_adjusted,
                "outcome": effect.outcome,
                "smallest_effect": effect.of.smallest_effect,
            }
            for one in found
            for effect in one.effects
        ]
    )


def summary_table(found: Sequence[AcrossSets]) -> pd.DataFrame:
    """Return across_all.csv: one row per contender; a set may count as better and as equivalent."""
    rows = []
    for one in found:
        outcomes = [effect.outcome for effect in one.effects]
        mean = one.mean and one.mean.interval()
        rows.append(
            {
                "variant": one.title,
                "sets": len(one.effects),
                **{
                    word: sum(word in says for says in outcomes)
                    for word in ("better", "worse", "equivalent", "undecided")
                },
                "p_all": one.difference.p,
                "p_all_adjusted": one.difference.p_adjusted,
                "mean": one.mean and 100 * one.mean.mean,
                "mean_low": mean and mean.low,
                "mean_high": mean and mean.high,
                "sentence": sentence(one),
            }
        )
    return pd.DataFrame(rows)


def print_across_sets(console: Console, found: Sequence[AcrossSets]) -> None:
    """Print one sentence per contender with its figures, then the table of all sets."""
    for one in found:
        console.print(sentence(one), style="bold", soft_wrap=True)
        for line in figures(one):
            console.print(f"  {line}", soft_wrap=True)
    columns = _columns([(one, effect) for one in found for effect in one.effects])
    console.print(NumbersTable(columns, optional=("dataset", "backbone", "p")))


def effects_rows(found: Sequence[AcrossSets]) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """Return the columns and rows of all effects; dataset and backbone are shown where sets differ in them."""
    columns = _columns([(one, effect) for one in found for effect in one.effects])
    return tuple(columns), tuple(zip(*columns.values(), strict=True))


def _columns(rows: Sequence[tuple[AcrossSets, Effect]]) -> dict[str, list[str]]:
    recipes = [effect.of.identity.recipe for _, effect in rows]
    datasets, backbones = [one.dataset for one in recipes], [one.backbone for one in recipes]
    answers = [effect.difference for _, effect in rows]
    return {
        "set": [effect.of.name for _, effect in rows],
        **({"dataset": datasets} if len(set(datasets)) > 1 else {}),
        **({"backbone": backbones} if len(set(backbones)) > 1 else {}),
        "variant": [one.title for one, _ in rows],
        "n": [str(effect.n) for _, effect in rows],
        "difference": [signed(effect.mean) for _, effect in rows],
        "95 % interval": [interval(effect.interval) for _, effect in rows],
        "p": [p_value(one.p if one else None) for one in answers],
        "adjusted p": [p_value(one.p_adjusted if one else None) for one in answers],
        "outcome": [effect.outcome for _, effect in rows],
    }
