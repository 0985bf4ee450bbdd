"""A job as the child of a small process that outlives it: however the job ends, there is a last word and no orphan.

Ray's C++ code ends a driver at once when it has lost its Ray; the system ends it when memory runs out; a batch system
signals every process of a job and kills what is left soon after. No code in the driver itself could still tell that.
The parent does nothing but wait: it passes SIGINT, SIGTERM and SIGHUP on, ends a job that does not heed them in
time, and then every process that the job has left behind (on Linux; elsewhere these are left alone).
"""

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

GRACE_SECONDS = 8
"""How long a job may take to end after the first signal."""
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36  # sys/prctl.h
_ENDINGS = (
    signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU,
)  # fmt: skip
_FOR_THE_PARENT = {signal.SIGCHLD, signal.SIGALRM}


@dataclass(frozen=True)
class Ending:
    """How a job's process ended."""

    code: int | None
    """The exit code that the job returned; None if its process ended before."""
    interrupted: bool
    """Whether a signal asked it to end."""
    how: str
    """How the process ended, in words."""


def hold_signals() -> None:
    """Let signals wait for `supervise`, so that none ends the process while it is still importing."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _interrupts())


def raise_on_signals() -> threading.Event:
    """Raise `KeyboardInterrupt` in the main thread at the first signal; ignore the others, while the job is ending.

    Returns an event that is set from the first signal on.
    """
    received, first = threading.Event(), iter([True])

    def interrupt(*_: object) -> None:
        if next(first, False):  # without a lock: a signal may come while `set` holds the event's, and wait for it
            received.set()
            raise KeyboardInterrupt

    for number in _interrupts():
        signal.signal(number, interrupt)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _interrupts() | _FOR_THE_PARENT)
    return received


def supervise(job: Callable[[], int]) -> Ending:
    """Run `job` in a child process and return how it ended; the child itself exits with the job's code.

    In the parent, signals wait from now on.
    """
    told, tell = os.pipe()
    hold_signals()
    signal.signal(signal.SIGCHLD, lambda *_: None)  # so that it is not discarded
    signal.pthread_sigmask(signal.SIG_BLOCK, _FOR_THE_PARENT)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    parent, child = os.getpid(), os.fork()
    if child == 0:
        os.close(told)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)
        code = 1  # after an unforeseen exception, which Python prints
        try:
            code = job()
        finally:
            with suppress(BrokenPipeError):  # the parent was killed
                os.write(tell, bytes([code]))
        sys.exit(code)
    os.close(tell)
    interrupted, status = _wait(child)
    _end_children()
    code_told = os.read(told, 1)
    os.close(told)
    how = f"signal {-status}" if status < 0 else f"exit code {status}"
    return Ending(code_told[0] if code_told else None, interrupted, how)


def _interrupts() -> set[signal.Signals]:
    """Return the signals that end a job: not those that `nohup` or a shell has told it to ignore.

    Batch systems announce the end with SIGUSR1, SIGUSR2 or SIGXCPU.
    """
    return {number for number in _ENDINGS if signal.getsignal(number) is not signal.SIG_IGN}


def _wait(child: int) -> tuple[bool, int]:
    """Wait for the child, passing signals on; returns whether there were any, and its exit code or minus its signal."""
    interrupted = False
    while True:
        received = signal.sigwait(_interrupts() | _FOR_THE_PARENT)
        if received == signal.SIGCHLD:
            pid = -1
            while pid:  # one signal may stand for several children; orphans of the child are this process's, too
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == child:
                    return interrupted, os.waitstatus_to_exitcode(status)
        elif received == signal.SIGALRM:
            os.kill(child, signal.SIGKILL)
        else:
            if not interrupted:
                signal.alarm(GRACE_SECONDS)
            interrupted = True
            os.kill(child, signal.SIGTERM)


def _end_children() -> None:
    """Kill what the child has left running: each process becomes this one's child when its own parent ends."""
    with suppress(ChildProcessError):
        while sys.platform == "linux":
            for stat in Path("/proc").glob("[0-9]*/stat"):
                with suppress(OSError):  # it has just ended
                    _, parent, *_ = stat.read_text().rpartition(")")[2].split()
                    if int(parent) == os.getpid():
                        os.kill(int(stat.parent.name), signal.SIGKILL)
            os.waitpid(-1, 0)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        libc: Any = ctypes.CDLL(None)
        libc.prctl(option, value, 0, 0, 0)
