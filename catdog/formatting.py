"""How numbers, durations, times, labels and mask values are shown, and how a job reports progress."""

import base64
import functools
import math
from collections.abc import Callable
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt

ReportProgress = Callable[[str], None]
"""Shows the user one line about what is going on."""


def format_accuracy(mean: float | None, std: float | None) -> str:
    """Return `92.29 ± 0.25`, `92.29` where there is no deviation, or a dash."""
    if mean is None or math.isnan(mean):
        return "–"
    return f"{mean:.2f}" if std is None or math.isnan(std) else f"{mean:.2f} ± {std:.2f}"


def format_points(value: float) -> str:
    """Return a difference in percentage points with its sign; what rounds to zero has none."""
    rounded = round(value, 2)
    return f"{rounded:+.2f}".replace("-", "−") if rounded else "0.00"


def format_seconds(seconds: float) -> str:
    """Return a duration for people: 45 s, 2.5 min, 12 min, 3.4 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.{1 if seconds < 570 else 0}f} min"
    return f"{seconds / 3600:.1f} h"


def shorten(text: str, length: int = 60) -> str:
    """Return the text, cut to at most `length` characters."""
    return text if len(text) <= length else text[: length - 1] + "…"


def readable(breed: str) -> str:
    """Return the name of a class with spaces for underscores."""
    return breed.replace("_", " ")


def data_uri(kind: str, data: bytes) -> str:
    """Return some bytes as an address that holds them."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def now() -> str:
    """Return the time in UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


# Viridis (S. van der Walt, N. Smith, 2015) at 33 equidistant points; between them it is at most 2 of 255 off.
_VIRIDIS = (
    "440154 470d60 48186a 482374 472d7b 453681 424086 3f4989 3b528b 375a8d 33638d 2f6a8e 2c728e 297a8e "
    "26818e 23898e 21908c 1f988b 1f9f88 21a685 28ae80 31b57b 3ebc74 4cc26c 5dc963 6ece58 82d34c 96d83f "
    "abdc32 c0df24 d5e21a eae51a fde725"
)


@functools.cache
def colour_map() -> npt.NDArray[np.uint8]:
    """Return viridis as a table (256, 3)."""
    anchors = np.array([[int(code[i : i + 2], 16) for i in (0, 2, 4)] for code in _VIRIDIS.split()])
    at = np.linspace(0, 255, len(anchors))
    table = [np.interp(np.arange(256), at, anchors[:, channel]) for channel in range(3)]
    return np.stack(table, axis=1).round().astype(np.uint8)
