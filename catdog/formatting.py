"""Formatting of numbers, durations, times, labels, foreign text and mask values; the type of progress callbacks."""

import base64
import functools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType

ReportProgress = Callable[[str], None]
"""Shows the user one line of progress."""


def format_accuracy(mean: float | None, std: float | None = None) -> str:
    """Return `92.29 ± 0.25`, `92.29` without a deviation, or a dash without a mean."""
    if mean is None or math.isnan(mean):
        return "–"
    return f"{mean:.2f}" if std is None or math.isnan(std) else f"{mean:.2f} ± {std:.2f}"


def format_points(value: float, digits: int = 2) -> str:
    """Return a signed difference, of percentage points if to two decimals; zero has no sign."""
    size = format_size(value, digits)
    return size if not float(size) else f"{'−' if value < 0 else '+'}{size}"


def format_size(value: float, digits: int = 2) -> str:
    """Return a difference's size to `digits` decimals, or as many as its first digit needs; only zero is `0.00`."""
    size = abs(round(value, 9))  # anything smaller is rounding error of means of counts
    return f"{size:.{digits if size >= 0.5 * 10**-digits or not size else -math.floor(math.log10(size))}f}"


def format_p(value: float) -> str:
    """Return a p-value: `0.083`, or `< 0.001`; near 0.05 as many digits as show on which side it lies: `0.0497`."""
    digits = next((digits for digits in range(3, 9) if round(value, digits) != 0.05), 3)
    return "< 0.001" if value < 0.001 else f"{value:.{digits}f}"


def format_range(low: float, high: float, digits: int = 2) -> str:
    """Return an interval of differences: `−0.06 to +0.22`."""
    return f"{format_points(low, digits)} to {format_points(high, digits)}"


def format_count(n: int, planned: int) -> str:
    """Return how many of the planned trials there are: `30`, or `28 of 30`."""
    return str(n) if n == planned else f"{n} of {planned}"


def format_seconds(seconds: float) -> str:
    """Return a human-readable duration: 45 s, 2.5 min, 12 min, 3.4 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.{1 if seconds < 570 else 0}f} min"
    return f"{seconds / 3600:.1f} h"


def format_bytes(count: int) -> str:
    """Return a size: 0.4 MB, 640.0 MB, 7.7 GB."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def shorten(text: str, length: int = 60) -> str:
    """Return the text, cut to at most `length` characters."""
    return text if len(text) <= length else text[: length - 1] + "…"


def shorten_apart(texts: Sequence[str], length: int) -> list[str]:
    """Return the texts without their middle, of `length` characters or as many more as it takes to tell them apart."""

    def short(text: str) -> str:
        end = length // 3
        return text if len(text) <= length else f"{text[: length - end - 1]}…{text[-end:]}"

    while len(set(map(short, texts))) < len(set(texts)):
        length += 1
    return list(map(short, texts))


def plural(noun: str) -> str:
    """Return a regular noun's plural: breeds, classes."""
    return noun + ("es" if noun.endswith("s") else "s")


def counted(count: int, noun: str) -> str:
    """Return a number of things: 1 epoch, 2,000 epochs."""
    return f"{count:,} {noun if count == 1 else plural(noun)}"


def readable(name: str) -> str:
    """Return a class name with spaces instead of underscores."""
    return printable(name.replace("_", " "))


_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""C0, DEL, C1, line separators, marks that reverse the direction of writing, and halves of UTF-16 pairs."""
_SHORT_ESCAPES = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}


def printable(text: str) -> str:
    r"""Return text from elsewhere for one line of output: control characters become JSON's escapes (`\n`, `\u001b`)."""
    return _CONTROL.sub(lambda match: _SHORT_ESCAPES.get(match[0], f"\\u{ord(match[0]):04x}"), text)


def markdown(text: str) -> str:
    """Return text from elsewhere for a line or a table's cell of Markdown: no HTML, links, code or cell borders."""
    return re.sub(r"([\\`|\[\]])", r"\\\1", printable(text)).replace("<", "&lt;")


