"""A job's stdout and stderr: writing to them never fails, whether closed, full, disconnected or not UTF-8.

Telling about the work must never end it.
"""

import codecs
import io
import logging
import os
import select
import sys
from typing import Any

from catdog.formatting import printable

_IN_ASCII = str.maketrans(
    {"–": "-", "−": "-", "±": "+/-", "×": "x", "→": "->", "…": "...", "’": "'", "λ": "lambda", "∞": "inf"}
)


def encodable(text: str, encoding: str) -> str:
    """Return the text with what `encoding` lacks in ASCII: `+/-` for ±, `\\u732b` for 猫."""
    return text.encode(encoding, _IN_ASCII_HANDLER).decode(encoding)


def _in_ascii(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    text = error.object[error.start : error.end].translate(_IN_ASCII)
    return text.encode("ascii", "backslashreplace").decode(), error.end


_IN_ASCII_HANDLER = "catdog-in-ascii"
codecs.register_error(_IN_ASCII_HANDLER, _in_ascii)


def open_output() -> None:
    """Replace this process's stdout and stderr by streams that drop what cannot be written.

    A closed descriptor is opened on /dev/null first, or the next file to be opened would get its number, and with it
    whatever libraries and child processes print. Streams that a notebook or a test has replaced stay.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is getattr(sys, f"__{name}__"):
            setattr(sys, name, _unfailing(descriptor, getattr(sys, name)))
    assert logging.lastResort is not None
    logging.lastResort.setFormatter(LineFormatter())


def _unfailing(descriptor: int, before: io.TextIOWrapper | None) -> io.TextIOWrapper:
    return io.TextIOWrapper(
        io.BufferedWriter(_DroppingFile(descriptor, "w", closefd=False)),
        encoding=before.encoding if before else "utf-8",
        errors=_IN_ASCII_HANDLER,
        line_buffering=before is not None and (before.line_buffering or before.write_through),
    )


class _DroppingFile(io.FileIO):
    def write(self, data: Any, /) -> int:
        try:
            while (written := super().write(data)) is None:  # full, in non-blocking mode
                select.select((), (self,), ())
        except OSError:
            return len(data)
        return written


class LineFormatter(logging.Formatter):
    """Formats a log message, which may quote a stored file, as one line; a traceback keeps its lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Return the message without control characters."""
        return printable(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:
        """Return the traceback without control characters in its lines."""
        return "\n".join(map(printable, super().formatException(ei).split("\n")))
