"""A Ray of this machine's own, and what it takes for granted: a short writable folder, a home, a group to itself."""

import os
import secrets
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray

from catdog.errors import UserError, first_line
from catdog.sweep import PRELOADED
from catdog.sweep.ray_internals import preload_variables, start_processes_in_own_sessions
from catdog.system.process import ENVIRONMENT, usable_cores
from catdog.system.scratch import scratch_folder

OBJECT_STORE_BYTES = 128 * 1024 * 1024
"""Enough for a local Ray: data travels through the store and the page cache, never through Ray."""
LONGEST_SOCKET = 103 if sys.platform == "darwin" else 107
"""Bytes of the path of a Unix socket (unix(7))."""
LONGEST_FOLDER = LONGEST_SOCKET - len("/session_2026-01-31_23-59-59_123456_4194304/sockets/plasma_store")


def start_local_ray(folder: Path | None, worker_imports: Sequence[str], **options: Any) -> None:
    """Start a Ray whose files go to `folder` (None: Ray's own choice) and whose workers import these modules at once.

    It has no more cores than this process may use, where Ray itself would count the machine's (taskset, SLURM).

    Raises:
        UserError: Ray does not start here.
    """
    imports = preload_variables("catdog.sweep.preload") | {PRELOADED: ",".join(worker_imports)}
    os.environ.update(ENVIRONMENT | imports)  # Ray's processes inherit these
    if "RAY_AUTH_TOKEN_PATH" not in os.environ:
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))  # else Ray writes one into the home folder
    start_processes_in_own_sessions()
    cores = usable_cores()
    fewer_cores = {"num_cpus": cores} if cores < (os.cpu_count() or 1) else {}
    try:
        ray.init(
            "local",
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
            _temp_dir=None if folder is None else str(folder),
            **fewer_cores | options,
        )
    except Exception as error:
        raise UserError(
            f"a local Ray does not start here ({first_line(error)}): it needs 2 GB of memory (see ulimit -a), and a "
            "folder with room (RAY_TMPDIR)"
        ) from error


@contextmanager
def ray_folder() -> Iterator[Path | None]:
    """Yield the folder for the files of a local Ray; None for Ray's own choice, RAY_TMPDIR or TMPDIR or /tmp.

    Without RAY_TMPDIR, a folder that is too long for Ray's sockets, or not writable, is replaced by a private one.
    """
    asked = os.environ.get("RAY_TMPDIR")
    folder = Path(asked or os.environ.get("TMPDIR") or "/tmp").absolute()
    fault = _fault(folder / "ray")
    if fault is None:
        yield None
    elif asked:
        raise UserError(f"RAY_TMPDIR {asked}: {fault}: choose another folder, or unset it")
    else:
        with scratch_folder("catdog-ray-", Path("/tmp")) as folder:
            yield folder / "ray"  # which Ray opens to everybody


def _fault(folder: Path) -> str | None:
    """Return why Ray cannot use a folder, which need not exist yet."""
    if len(os.fsencode(folder)) > LONGEST_FOLDER:
        return f"too long for Ray's sockets ({LONGEST_FOLDER - len('/ray')} characters at most)"
    while not folder.exists():
        folder = folder.parent
    return None if folder.is_dir() and os.access(folder, os.W_OK | os.X_OK) else "cannot be written"