def markdown_code(text: str) -> str:
    """Return text from elsewhere as a code span of Markdown, fenced by more backticks than it has in a row."""
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    pad = " " if "`" in text else ""
    return f"{fence}{pad}{printable(text)}{pad}{fence}"


@dataclass(frozen=True)
class NumbersTable:
    """A table for a terminal of any width: no number is split between lines.

    Long names in the first column are folded. Where there is no room, headers take several lines, then `optional`
    columns are left out, the last one first; a terminal too narrow even then gets one line per number.
    """

    columns: Mapping[str, Sequence[str]]
    """Header → cells; the first column names the rows."""
    optional: tuple[str, ...]
    has_frame: bool = True

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> Iterator["RenderableType"]:
        """Yield the table that fits, or the lines."""
        from rich import box, table  # here, since workers print nothing

        def width(text: str) -> int:
            return console.render_str(text).cell_len

        name, *_ = self.columns
        cells = {header: max(map(width, column), default=0) for header, column in self.columns.items()}
        cells[name] = min(cells[name], _LEAST_NAME_WIDTH)
        gap, edge = (3, 1) if self.has_frame else (2, -2)
        for left_out in (None, *(self.optional[count:] for count in range(len(self.optional), -1, -1))):
            shown = [header for header in self.columns if header not in (left_out or ())]
            words = {header: [header] if left_out is None else header.split() for header in shown}
            widths = {header: max(cells[header], *map(width, words[header])) for header in shown}
            if sum(widths.values()) + gap * len(shown) + edge <= options.max_width:
                break
        else:
            for row in zip(*self.columns.values(), strict=True):
                yield row[0]
                yield from (f"  {header} {cell}" for header, cell in zip(list(self.columns)[1:], row[1:], strict=True))
            return
        grid = table.Table(box=box.HEAVY_HEAD if self.has_frame else None, pad_edge=self.has_frame, header_style="bold")
        for header in shown:
            grid.add_column(
                header,
                justify="left" if header == name else "right",
                overflow="fold",
                width=None if header == name else widths[header],
            )
        for row in zip(*(self.columns[header] for header in shown), strict=True):
            grid.add_row(*row)
        yield grid


_LEAST_NAME_WIDTH = 12


def data_uri(kind: str, data: bytes) -> str:
    """Return `data` as a base64 data URI of MIME type `kind`."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def now() -> str:
    """Return the current UTC time in ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def readable_time(time: str) -> str:
    """Return an ISO time as `2026-01-01 20:00 UTC`; anything else unchanged."""
    try:
        stamp = datetime.fromisoformat(time)
    except ValueError:
        return time
    return f"{stamp.astimezone(UTC) if stamp.tzinfo else stamp:%Y-%m-%d %H:%M} UTC"


# Viridis (S. van der Walt, N. Smith, 2015) at 33 equidistant points; interpolation is off by at most 2 of 255.
_VIRIDIS = (
    "440154 470d60 48186a 482374 472d7b 453681 424086 3f4989 3b528b 375a8d 33638d 2f6a8e 2c728e 297a8e "
    "26818e 23898e 21908c 1f988b 1f9f88 21a685 28ae80 31b57b 3ebc74 4cc26c 5dc963 6ece58 82d34c 96d83f "
    "abdc32 c0df24 d5e21a eae51a fde725"
)


@functools.cache
def colour_map() -> npt.NDArray[np.uint8]:
    """Return viridis as a table of shape (256, 3)."""
    anchors = np.array([[int(code[i : i + 2], 16) for i in (0, 2, 4)] for code in _VIRIDIS.split()])
    at = np.linspace(0, 255, len(anchors))
    table = [np.interp(np.arange(256), at, anchors[:, channel]) for channel in range(3)]
    return np.stack(table, axis=1).round().astype(np.uint8)
