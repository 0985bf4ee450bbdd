"""A report's static figures, drawn by matplotlib. Tables in, PNG or SVG out; equal tables give equal bytes.

Text in an SVG stays text, and its ink follows the reader's light or dark colour scheme. Shapes: E epochs, S seeds.
"""

import io
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from catdog.analysis.intervals import Interval, t_interval
from catdog.analysis.verdicts import Contrast
from catdog.report.plot_style import Axes, Figure, MaxNLocator, default_style, in_lines, png, text_color

Array = npt.NDArray[np.float64]

MOST_ROWS, MOST_LINES = 100, 24
"""Variants in a plot: rows, and curves."""
MOST_TOGETHER, PANELS_IN_A_ROW = 4, 2
"""Curves in one panel; of more, each has its own."""
MOST_POINTS = 200
"""Points in a row."""
NAME_WIDTH, LABEL_WIDTH, TITLE_WIDTH = 58, 20, 28
"""Letters in a line of a variant's label, above a row, beside a curve and above its panel; nothing is cut."""
COLOURS = ("#3b7dd8", "#d86000", "#008450", "#a84878", "#9018f0", "#d81848", "#6090a8", "#c07878")
"""Readable on white and on black, and told apart by dichromats; reused once they run out."""
_DASHES = ("solid", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)))
_HEIGHT = 0.065
"""Of a line of a label, as a share of a panel's height."""
_INK, _FAINT = "#010203", "#040506"
"""Placeholders, replaced by colours of the reader's scheme when an SVG is written."""
SCHEME = (
    "<style>:root{--ink:#222;--faint:#d5d5d5}"
    "@media(prefers-color-scheme:dark){:root{--ink:#ddd;--faint:#444}}text{fill:var(--ink)}</style>"
)


def _settings(ink: str = _INK, faint: str = _FAINT) -> dict[str, Any]:
    """Return matplotlib's settings for these figures."""
    inks = ("text.color", "axes.labelcolor", "axes.titlecolor", "xtick.color", "ytick.color")
    faints = ("axes.edgecolor", "grid.color")
    return {
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
        **dict.fromkeys(inks, ink),
        **dict.fromkeys(faints, faint),
    }


def _svg(figure: Figure) -> str:
    """Return a figure as SVG, in the colours of the reader's scheme."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace("<defs>", f"{SCHEME}<defs>", 1)
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"font-family: [^;\"]*", "font-family: system-ui, sans-serif", svg)
    svg = re.sub(r"(font: [^;\"]*?)(?:'[^;\"]*|sans-serif)", r"\1system-ui, sans-serif", svg)
    return svg.replace(_INK, "var(--ink)").replace(_FAINT, "var(--faint)")


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


@default_style(_settings("#222222", "#d5d5d5"))
def accuracy_figure(trials: pd.DataFrame, variants: tuple[str, ...]) -> bytes:
    """Return a PNG: one point per complete trial, validation beside test, with the mean and its interval."""
    sides = [("val_accuracy", "Validation"), ("test_accuracy", "Test")]
    rows = [accuracy_rows(trials, variants, column) for column, _ in sides]
    figure = Figure(figsize=(9, 0.9 + 0.6 * len(rows[0])), layout="constrained")
    for position, (_, title) in enumerate(sides):
        panel = figure.add_subplot(1, 2, position + 1)
        _draw_rows(panel, rows[position], "accuracy, %")
        panel.set_title(f"{title}{some_of(MOST_ROWS, len(variants), 'variants')}")
    return png(figure)


@default_style(_settings())
def accuracies_svg(trials: pd.DataFrame, variants: Sequence[str], column: str) -> str:
    """Return an SVG: one point per complete trial, with the mean and its interval."""
    rows = accuracy_rows(trials, variants, column)
    figure = Figure(figsize=(4.6, _row_height(rows)), layout="constrained")
    _draw_rows(figure.add_subplot(), rows, "accuracy, %")
    return _svg(figure)


@default_style(_settings())
def differences_svg(contrasts: Sequence[Contrast], variants: Sequence[str]) -> str:
    """Return an SVG: one row per contrast, with the pairs' differences, their mean and its 95 % interval."""
    rows = [
        Row(f"{c.variant} − {c.reference}", np.array(c.differences), c.interval, colour_of(variants.index(c.variant)))
        for c in contrasts[:MOST_ROWS]
        if c.n
    ]
    figure = Figure(figsize=(4.6, _row_height(rows)), layout="constrained")
    panel = figure.add_subplot()
    panel.axvline(0, color=_INK, linewidth=0.8)
    _draw_rows(panel, rows, "difference on Test, points")
    return _svg(figure)


