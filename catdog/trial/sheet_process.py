"""Draws contact sheets in a process of its own, for a worker that trains on a GPU.

Drawn on a thread of the worker, a sheet held up the first step of the next epoch, probably by Python's lock: a tenth of
the epoch on a fast GPU (benchmarks/GPU.md). On CPUs, whose cores training fills, a process would gain nothing.
"""

import functools
import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection

import numpy as np
import numpy.typing as npt

from catdog.trial.contact_sheet import Probes, contact_sheet


class SheetProcess:
    """A process that draws: started for its first sheet, and again if it has died; it ends with this one."""

    def __init__(self) -> None:
        self._running: tuple[subprocess.Popen[bytes], Connection] | None = None
        self._lock = threading.Lock()

    @property
    def pid(self) -> int | None:
        """Return the process's id, None before its first sheet."""
        return None if self._running is None else self._running[0].pid

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
        if self._running is not None:
            process, connection = self._running
            connection.close()
            process.kill()
            process.wait()
            self._running = None

    def _drawn(self, sheet: bytes) -> bytes:
        if self._running is None:
            self._running = _start()
        _, connection = self._running
        connection.send_bytes(sheet)
        return connection.recv_bytes()


def _start() -> "tuple[subprocess.Popen[bytes], Connection]":
    ours, theirs = Pipe()
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            start_new_session=True,  # Ctrl-C is for the driver, which lets the trial finish its files
        )
    return process, ours


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


def main() -> None:
    """Draw the sheets that come in, until the other end closes."""
    connection = Connection(int(sys.argv[1]))
    with suppress(EOFError, ConnectionError):
        while True:
            connection.send_bytes(contact_sheet(*_unpack(connection.recv_bytes())))


if __name__ == "__main__":
    main()
