"""A thread that a process keeps for one piece of work after another.

OpenMP's pools and the plans of cuDNN and cuBLAS belong to a thread: a new thread has to make them again.
"""

import threading
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Any, NamedTuple, TypeVar

Message = TypeVar("Message")


class _End(NamedTuple):
    error: BaseException | None


class _Job(NamedTuple):
    work: Callable[[Callable[[Any], None]], None]
    messages: "SimpleQueue[Any]"


_idle: list["SimpleQueue[_Job]"] = []
"""The queues of threads that wait for work: one, unless jobs ran at the same time."""


def in_kept_thread(work: Callable[[Callable[[Message], None]], None]) -> Iterator[Message]:
    """Run `work` in the kept thread, or in a new one while that is busy; yields what it sends, until it is done.

    The work does not wait for whoever reads its messages. Its error is raised here. Nothing waits for a thread that
    hangs, not even the end of the process.
    """
    try:
        jobs = _idle.pop()
    except IndexError:
        jobs = SimpleQueue()
        threading.Thread(target=_serve, args=(jobs,), daemon=True, name="catdog-kept").start()
    messages: SimpleQueue[Message | _End] = SimpleQueue()
    jobs.put(_Job(work, messages))
    while not isinstance(message := messages.get(), _End):
        yield message
    if message.error is not None:
        raise message.error


def _serve(jobs: "SimpleQueue[_Job]") -> None:
    while True:
        _run(jobs.get(), jobs)


def _run(job: _Job, jobs: "SimpleQueue[_Job]") -> None:
    """Run one job; its variables, and what an error's traceback holds, do not outlive it."""
    end = _End(None)
    try:
        job.work(job.messages.put)
    except BaseException as error:
        end = _End(error)
    _idle.append(jobs)
    job.messages.put(end)
