"""Draws contact sheets in a process of its own, for a worker that trains on a GPU.

On a thread of the worker, drawing holds Python's lock for tens of milliseconds in which training launches nothing:
the first step of an epoch waited for it, a tenth of the epoch on a fast GPU (benchmarks/GPU.md). On CPUs, whose cores
training fills, a process would gain nothing.
"""

import functools
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress

import numpy as np
import numpy.typing as npt

from catdog.trial.contact_sheet import Probes, contact_sheet


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
        sheet = (probes, masks, predicted_P, title)
        with self._lock:
            try:
                return self._drawn(sheet)
            except (OSError, EOFError, pickle.UnpicklingError):
                self.close()
        return contact_sheet(*sheet)

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            with self._process:
                self._process.kill()
            self._process = None

    def _drawn(self, sheet: tuple[object, ...]) -> bytes:
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
        pickle.dump(sheet, self._process.stdin)
        self._process.stdin.flush()
        drawn: bytes = pickle.load(self._process.stdout)
        return drawn


@functools.cache
def sheet_process() -> SheetProcess:
    """Return the one of this process."""
    return SheetProcess()


def main() -> None:
    """Draw the sheets that come in, until the other end closes."""
    with suppress(EOFError, BrokenPipeError):
        while True:
            pickle.dump(contact_sheet(*pickle.load(sys.stdin.buffer)), sys.stdout.buffer)
            sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
