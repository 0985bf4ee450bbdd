"""Which machine and process this is, and whether another process is still alive."""

import contextlib
import os
import platform
from pathlib import Path


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
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
