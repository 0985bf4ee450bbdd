"""Keep glibc from giving big buffers back to the kernel after every training step.

A step allocates the same large activations again and again; by default glibc maps and unmaps them each time, and the
page faults cost more than the arithmetic of a small network (benchmarks/RESULTS.md). Call this before the first
tensor.
"""

import ctypes

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # malloc.h
_NEVER = 2**31 - 1
_TOP_PAD = 64 * 1024 * 1024


def keep_freed_memory() -> bool:
    """Tell the C library to keep freed memory for this process; returns whether it understood (glibc does)."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _NEVER), (_M_TOP_PAD, _TOP_PAD))
    return min(mallopt(option, value) for option, value in settings) == 1
