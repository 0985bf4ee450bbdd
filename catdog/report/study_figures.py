"""Figures of the two studies: overlap and accuracy against λ, and the scatter from each source of randomness."""

import numpy as np
import numpy.typing as npt
import pandas as pd

from catdog.report.plot_style import BLUE, Axes, Figure, default_style, in_lines, png

RED = "#c0392b"
TITLE_WIDTH = 36
"""Letters in a line."""


@default_style({})
def lambda_figure(table: pd.DataFrame) -> bytes:
    """Return a PNG: mask overlap, and what λ costs on Validation and Test; λ is evenly spaced to make room for 0."""
    figure = Figure(figsize=(7, 6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    places = np.arange(len(table), dtype=np.float64)
    _means(above, places, table, "overlap", BLUE)
    above.set_ylabel("overlap of the masks\n(mean cosine)")
    for column, shift, colour, name in (("val", -0.05, BLUE, "Validation"), ("test", 0.05, RED, "Test")):
        _means(below, places + shift, table, f"{column}_difference", colour, name)
    below.axhline(0, color="black", linewidth=0.8)
    below.set_ylabel("accuracy minus that\nof λ = 0, points")
    below.set_xlabel("weight λ of the divergence loss")
    below.set_xticks(places, [f"{value:g}" for value in table["lambda"]])
    below.legend()
    for panel in (above, below):
        panel.grid(alpha=0.3)
    figure.suptitle(f"Means over seeds, with 95 % intervals (n = {_counts(table['n'])})", fontsize=10)
    return png(figure)


def _means(
    panel: Axes, places: npt.NDArray[np.float64], table: pd.DataFrame, name: str, colour: str, label: str | None = None
) -> None:
    mean = table[f"{name}_mean"]
    ends = [(mean - table[f"{name}_low"]).fillna(0), (table[f"{name}_high"] - mean).fillna(0)]
    panel.errorbar(places, mean, ends, fmt="o-", color=colour, capsize=3, label=label)


@default_style({})
def scatter_figure(table: pd.DataFrame) -> bytes:
    """Return a PNG: for each variant, the standard deviation of Test accuracy by source of randomness."""
    variants = list(dict.fromkeys(table["variant"]))
    figure = Figure(figsize=(2 + 3 * len(variants), 3.6), layout="constrained")
    panels = figure.subplots(1, len(variants), sharex=True, sharey=True, squeeze=False)
    for panel, variant in zip(panels[0], variants, strict=True):
        rows = table[table["variant"] == variant]
        places = np.arange(len(rows))
        low, high = rows["test_std"] - rows["test_std_low"], rows["test_std_high"] - rows["test_std"]
        panel.errorbar(rows["test_std"], places, xerr=[low.fillna(0), high.fillna(0)], fmt="o", color=BLUE, capsize=3)
        for place, row in zip(places, rows.to_dict("records"), strict=True):
            if np.isfinite(row["rank_low"]) and np.isfinite(row["test_std"]):
                ranks = sorted({int(row["rank_low"]), int(row["rank_high"])})
                where = (row["test_std"], place - 0.12)
                panel.annotate(f"rank {'–'.join(map(str, ranks))}", where, va="bottom", fontsize=7)
        panel.set_title(in_lines(variant, TITLE_WIDTH), fontsize=10)
        panel.set_xlabel("std of Test accuracy, points")
        panel.grid(axis="x", alpha=0.3)
        panel.set_yticks(places, rows["vary"])
    panels[0][0].set_ylim(table["vary"].nunique() - 0.5, -0.7)
    panels[0][0].set_xlim(left=0)
    figure.suptitle(
        f"What the seed changes, with 95 % intervals\nand the ranks of sources (n = {_counts(table['n'])})", fontsize=10
    )
    return png(figure)


def _counts(column: pd.Series) -> str:
    low, high = column.min(), column.max()
    return f"{low}" if low == high else f"{low} to {high}"
