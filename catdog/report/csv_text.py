"""Tables as CSV in which no text is a formula: a spreadsheet would run `=…` (OWASP, "CSV injection")."""

import csv
import io
import re
from collections.abc import Iterable, Sequence

import pandas as pd

from catdog.formatting import printable

_FORMAT = "%.6f"
_FIGURES = re.compile(r"(?:[-+±%<(),. \d]|\bto\b)*")
"""What the cells of numbers are made of; nothing in it can be run."""


def csv_bytes(table: pd.DataFrame) -> bytes:
    """Return a table as CSV, numbers to six decimals."""
    harmless = table.copy()
    for name in table.select_dtypes(exclude="number"):
        harmless[name] = pd.Series([_not_a_formula(cell) for cell in table[name]], table.index, dtype=object)
    return harmless.to_csv(index=False, float_format=_FORMAT).encode()


def cells_csv(rows: Iterable[Sequence[str]]) -> str:
    """Return the cells of a shown table as CSV, with ASCII's minus and nothing in place of a dash."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([_plain(cell) for cell in row] for row in rows)
    return buffer.getvalue()


def _plain(cell: str) -> str:
    figures = cell.replace("−", "-")
    return "" if cell == "–" else figures if _FIGURES.fullmatch(figures) else str(_not_a_formula(cell))


def _not_a_formula(cell: object) -> object:
    """Return text with an apostrophe before what a spreadsheet would run, also where it takes `;` to separate cells."""
    return re.sub(r"(^|;)(?=[=+\-@＝＋－＠])", r"\1'", printable(cell)) if isinstance(cell, str) else cell
