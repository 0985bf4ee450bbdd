"""The confusion matrix of classes as a hand-written SVG: matplotlib takes half a second for its 74 labels."""

from collections.abc import Sequence
from html import escape

import numpy as np
import numpy.typing as npt
import scipy
from rich.cells import cell_len

from catdog.formatting import printable, shorten_apart
from catdog.report.figures import SCHEME

_FONT = 11
_LETTER = 6
"""Approximate width of a letter, in the same unit."""
_LONGEST = 26
"""Letters shown of a class's name, or more where two would look alike."""
_DARK, _LEAST = "#08306b", 0.12
"""The colour of the largest share, on white in any scheme, and how much of it the smallest one has."""
MOST_CLASSES = 40
"""Most classes shown: of more, those that were confused most."""


def confusion_svg(
    confusion_KK: npt.NDArray[np.int64], classes: Sequence[str], noun: str, alike_KK: npt.NDArray[np.int64]
) -> str:
    """Return an SVG of the percentage of each class's images (rows) mistaken for each other class (columns).

    `noun` is what the page calls a class. The diagonal and shares of 0 stay empty. Of more than `MOST_CLASSES`, it
    shows those of the most frequent mistakes. Classes that are often mistaken for each other in `alike_KK`, a confusion
    matrix of many trials, stand together.
    """
    shares_KK = 100 * confusion_KK / confusion_KK.sum(axis=1, keepdims=True).clip(1)
    np.fill_diagonal(shares_KK, 0)
    shown = _most_confused(confusion_KK)
    shown = [shown[i] for i in _grouped(alike_KK[np.ix_(shown, shown)])]
    shares_KK, shortened = shares_KK[np.ix_(shown, shown)], shorten_apart([classes[k] for k in shown], _LONGEST)
    names = [escape(name) for name in shortened]
    top = max(1.0, float(shares_KK.max()))
    cell = 16 if len(names) > 20 else 20
    label = _LETTER * max(map(cell_len, shortened)) + 24
    side = cell * len(names)
    noun = escape(printable(noun))
    said = f"rows: true {noun}; columns: predicted"
    # Wide enough for the legend below a matrix of two classes.
    width, height = label + max(side, _LETTER * cell_len(said)) + 2, side + label + 58
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" font-family="system-ui, sans-serif" font-size="{_FONT}">{SCHEME}',
        f'<g transform="translate({label:.0f} 1)">',
        _grid(len(names), cell),
        *_cells(shares_KK, top, cell),
        *_labels(names, cell),
        f'<g transform="translate(0 {side + label:.0f})">{_legend(top, said, noun)}</g></g></svg>',
    ]
    return "".join(parts)


def _most_confused(confusion_KK: npt.NDArray[np.int64]) -> list[int]:
    """Return the classes to show: both classes of the most frequent mistake, of the next, ..., in their own order."""
    count = len(confusion_KK)
    if count <= MOST_CLASSES:
        return list(range(count))
    mistakes_KK = confusion_KK - np.diag(confusion_KK.diagonal())
    pairs = np.argsort(-mistakes_KK, axis=None, kind="stable")[: MOST_CLASSES**2]  # more than so few classes can form
    classes = np.stack(np.divmod(pairs, count), axis=1).flatten().tolist()
    return sorted(list(dict.fromkeys(classes))[:MOST_CLASSES])


def _grouped(alike_KK: npt.NDArray[np.int64]) -> list[int]:
    """Return the classes in the order of a clustering by their mistakes (average linkage; Bar-Joseph 2001)."""
    if len(alike_KK) < 3:
        return list(range(len(alike_KK)))
    shares_KK = alike_KK / alike_KK.sum(axis=1, keepdims=True).clip(1)
    distances = scipy.spatial.distance.squareform(1 / (0.001 + shares_KK + shares_KK.T), checks=False)
    tree = scipy.cluster.hierarchy.linkage(distances, "average", optimal_ordering=True)
    return [int(leaf) for leaf in scipy.cluster.hierarchy.leaves_list(tree)]


def _grid(count: int, cell: int) -> str:
    side = count * cell
    lines = "".join(f"M0 {at}H{side}M{at} 0V{side}" for at in range(0, side + 1, cell))
    diagonal = f"M0 0L{side} {side}"
    return (
        f'<rect width="{side}" height="{side}" fill="#fff"/>'
        f'<path d="{lines}{diagonal}" fill="none" stroke="#d5d5d5" stroke-width=".6"/>'
    )


def _cells(shares_KK: npt.NDArray[np.float64], top: float, cell: int) -> list[str]:
    return [
        f'<rect x="{column * cell}" y="{row * cell}" width="{cell}" height="{cell}" '
        f'fill="{_DARK}" fill-opacity="{_LEAST + (1 - _LEAST) * shares_KK[row, column] / top:.2f}"/>'
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


def _legend(top: float, said: str, noun: str) -> str:
    stops = f'<stop stop-color="{_DARK}" stop-opacity="{_LEAST}"/><stop offset="1" stop-color="{_DARK}"/>'
    return (
        f'<linearGradient id="scale">{stops}</linearGradient>'
        f'<text y="-12">{said}</text>'
        '<rect width="160" height="10" fill="#fff"/><rect width="160" height="10" fill="url(#scale)"/>'
        f'<text y="25">0</text><text x="160" y="25" text-anchor="end">{top:.3g} %</text>'
        f'<text y="42">of the {noun}’s images</text>'
    )
