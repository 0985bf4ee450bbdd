"""The confusion matrix of classes as a hand-written SVG: matplotlib takes half a second for its 74 labels."""

from collections.abc import Sequence
from html import escape

import numpy as np
import numpy.typing as npt

from catdog.formatting import colour_map, shorten
from catdog.report.figures import SCHEME

_FONT = 11
_LETTER = 6
"""Approximate width of a letter, in the same unit."""
_LONGEST = 26
"""Most letters shown of a class's name."""
MOST_CLASSES = 40
"""Most classes shown: of more, those that were confused most."""


def confusion_svg(confusion_KK: npt.NDArray[np.int64], classes: Sequence[str], noun: str) -> str:
    """Return an SVG of the percentage of each class's images (rows) mistaken for each other class (columns).

    `noun` is what the page calls a class. The diagonal and shares of 0 stay empty. Of more than `MOST_CLASSES`, it
    shows those of the most frequent mistakes.
    """
    shares_KK = 100 * confusion_KK / confusion_KK.sum(axis=1, keepdims=True).clip(1)
    np.fill_diagonal(shares_KK, 0)
    shown = _most_confused(confusion_KK)
    shares_KK, shortened = shares_KK[np.ix_(shown, shown)], [shorten(classes[k], _LONGEST) for k in shown]
    names = [escape(name) for name in shortened]
    top = max(1.0, float(shares_KK.max()))
    cell = 16 if len(names) > 20 else 20
    label = _LETTER * max(map(len, shortened)) + 24
    side = cell * len(names)
    # Wide enough for the legend below a matrix of two classes.
    width, height = label + max(side, 200) + 2, side + label + 58
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" font-family="system-ui, sans-serif" font-size="{_FONT}">{SCHEME}',
        f'<g transform="translate({label:.0f} 1)">',
        _grid(len(names), cell),
        *_cells(shares_KK, top, cell),
        *_labels(names, cell),
        f'<g transform="translate(0 {side + label:.0f})">{_legend(top, noun)}</g></g></svg>',
    ]
    return "".join(parts)


def _most_confused(confusion_KK: npt.NDArray[np.int64]) -> list[int]:
    """Return the classes to show, in their own order: both classes of the most frequent mistake, of the next, ..."""
    count = len(confusion_KK)
    if count <= MOST_CLASSES:
        return list(range(count))
    mistakes_KK = confusion_KK - np.diag(confusion_KK.diagonal())
    pairs = np.argsort(-mistakes_KK, axis=None, kind="stable")[: MOST_CLASSES**2]  # more than so few classes can form
    classes = np.stack(np.divmod(pairs, count), axis=1).flatten().tolist()
    return sorted(list(dict.fromkeys(classes))[:MOST_CLASSES])


def _grid(count: int, cell: int) -> str:
    side = count * cell
    lines = "".join(f"M0 {at}H{side}M{at} 0V{side}" for at in range(0, side + 1, cell))
    diagonal = f"M0 0L{side} {side}"
    return f'<path d="{lines}{diagonal}" fill="none" stroke="var(--faint)" stroke-width=".6"/>'


def _cells(shares_KK: npt.NDArray[np.float64], top: float, cell: int) -> list[str]:
    colours = ["#" + bytes(colour).hex() for colour in colour_map()]
    return [
        f'<rect x="{column * cell}" y="{row * cell}" width="{cell}" height="{cell}" '
        f'fill="{colours[round(255 * shares_KK[row, column] / top)]}"/>'
        for row, column in np.argwhere(shares_KK > 0).tolist()
    ]


def _labels(names: Sequence[str], cell: int) -> list[str]:
    side, middle = cell * len(names), cell / 2 + _FONT / 3
    rows = "".join(f'<text x="-6" y="{i * cell + middle:.1f}">{name}</text>' for i, name in enumerate(names))
    columns = "".join(
        f'<text transform="translate({i * cell + middle:.1f} {side + 6}) rotate(-90)">{name}</text>'
        for i, name in enumerate(names)
    )
    return [f'<g text-anchor="end">{rows}{columns}</g>']


def _legend(top: float, noun: str) -> str:
    stops = "".join(
        f'<stop offset="{share / 8:g}" stop-color="#{bytes(colour_map()[round(255 * share / 8)]).hex()}"/>'
        for share in range(9)
    )
    return (
        f'<linearGradient id="scale">{stops}</linearGradient>'
        f'<text y="-12">rows: true {noun}; columns: predicted</text>'
        '<rect width="160" height="10" fill="url(#scale)"/>'
        f'<text y="25">0</text><text x="160" y="25" text-anchor="end">{top:.3g} %</text>'
        f'<text y="42">of the {noun}’s images</text>'
    )
