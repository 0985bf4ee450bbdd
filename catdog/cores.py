"""How many cores this process may use."""

import os


def usable_cores() -> int:
    """Return the cores that this process may run on, or those of the machine where the system does not tell (macOS)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
