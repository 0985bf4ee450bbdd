"""Scratch folders of this process, private to the user; those of processes that were killed are removed by later ones.

A process holds a lock on its folder while it lives, so folders that nobody holds were left by dead ones: the system
releases their locks, and no number of a process that was used again is mistaken for them.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from catdog.errors import UserError


@contextmanager
def scratch_folder(prefix: str, parent: Path | None = None) -> Iterator[Path]:
    """Make a folder in `parent` (default: the folder for temporary files), and remove it when the block exits."""
    try:
        parent = parent or Path(tempfile.gettempdir())
        for abandoned in parent.glob(f"{prefix}*"):
            with suppress(OSError):
                lock = _lock(abandoned)
                shutil.rmtree(abandoned, ignore_errors=True)
                os.close(lock)
        folder, lock = _locked_folder(prefix, parent)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"TMPDIR {parent or ''}: cannot be written ({reason}): choose another folder") from None
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _locked_folder(prefix: str, parent: Path) -> tuple[Path, int]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        with suppress(FileNotFoundError, BlockingIOError):  # another process found it before it was locked
            return folder, _lock(folder)


def _lock(folder: Path) -> int:
    """Return the descriptor that holds a lock on a folder of this user's; raises `OSError` if it is not to be had."""
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        if os.fstat(lock).st_uid != os.getuid():
            raise PermissionError(f"{folder} belongs to another user")
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        folder.stat()
    except OSError:
        os.close(lock)
        raise
    return lock
