"""Formatting of numbers, durations, times, labels and mask values; the type of progress callbacks."""

import base64
import functools
import math
from collections.abc import Callable
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt

ReportProgress = Callable[[str], None]
"""Shows the user one line of progress."""


def format_accuracy(mean: float | None, std: float | None = None) -> str:
    """Return `92.29 ± 0.25`, `92.29` without a deviation, or a dash without a mean."""
    if mean is None or math.isnan(mean):
        return "–"
    return f"{mean:.2f}" if std is None or math.isnan(std) else f"{mean:.2f} ± {std:.2f}"


def format_points(value: float) -> str:
    """Return a signed difference in percentage points; zero has no sign."""
    size = format_size(value)
    return size if not float(size) else f"{'−' if value < 0 else '+'}{size}"


def format_size(value: float) -> str:
    """Return the size of a difference to two decimals, or to as many as its first digit needs: only zero is `0.00`."""
    size = abs(round(value, 9))  # anything smaller is rounding error of means of counts
    return f"{size:.{2 if size >= 0.005 or not size else -math.floor(math.log10(size))}f}"


def format_p(value: float) -> str:
    """Return a p-value: `0.083`, or `< 0.001`."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def format_range(low: float, high: float) -> str:
    """Return an interval of differences in percentage points: `−0.06 to +0.22`."""
    return f"{format_points(low)} to {format_points(high)}"


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


def shorten(text: str, length: int = 60) -> str:
    """Return the text, cut to at most `length` characters."""
    return text if len(text) <= length else text[: length - 1] + "…"


def readable(breed: str) -> str:
    """Return a class name with spaces instead of underscores."""
    return breed.replace("_", " ")


def data_uri(kind: str, data: bytes) -> str:
    """Return `data` as a base64 data URI of MIME type `kind`."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def now() -> str:
    """Return the current UTC time in ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


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
