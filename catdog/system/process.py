"""This process and its machine: usable cores and work on them, malloc settings, who is alive."""

import contextlib
import ctypes
import os
import platform
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

_AT_ONCE = 32
"""Items handed to a thread at once: handing over a single one costs as much as work on a small file."""

CPU_MAX = Path("/sys/fs/cgroup/cpu.max")
"""Of a container's own cgroup, version 2."""

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def usable_cores() -> int:
    """Return how many cores this process may use: by its affinity and its container's quota, where the system has them.

    Source: https://docs.kernel.org/admin-guide/cgroup-v2.html#cpu-interface-files
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        return min(cores, quota_cores(CPU_MAX.read_text()))
    except (OSError, ValueError):
        return cores


def quota_cores(cpu_max: str) -> int:
    """Return how many cores a cgroup's `cpu.max` allows, rounded up; raises `ValueError` if it sets no limit."""
    quota, period = map(int, cpu_max.split())
    return -(-quota // period)


def map_on_cores(work: Callable[[_Item], _Result], items: Iterable[_Item]) -> list[_Result]:
    """Return `work(item)` for every item, in order, computed by one thread per core.

    For work that releases the GIL; raises the error of the first item that fails.
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
    """Run `work` in a thread while the block runs; it must return soon after its event is set."""
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
# Options of mallopt (malloc.h), and the equivalent environment variables.
_SETTINGS = (
    (-8, "MALLOC_ARENA_MAX", 1),
    (-4, "MALLOC_MMAP_MAX_", 0),
    (-1, "MALLOC_TRIM_THRESHOLD_", _NEVER),
    (-2, "MALLOC_TOP_PAD_", _TOP_PAD),
)

ENVIRONMENT = {variable: str(value) for _, variable, value in _SETTINGS} | {
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"  # huge pages: fewer page faults at first, fewer TLB misses later
}
"""For processes about to be started (GNU libc reads it; others ignore it)."""


def tune_malloc() -> bool:
    """Apply the settings to this process, before its first tensor and thread; return whether libc accepted them."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    answers = [mallopt(option, value) for option, _, value in _SETTINGS]
    return all(answer == 1 for answer in answers)


def cpu_model() -> str:
    """Return the processor's name as the system gives it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def machine_id() -> str:
    """Return a string that identifies this boot of this machine or container."""
    parts = [platform.node()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    with contextlib.suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def process_started(pid: int) -> str:
    """Return when a process started, in ticks since boot; '' if it has ended; 'alive' if /proc is unavailable."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if fields[0] in "ZX" else fields[19]  # a zombie has ended, even though nobody has reaped it
    except OSError:
        if Path("/proc/self/stat").exists():
            return ""
    return "alive" if is_alive(pid) else ""


def is_alive(pid: int) -> bool:
    """Return whether a process with this number exists, zombies included."""
    try:
        os.kill(pid, 0)
    except (OverflowError, ProcessLookupError):  # a file's name may hold any number
        return False
    except PermissionError:
        return True
    return True
