"""Keep glibc from giving big buffers back to the kernel after every training step.

A step allocates the same large activations again and again; by default glibc maps and unmaps them each time, and the
page faults cost more than the arithmetic of a small network. Threads make it worse: each has an arena of its own that
cannot hold such buffers, and Ray Tune runs trials in a thread. One arena for all threads, that is never trimmed, is
what helps; it can only be had before a process starts its threads.
"""

import ctypes

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


def keep_freed_memory() -> bool:
    """Set the same for this process, before its first tensor and thread; returns whether the C library understood."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    return min(mallopt(option, value) for option, _, value in _SETTINGS) == 1
