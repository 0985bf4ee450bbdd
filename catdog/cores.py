"""The cores that this process may use, and work on all of them."""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
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
