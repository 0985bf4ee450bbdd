"""A report's static figures, drawn by matplotlib. Tables in, PNG or SVG out; equal tables give equal bytes.

Text in an SVG stays text, and its ink follows the reader's light or dark colour scheme. Shapes: E epochs, S seeds.
"""

import io
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from catdog.analysis.intervals import Interval, t_interval
from catdog.analysis.verdicts import Contrast
from catdog.formatting import shorten
from catdog.report.plot_style import Axes, Figure, MaxNLocator, default_style, text_color

Array = npt.NDArray[np.float64]

MOST_ROWS, MOST_LINES = 100, 24
"""Variants in a plot: rows, and lines that can be told apart by colour and dash."""
MOST_POINTS = 200
"""Points in a row."""
NAME_LENGTH = 58
"""Letters of a variant's label that are shown."""
COLOURS = ("#3b7dd8", "#d9772b", "#2f9e6e", "#b3569b", "#8a7a1f", "#5f6fb5", "#c2504a", "#2a97a8")
"""Readable on white and on black; reused with another dash once they run out."""
_DASHES = ("solid", (0, (5, 1.5)), (0, (1.5, 1.2)))
_INK, _FAINT = "#010203", "#040506"
"""Placeholders, replaced by colours of the reader's scheme when an SVG is written."""
SCHEME = (
    "<style>:root{--ink:#222;--faint:#d5d5d5}"
    "@media(prefers-color-scheme:dark){:root{--ink:#ddd;--faint:#444}}text{fill:var(--ink)}</style>"
)


@dataclass(frozen=True)
class Row:
    """One row of a plot: a name, its values, and the interval of their mean."""

    name: str
    values: Array
    interval: Interval | None
    colour: str


def colour_of(position: int) -> str:
    """Return the colour of the variant at `position`."""
    return COLOURS[position % len(COLOURS)]


def accuracy_rows(trials: pd.DataFrame, variants: Sequence[str], column: str) -> list[Row]:
    """Return one row for each of the first variants: its complete trials' accuracies, their mean's 95 % interval."""
    complete = trials[trials["status"] == "complete"]
    rows = []
    for position, variant in enumerate(variants[:MOST_ROWS]):
        values = complete.loc[complete["variant"] == variant, column].to_numpy(dtype=np.float64)
        if len(values):
            rows.append(Row(variant, values, t_interval(values), colour_of(position)))
    return rows


def accuracy_figure(trials: pd.DataFrame, variants: tuple[str, ...]) -> bytes:
    """Return a PNG: one point per complete trial, validation beside test, with the mean and its interval."""
    sides = [("val_accuracy", "Validation"), ("test_accuracy", "Test")]
    rows = [accuracy_rows(trials, variants, column) for column, _ in sides]
    with _style("#222222", "#d5d5d5"):
        figure = Figure(figsize=(9, 0.9 + 0.6 * len(rows[0])), layout="constrained")
        for position, (_, title) in enumerate(sides):
            panel = figure.add_subplot(1, 2, position + 1)
            _draw_rows(panel, rows[position], "accuracy, %")
            panel.set_title(f"{title}{some_of(MOST_ROWS, len(variants), 'variants')}")
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=120, facecolor="white")
    return buffer.getvalue()


def accuracies_svg(trials: pd.DataFrame, variants: Sequence[str], column: str) -> str:
    """Return an SVG: one point per complete trial, with the mean and its interval."""
    rows = accuracy_rows(trials, variants, column)
    with _style() as written:
        figure = Figure(figsize=(4.6, 0.7 + 0.52 * len(rows)), layout="constrained")
        _draw_rows(figure.add_subplot(), rows, "accuracy, %")
        return written(figure)


def differences_svg(contrasts: Sequence[Contrast], variants: Sequence[str]) -> str:
    """Return an SVG: one row per contrast, with the pairs' differences, their mean and its 95 % interval."""
    rows = [
        Row(f"{c.variant} − {c.reference}", np.array(c.differences), c.interval, colour_of(variants.index(c.variant)))
        for c in contrasts[:MOST_ROWS]
        if c.n
    ]
    with _style() as written:
        figure = Figure(figsize=(4.6, 0.7 + 0.52 * len(rows)), layout="constrained")
        panel = figure.add_subplot()
        panel.axvline(0, color=_INK, linewidth=0.8)
        _draw_rows(panel, rows, "difference on Test, points")
        return written(figure)


