"""matplotlib with its own defaults, whatever the user's files and variables say: equal tables give equal bytes.

The only module that imports matplotlib: the environment must be right before that.
"""

import io
import logging
import os
import re
import sys
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from catdog.errors import UserError, first_line
from catdog.formatting import printable

if "ipykernel" not in sys.modules:  # a notebook draws with its own settings, too
    os.environ["MPLBACKEND"] = "agg"  # not that of a notebook which started this process: it may not exist here
    os.environ["MATPLOTLIBRC"] = os.devnull
logging.getLogger("matplotlib").setLevel(logging.ERROR)  # silent about settings and caches that it cannot use
try:
    import matplotlib
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator
except UnicodeDecodeError as error:  # the working folder's own file is read first
    raise UserError(f"matplotlibrc: not UTF-8 ({first_line(error)}): remove it, or use another folder") from None

__all__ = ["BLUE", "Axes", "Figure", "MaxNLocator", "default_style", "in_lines", "png", "text_color"]

BLUE = "#33638d"


@contextmanager
def default_style(settings: Mapping[str, Any]) -> Iterator[None]:
    """Draw and save the block's figures with matplotlib's defaults, but for these settings."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(settings)  # type: ignore[arg-type]  # matplotlib lists its keys as literals
        yield


def text_color() -> str:
    """Return the colour of text in the current style."""
    return str(matplotlib.rcParams["text.color"])


def in_lines(label: str, width: int) -> str:
    """Return a label in lines that end where an item of it ends, if they can."""
    return textwrap.fill(re.sub("([:,])", r"\1 ", printable(label)), width).replace(": ", ":").replace(", ", ",")


def png(figure: Figure) -> bytes:
    """Return a figure as PNG, in the current style."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()
