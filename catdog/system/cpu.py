"""The cores that this process may use, work on them, and memory that is kept between the steps of such work."""

import ctypes
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

_AT_ONCE = 32
"""Items that a thread is given: handing over a single one costs as much as a small file."""

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def usable_cores() -> int:
    """Return the cores that this process may run on, or those of the machine where the system does not tell (macOS)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def map_on_cores(work: Callable[[_Item], _Result], items: Iterable[_Item]) -> list[_Result]:
    """Return `work` of every item, in their order, by a thread for each core.

    For work that lets go of the interpreter's lock; raises what `work` raises, for the first such item.
    """
    items = list(items)
    chunks = [items[start : start + _AT_ONCE] for start in range(0, len(items), _AT_ONCE)]
    pool = ThreadPoolExecutor(usable_cores())
    try:
        return [
            result for results in pool.map(lambda chunk: [work(item) for item in chunk], chunks) for result in results
        ]
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def in_background(work: Callable[[threading.Event], None], name: str) -> Iterator[None]:
    """Run `work` while the block runs; it must return soon when the event that it is given is set."""
    stop = threading.Event()
    thread = threading.Thread(target=work, args=(stop,), daemon=True, name=name)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


_NEVER = 2**31 - 1
_TOP_PAD = 64 * 1024 * 1024
# Options of mallopt (malloc.h), and the environment variables of the same meaning.
_SETTINGS = (
    (-8, "MALLOC_ARENA_MAX", 1),
    (-4, "MALLOC_MMAP_MAX_", 0),
    (-1, "MALLOC_TRIM_THRESHOLD_", _NEVER),
    (-2, "MALLOC_TOP_PAD_", _TOP_PAD),
)

ENVIRONMENT = {variable: str(value) for _, variable, value in _SETTINGS} | {
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"  # asks for huge pages: fewer faults at first, fewer misses later
}
"""For processes that are about to be started (GNU libc reads it; others do not mind)."""


def tune_malloc() -> bool:
    """Set the same for this process, before its first tensor and thread; returns whether the C library understood."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    answers = [mallopt(option, value) for option, _, value in _SETTINGS]
    return all(answer == 1 for answer in answers)
