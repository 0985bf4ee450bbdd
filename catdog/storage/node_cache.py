"""Local files with the content of a store's objects: fetched once per node, or made once for all nodes.

A local store's files are used in place. S3 objects are fetched into the user's cache on this node under a lock:
processes that want the same object wait for the first.
"""

import contextlib
import hashlib
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import filelock

from catdog.errors import NotFoundError, UserError, first_line
from catdog.storage.local import REMEDIES, in_the_way, scratch_beside
from catdog.storage.serialization import read_json, to_json
from catdog.storage.store import Store
from catdog.system.private_folders import REMEDY, node_cache, private_folder

logger = logging.getLogger(__name__)


def digest_key(key: str) -> str:
    """Return the key of the sha256 of a pack or of features, written after the object itself."""
    return f"{key}.sha256.json"


def fetch_or_make(store: Store, key: str, make: Callable[[Path], None] | None = None) -> Path:
    """Return a local file with the content of `key`: this node's copy, the store's, or one made by `make` and stored.

    The store keeps the object's sha256 beside it, written last. A file that does not match it is damaged or unfinished,
    and is fetched or made again.

    Raises:
        NotFoundError: there is no intact copy, and no `make`.
    """
    in_place = store.local_path(key)
    path = in_place or _copy_of(store, key)
    with _node_lock(path):
        digest = _stored_digest(store, key)
        if digest is not None:
            if path.is_file() and matches_digest(path, digest):
                return path
            if in_place is None and store.exists(key):
                store.get_file(key, path)
                if matches_digest(path, digest):
                    return path
            logger.warning("%s/%s is damaged: its sha256 is not what it was", store.url, key)
            store.delete(digest_key(key))  # so that the next caller with a `make` makes it again
        if make is None:
            state = "no such object" if digest is None else "damaged; the same command makes it again"
            raise NotFoundError(f"{store.url}/{key}: {state}")
        _write_atomically(path, make)
        if in_place is None:
            store.put_file(key, path)
        digest = file_digest(path)
        _remember_digest(path, digest)
        store.put(digest_key(key), to_json({"sha256": digest}))
    return path


def is_stored(store: Store, key: str) -> bool:
    """Return whether the store has `key` and its sha256."""
    return _stored_digest(store, key) is not None and store.exists(key)


def fetch(store: Store, key: str, digest: str | None = None) -> Path:
    """Return this node's copy of an object, fetched unless the copy's sha256 is `digest`."""
    path = _copy_of(store, key)
    with _node_lock(path):
        if digest is None or not (path.is_file() and matches_digest(path, digest)):
            store.get_file(key, path)
    return path


def _copy_of(store: Store, key: str) -> Path:
    """Return the path of this node's copy of an object."""
    return node_cache() / hashlib.sha256(store.url.encode()).hexdigest()[:8] / key


def _stored_digest(store: Store, key: str) -> str | None:
    """Return an object's sha256 as recorded when it was stored; None if it is missing or unfinished."""
    try:
        digest = read_json(store.get(digest_key(key)))["sha256"]
    except (NotFoundError, KeyError, TypeError, ValueError):
        return None
    return digest if isinstance(digest, str) else None


def matches_digest(path: Path, digest: str) -> bool:
    """Return whether a file's sha256 is `digest`; a match is cached until the file changes, since packs are large."""
    with contextlib.suppress(OSError), open(_node_file(path, "verified"), opener=_open_unless_link) as file:
        if file.read() == _file_state(path, digest):
            return True
    if file_digest(path) != digest:
        return False
    _remember_digest(path, digest)
    return True


def _remember_digest(path: Path, digest: str) -> None:
    with contextlib.suppress(OSError), open(_node_file(path, "verified"), "w", opener=_open_unless_link) as file:
        file.write(_file_state(path, digest))


def _open_unless_link(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)


def _file_state(path: Path, digest: str) -> str:
    status = path.stat()
    return f"{digest} {status.st_size} {status.st_mtime_ns} {status.st_ino}"


def file_digest(path: Path) -> str:
    """Return the sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_atomically(path: Path, make: Callable[[Path], None]) -> None:
    """Call `make` on a temporary file beside `path`, then rename it."""
    try:
        with scratch_beside(path) as scratch:
            make(scratch)
            os.replace(scratch, path)
    except OSError as error:
        remedy = REMEDIES.get(error.errno or 0, "choose another folder")
        place = in_the_way(path, error) or path
        raise UserError(f"{place}: cannot be written ({error.strerror or first_line(error)}): {remedy}") from error


@contextlib.contextmanager
def _node_lock(path: Path) -> Iterator[None]:
    lock = filelock.FileLock(_node_file(path, "lock"))
    try:
        lock.acquire()
    except OSError as error:
        raise UserError(f"{lock.lock_file}: cannot be locked ({error.strerror or error}): {REMEDY}") from error
    try:
        yield
    finally:
        lock.release()


def _node_file(path: Path, kind: str) -> Path:
    """Return this user's file on this node with state about `path`, which itself may be shared."""
    folder = private_folder(node_cache() / "locks")
    return folder / f"{hashlib.sha256(str(path).encode()).hexdigest()[:24]}.{kind}"