def pairs_svg(contrast: Contrast, colour: str) -> str:
    """Return an SVG of one contrast's differences, seed by seed, of the first seeds."""
    seeds, differences = contrast.seeds[:MOST_POINTS], contrast.differences[:MOST_POINTS]
    with _style() as written:
        figure = Figure(figsize=(4.6, 2.6), layout="constrained")
        panel = figure.add_subplot()
        positions = range(len(seeds))
        panel.axhline(0, color=_INK, linewidth=0.8)
        panel.vlines(positions, 0, differences, color=colour, linewidth=2)
        panel.plot(positions, differences, "o", markersize=5, color=colour)
        step = -(-len(seeds) // 15)
        panel.set_xticks(list(positions)[::step], [str(seed) for seed in seeds[::step]])
        panel.set_xlim(-0.7, len(seeds) - 0.3)
        panel.set_xlabel("seed")
        panel.set_ylabel("difference on Test, points")
        panel.grid(axis="y")
        return written(figure)


def curves_svg(
    curves_ES: Mapping[str, pd.DataFrame],
    variants: Sequence[str],
    title: str,
    xlabel: str = "epoch",
    skipped: float = 0.25,
) -> str:
    """Return an SVG: a line for each of the first variants, the mean over seeds, in a band from the 10 % to the 90 %
    quantile.

    The vertical axis fits what comes after the first share `skipped`, whose extremes would flatten the rest.
    """
    curves_ES = dict(itertools.islice(curves_ES.items(), MOST_LINES))
    with _style() as written:
        figure = Figure(figsize=(4.6, 3.1 + 0.16 * len(curves_ES)), layout="constrained")
        panel = figure.add_subplot()
        for label, curve_ES in curves_ES.items():
            position = variants.index(label)
            dash = _DASHES[position // len(COLOURS) % len(_DASHES)]
            epochs, colour = curve_ES.index.to_numpy(), colour_of(position)
            low, high = (curve_ES.quantile(share, axis=1).to_numpy() for share in (0.1, 0.9))
            panel.fill_between(epochs, low, high, color=colour, alpha=0.14, linewidth=0)
            marker = "o" if len(epochs) == 1 else None
            means = curve_ES.mean(axis=1)
            panel.plot(
                epochs, means, color=colour, linewidth=1.6, label=shorten(label, NAME_LENGTH), ls=dash, marker=marker
            )
        panel.set_ylim(*_range(curves_ES.values(), skipped))
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        panel.set_xlabel(xlabel)
        panel.set_ylabel(title)
        panel.grid()
        figure.legend(loc="outside lower center", ncols=1 if max(map(len, curves_ES)) > 24 else 2)
        return written(figure)


def _range(curves_ES: Iterable[pd.DataFrame], skipped: float) -> tuple[float, float]:
    """Return the range of all curves after their first share `skipped`."""
    late = [curve_ES.iloc[int(skipped * len(curve_ES)) :].to_numpy() for curve_ES in curves_ES]
    low, high = min(map(np.nanmin, late)), max(map(np.nanmax, late))
    margin = 0.04 * (high - low) or 0.5
    return float(low - margin), float(high + margin)


def _draw_rows(panel: Axes, rows: Sequence[Row], xlabel: str) -> None:
    """Draw each row's name above its points: long names would leave no room beside them."""
    for position, row in enumerate(rows):
        shown = _evenly(row.values)
        # Offsets depend on the order of the points alone: a layout without randomness.
        offsets = [0.13 * ((i * 7) % 11 - 5) / 5 for i in range(len(shown))]
        panel.plot(shown, position + np.array(offsets), "o", markersize=4, alpha=0.65, color=row.colour, mew=0)
        mean = row.values.mean()
        if row.interval is not None:
            panel.plot([row.interval.low, row.interval.high], [position + 0.25] * 2, color=text_color(), linewidth=2)
        panel.plot([mean] * 2, [position - 0.17, position + 0.33], color=text_color(), linewidth=2)
        panel.annotate(
            shorten(row.name, NAME_LENGTH),
            (0.01, position - 0.34),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=8.5,
        )
    panel.set_yticks([])
    panel.set_ylim(len(rows) - 0.5, -0.55)
    some = any(len(row.values) > MOST_POINTS for row in rows)
    panel.set_xlabel(f"{xlabel}; {MOST_POINTS} points of a row at most" if some else xlabel)
    panel.grid(axis="x")


def _evenly(values: Array) -> Array:
    """Return the values; of more than `MOST_POINTS`, those of evenly spaced ranks, from the lowest to the highest."""
    if len(values) <= MOST_POINTS:
        return values
    return np.asarray(np.sort(values)[np.linspace(0, len(values) - 1, MOST_POINTS).round().astype(int)])


def some_of(most: int, count: int, nouns: str) -> str:
    """Return ` (the first 100 of 1,000 variants)` if a figure leaves some out, else nothing."""
    return f" (the first {most} of {count:,} {nouns})" if count > most else ""


class _Written:
    """Turns a figure into SVG while the style is active."""

    def __call__(self, figure: Figure) -> str:
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        svg = buffer.getvalue()
        svg = svg[svg.index("<svg") :].replace("<defs>", f"{SCHEME}<defs>", 1)
        svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
        svg = re.sub(r"font-family: [^;\"]*", "font-family: system-ui, sans-serif", svg)
        svg = re.sub(r"(font: [^;\"]*?)(?:'[^;\"]*|sans-serif)", r"\1system-ui, sans-serif", svg)
        return svg.replace(_INK, "var(--ink)").replace(_FAINT, "var(--faint)")


@contextmanager
def _style(ink: str = _INK, faint: str = _FAINT) -> Iterator[_Written]:
    settings: dict[str, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": "catdog",
        "text.parse_math": False,
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.linewidth": 0.8,
        "grid.linewidth": 0.6,
        "legend.frameon": False,
        "axes.axisbelow": True,
    }
    inks = ("text.color", "axes.labelcolor", "axes.titlecolor", "xtick.color", "ytick.color")
    faints = ("axes.edgecolor", "grid.color")
    settings |= dict.fromkeys(inks, ink) | dict.fromkeys(faints, faint)
    with default_style(settings):
        yield _Written()
