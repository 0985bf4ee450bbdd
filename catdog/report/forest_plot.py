"""The forest plot of a comparison across sets: a panel per contender and a row per set, or the other way round."""

import math
import textwrap
from collections.abc import Sequence

from catdog.analysis.across_sets import AcrossSets, Effect
from catdog.analysis.verdicts import ON_NEW_IMAGES, ON_TEST_SET
from catdog.report.plot_style import BLUE, Axes, Figure, default_style, in_lines, png

MOST_IN_A_ROW = 6
MEAN = "mean of the sets"
GREY = "#e4e4e4"
NAME_WIDTH, TITLE_WIDTH = 36, 28
"""Letters in a line; nothing is cut."""
PANEL_WIDTH, LEAST_WIDTH, LINE_HEIGHT, LETTER = 2.3, 5.5, 0.17, 0.075
"""Inches."""


@default_style({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "text.parse_math": False})
def forest_plot(found: Sequence[AcrossSets]) -> bytes:
    """Return a PNG: the effect of each contender on each set, with its 95 % interval, and their mean if any.

    Of contenders and sets, the fewer have a panel each.
    """
    contenders, has_mean = [one.title for one in found], any(one.mean for one in found)
    sets = [*found[0].sets, *([MEAN] if has_mean else [])]
    by_set = len(sets) < len(contenders)
    panel_names, row_names = (sets, contenders) if by_set else (contenders, sets)
    names = [in_lines(name, NAME_WIDTH) for name in row_names]
    titles = [in_lines(name, TITLE_WIDTH) for name in panel_names]
    rows, columns = math.ceil(len(titles) / MOST_IN_A_ROW), min(MOST_IN_A_ROW, len(titles))
    lines, above = (max(text.count("\n") + 1 for text in texts) for texts in (names, titles))
    height = 0.4 + LINE_HEIGHT * (above + len(names) * (lines + 0.7))
    beside = LETTER * max(len(line) for name in names for line in name.splitlines())
    width = max(LEAST_WIDTH, 0.5 + beside + PANEL_WIDTH * columns)
    figure = Figure(figsize=(width, 0.7 + rows * height), layout="constrained")
    panels = list(figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat)
    most = max(effect.n for one in found for effect in one.effects)
    for number, (panel, title) in enumerate(zip(panels, titles, strict=False)):
        panel.axvline(0, color="#222222", linewidth=0.8, zorder=1)
        for row in range(len(names)):
            contender, place = (row, number) if by_set else (number, row)
            _draw(panel, row, found[contender], sets[place], most)
        panel.set_title(title, fontsize=9)
        panel.tick_params(labelbottom=True)
        panel.set_yticks(range(len(names)), names)
        panel.set_ylim(len(names) - 0.4, -0.6)
    for panel in panels[len(titles) :]:
        panel.set_visible(False)
    figure.supxlabel(textwrap.fill(_caption(found, has_mean), int(14 * width)), fontsize=8.5)
    return png(figure)


def _draw(panel: Axes, row: int, one: AcrossSets, set_name: str, most: int) -> None:
    """Draw a contender's effect on a set, or its mean over the sets, if there is one."""
    if set_name == MEAN and one.mean is not None and (interval := one.mean.interval()) is not None:
        panel.plot([interval.low, interval.high], [row, row], color="#222222", linewidth=1.5)
        panel.plot(100 * one.mean.mean, row, "D", markersize=7, color="#222222")
    for effect in one.effects:
        if effect.of.name != set_name:
            continue
        if effect.of.smallest_effect is not None:
            margin = effect.of.smallest_effect
            panel.barh(row, 2 * margin, left=-margin, height=1, color=GREY, zorder=0)
        if effect.mean is not None:
            if effect.interval is not None:
                panel.plot([effect.interval.low, effect.interval.high], [row, row], color=BLUE, linewidth=1.5)
            size = 4 + 5 * math.sqrt(effect.n / most)
            panel.plot(effect.mean, row, "o", markersize=size, color=BLUE, mfc=_face(effect), mew=1.2)


def _face(effect: Effect) -> str:
    """Return the colour inside a marker: filled if the adjusted p says better or worse."""
    return BLUE if effect.outcome.startswith(("better", "worse")) else "white"


def _caption(found: Sequence[AcrossSets], has_mean: bool) -> str:
    text = (
        f"Difference from {found[0].reference} on Test in points, with the 95 % interval {ON_TEST_SET}, each set "
        "alone. Filled: better or worse after correction for the number of tests. Larger: more pairs."
    )
    if any(effect.of.smallest_effect for one in found for effect in one.effects):
        text += " Grey: smaller than what matters."
    return text + (f" Diamond: the mean of the sets, with its 95 % interval {ON_NEW_IMAGES}." if has_mean else "")
