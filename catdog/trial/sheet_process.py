"""Draws contact sheets in a process of its own, for a worker that trains on a GPU.

On a thread of the worker, drawing holds Python's lock for tens of milliseconds in which training launches nothing:
the first step of an epoch waited for it, a tenth of the epoch on a fast GPU (benchmarks/GPU.md). On CPUs, whose cores
training fills, a process would gain nothing.
"""

import functools
import io
import json
import os
import struct
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import IO

import numpy as np
import numpy.typing as npt

from catdog.trial.contact_sheet import Probes, contact_sheet

_LENGTH = struct.Struct("<Q")
"""Comes before each message."""


class SheetProcess:
    """A process that draws: started for its first sheet, and again if it has died; it ends with this one."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    @property
    def pid(self) -> int | None:
        """Return the process's id, None before its first sheet."""
        return None if self._process is None else self._process.pid

    def contact_sheet(
        self,
        probes: Probes,
        masks: Mapping[str, npt.NDArray[np.floating]],
        predicted_P: npt.NDArray[np.int64],
        title: str,
    ) -> bytes:
        """Return what `contact_sheet.contact_sheet` returns; it is drawn here if the process fails."""
        with self._lock:
            try:
                return self._drawn(_pack(probes, masks, predicted_P, title))
            except (OSError, EOFError):
                self.close()
        return contact_sheet(probes, masks, predicted_P, title)

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            with suppress(BrokenPipeError), self._process:
                self._process.kill()
            self._process = None

    def _drawn(self, sheet: bytes) -> bytes:
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
                start_new_session=True,  # Ctrl-C is for the driver, which lets the trial finish its files
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        _send(self._process.stdin, sheet)
        return _receive(self._process.stdout)


@functools.cache
def sheet_process() -> SheetProcess:
    """Return the one of this process."""
    return SheetProcess()


def _pack(
    probes: Probes, masks: Mapping[str, npt.NDArray[np.floating]], predicted_P: npt.NDArray[np.int64], title: str
) -> bytes:
    """Return the arguments of `contact_sheet` as an npz archive without pickled objects."""
    buffer = io.BytesIO()
    texts = json.dumps([probes.names, probes.classes, list(masks), title])
    np.savez(buffer, probes.images_PSSC, probes.labels_P, predicted_P, np.array(texts), *masks.values())
    return buffer.getvalue()


def _unpack(data: bytes) -> tuple[Probes, dict[str, npt.NDArray[np.floating]], npt.NDArray[np.int64], str]:
    with np.load(io.BytesIO(data)) as archive:
        images_PSSC, labels_P, predicted_P, texts, *masks = archive.values()
    names, classes, places, title = json.loads(str(texts))
    probes = Probes(images_PSSC, tuple(names), labels_P, tuple(classes))
    return probes, dict(zip(places, masks, strict=True)), predicted_P, title


def _send(stream: IO[bytes], data: bytes) -> None:
    stream.write(_LENGTH.pack(len(data)) + data)
    stream.flush()


def _receive(stream: IO[bytes]) -> bytes:
    """Return the next message; raises `EOFError` if the other end closes first."""
    return _read(stream, *_LENGTH.unpack(_read(stream, _LENGTH.size)))


def _read(stream: IO[bytes], length: int) -> bytes:
    data = stream.read(length)
    if len(data) < length:
        raise EOFError
    return data


def main() -> None:
    """Draw the sheets that come in, until the other end closes."""
    with suppress(EOFError, BrokenPipeError):
        while True:
            _send(sys.stdout.buffer, contact_sheet(*_unpack(_receive(sys.stdin.buffer))))


if __name__ == "__main__":
    main()
