"""A thread that a process keeps for one piece of work after another.

OpenMP's pools and the plans of cuDNN and cuBLAS belong to a thread: a new thread has to make them again.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue

_Job = tuple[Callable[[], None], Future[None]]

_idle: list[SimpleQueue[_Job]] = []
"""The queues of threads that wait for work: one, unless jobs ran at the same time."""


def in_kept_thread(work: Callable[[], None]) -> None:
    """Run `work` in the kept thread, or in a new one while that is busy; returns when it is done, or raises its error.

    Nothing waits for a thread that hangs, not even the end of the process.
    """
    try:
        jobs = _idle.pop()
    except IndexError:
        jobs = SimpleQueue()
        threading.Thread(target=_serve, args=(jobs,), daemon=True, name="catdog-kept").start()
    done: Future[None] = Future()
    jobs.put((work, done))
    done.result()


def _serve(jobs: SimpleQueue[_Job]) -> None:
    while True:
        _run(*jobs.get(), jobs)


def _run(work: Callable[[], None], done: Future[None], jobs: SimpleQueue[_Job]) -> None:
    """Run one job; its variables, and what an error's traceback holds, do not outlive it."""
    try:
        work()
    except BaseException as error:  # SystemExit, too, by which Tune ends a trial
        _idle.append(jobs)
        done.set_exception(error)
    else:
        _idle.append(jobs)
        done.set_result(None)
