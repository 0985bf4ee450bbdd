"""Folders that only this user can write, for locks and other files whose names another user could guess."""

import os
import stat
from contextlib import suppress
from pathlib import Path

from catdog.errors import UserError

REMEDY = "set CATDOG_CACHE to a folder of your own"
_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def private_folder(path: Path) -> Path:
    """Return the folder, made if necessary, which belongs to this user and which nobody else can write.

    A folder of the user's own that others can write is closed to them. A link is followed only if it is the user's own.

    Raises:
        UserError: it is none of this, or cannot be made; the message says what to set.
    """
    try:
        _make(path)
        status = path.lstat()
        if stat.S_ISLNK(status.st_mode) and status.st_uid == os.geteuid():
            status = path.stat()
        if not stat.S_ISDIR(status.st_mode):
            raise UserError(f"{path}: in the way of a folder: {REMEDY}")
        if status.st_uid != os.geteuid():
            raise UserError(f"{path}: belongs to another user (uid {status.st_uid}): {REMEDY}")
        if status.st_mode & _WRITABLE_BY_OTHERS:
            path.chmod(stat.S_IMODE(status.st_mode) & ~_WRITABLE_BY_OTHERS)
            if path.stat().st_mode & _WRITABLE_BY_OTHERS:  # on a disk without permissions, as exFAT
                raise UserError(f"{path}: other users can write it: {REMEDY}")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: cannot be written ({reason}): {REMEDY}") from None
    return path


def node_cache() -> Path:
    """Return this user's cache folder on this node, the same in all processes.

    It is `$CATDOG_CACHE`, else catdog/ in `$XDG_CACHE_HOME` or in ~/.cache, else, if none can be used, /tmp/catdog-UID.
    """
    if named := os.environ.get("CATDOG_CACHE"):
        folder = Path(os.path.expanduser(named))
        if not folder.is_absolute():
            raise UserError(f"CATDOG_CACHE {named}: a relative path; give an absolute one")
        return private_folder(folder)
    home = Path(os.path.expanduser("~"))  # "~" for a user without a home, "/" in some containers
    for caches in (os.environ.get("XDG_CACHE_HOME"), home / ".cache" if home.name else None):
        if caches and os.path.isabs(caches):
            with suppress(UserError):
                return private_folder(Path(caches, "catdog"))
    return private_folder(Path(f"/tmp/catdog-{os.geteuid()}"))


def _make(path: Path) -> None:
    """Make a folder and its missing parents, all of them closed to others."""
    with suppress(FileExistsError):
        try:
            path.mkdir(mode=stat.S_IRWXU)
        except FileNotFoundError:
            _make(path.parent)
            path.mkdir(mode=stat.S_IRWXU)