@default_style(_settings())
def pairs_svg(contrast: Contrast, colour: str) -> str:
    """Return an SVG of one contrast's differences, seed by seed, of the first seeds."""
    seeds, differences = contrast.seeds[:MOST_POINTS], contrast.differences[:MOST_POINTS]
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
    return _svg(figure)


@default_style(_settings())
def curves_svg(
    curves_ES: Mapping[str, pd.DataFrame],
    variants: Sequence[str],
    title: str,
    xlabel: str = "epoch",
    skipped: float = 0.25,
) -> str:
    """Return an SVG: a line for each of the first variants, the mean over seeds, in a band from the 10 % to the 90 %
    quantile.

    Up to four share a panel, named at their ends; each of more has its own, before the mean of the first, dashed. The
    vertical axis fits what comes after the first share `skipped`, whose extremes would flatten the rest.
    """
    curves_ES = dict(itertools.islice(curves_ES.items(), MOST_LINES))
    together = len(curves_ES) <= MOST_TOGETHER
    groups = [list(curves_ES)] if together else [[label] for label in curves_ES]
    columns = min(PANELS_IN_A_ROW, len(groups))
    rows = -(-len(groups) // columns)
    figure = Figure(figsize=(4.6, 3.1 if together else 0.3 + 1.6 * rows), layout="constrained")
    panels = list(figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat)
    panels[0].set_ylim(*_range(curves_ES.values(), skipped))
    panels[0].xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    for panel, labels in zip(panels, groups, strict=False):
        for label in labels:
            position = variants.index(label)
            dash = _DASHES[position % len(_DASHES)] if together else _DASHES[0]
            _draw_curve(panel, curves_ES[label], colour_of(position), dash)
        panel.grid()
    for panel in panels[len(groups) - columns : len(groups)]:
        panel.tick_params(labelbottom=True)
    for panel in panels[len(groups) :]:
        panel.set_axis_off()
    if together:
        _name_ends(panels[0], {label: curve_ES.mean(axis=1) for label, curve_ES in curves_ES.items()})
    else:
        _title_panels(panels, curves_ES)
    figure.supxlabel(xlabel, fontsize=9)
    figure.supylabel(title, fontsize=9)
    return _svg(figure)


def _draw_curve(panel: Axes, curve_ES: pd.DataFrame, colour: str, dash: Any) -> None:
    epochs = curve_ES.index.to_numpy()
    low, high = (curve_ES.quantile(share, axis=1).to_numpy() for share in (0.1, 0.9))
    panel.fill_between(epochs, low, high, color=colour, alpha=0.14, linewidth=0)
    marker = "o" if len(epochs) == 1 else None
    panel.plot(epochs, curve_ES.mean(axis=1), color=colour, linewidth=1.6, ls=dash, marker=marker)


def _name_ends(panel: Axes, means_E: Mapping[str, pd.Series]) -> None:
    """Write each curve's name to the right of its end, moved down as far as the names above it take."""
    low, high = panel.get_ylim()
    ends = {label: (float(mean_E.iloc[-1]) - low) / (high - low) for label, mean_E in means_E.items()}
    top, lines = 1.0, {label: in_lines(label, LABEL_WIDTH) for label in means_E}
    below = sum(_HEIGHT * (1 + text.count("\n")) for text in lines.values())
    for label in sorted(ends, key=lambda label: -ends[label]):
        height = _HEIGHT * (1 + lines[label].count("\n"))
        middle = max(min(ends[label], top - height / 2), below - height / 2)
        top, below = middle - height / 2, below - height
        position = list(means_E).index(label)
        panel.annotate(
            lines[label],
            (means_E[label].index[-1], float(np.clip(means_E[label].iloc[-1], low, high))),
            (1.06, middle),
            textcoords="axes fraction",
            va="center",
            fontsize=8.5,
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": panel.lines[position].get_color(), "shrinkA": 1, "shrinkB": 2},
        )


def _title_panels(panels: Sequence[Axes], curves_ES: Mapping[str, pd.DataFrame]) -> None:
    first = next(iter(curves_ES.values())).mean(axis=1)
    for panel, label in zip(panels, curves_ES, strict=False):
        panel.plot(first.index.to_numpy(), first, color=text_color(), linewidth=0.9, ls=_DASHES[1], zorder=1)
        panel.set_title(in_lines(label, TITLE_WIDTH), fontsize=8.5, loc="left")


def _range(curves_ES: Iterable[pd.DataFrame], skipped: float) -> tuple[float, float]:
    """Return the range of all curves after their first share `skipped`."""
    late = [curve_ES.iloc[int(skipped * len(curve_ES)) :].to_numpy() for curve_ES in curves_ES]
    low, high = min(map(np.nanmin, late)), max(map(np.nanmax, late))
    margin = 0.04 * (high - low) or 0.5
    return float(low - margin), float(high + margin)


def _draw_rows(panel: Axes, rows: Sequence[Row], xlabel: str) -> None:
    """Draw each row's name above its points: long names would leave no room beside them."""
    names = [in_lines(row.name, NAME_WIDTH) for row in rows]
    places = np.cumsum([_extra_height(name) for name in names]) + np.arange(len(rows))
    for place, row, name in zip(places.tolist(), rows, names, strict=True):
        shown = _evenly(row.values)
        # Offsets depend on the order of the points alone: a layout without randomness.
        offsets = [0.13 * ((i * 7) % 11 - 5) / 5 for i in range(len(shown))]
        panel.plot(shown, place + np.array(offsets), "o", markersize=4, alpha=0.65, color=row.colour, mew=0)
        mean = row.values.mean()
        if row.interval is not None:
            panel.plot([row.interval.low, row.interval.high], [place + 0.25] * 2, color=text_color(), linewidth=2)
        panel.plot([mean] * 2, [place - 0.17, place + 0.33], color=text_color(), linewidth=2)
        panel.annotate(name, (0.01, place - 0.21), xycoords=("axes fraction", "data"), va="bottom", fontsize=8.5)
    panel.set_yticks([])
    panel.set_ylim(places[-1] + 0.5 if len(rows) else 0.5, -0.55)
    some = any(len(row.values) > MOST_POINTS for row in rows)
    panel.set_xlabel(f"{xlabel}; {MOST_POINTS} points of a row at most" if some else xlabel)
    panel.grid(axis="x")


def _extra_height(name: str) -> float:
    """Return the height of a name's lines but one, in rows."""
    return 0.3 * name.count("\n")


def _row_height(rows: Sequence[Row]) -> float:
    """Return the height of a plot of these rows, in inches."""
    return 0.7 + 0.52 * (len(rows) + sum(_extra_height(in_lines(row.name, NAME_WIDTH)) for row in rows))


def _evenly(values: Array) -> Array:
    """Return the values; of more than `MOST_POINTS`, those of evenly spaced ranks, from the lowest to the highest."""
    if len(values) <= MOST_POINTS:
        return values
    return np.asarray(np.sort(values)[np.linspace(0, len(values) - 1, MOST_POINTS).round().astype(int)])


def some_of(most: int, count: int, nouns: str) -> str:
    """Return ` (the first 100 of 1,000 variants)` if a figure leaves some out, else nothing."""
    return f" (the first {most} of {count:,} {nouns})" if count > most else ""
