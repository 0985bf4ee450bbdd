"""A folder as a store: files are written beside their target, synced to disk and renamed."""

import errno
import functools
import hashlib
import os
import re
import shutil
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from catdog.errors import NotFoundError, StoreError, StoreRefusedError
from catdog.storage.patience import Patience
from catdog.storage.store import Link, check_key
from catdog.system.process import is_alive, machine_id

P = ParamSpec("P")
T = TypeVar("T")

REMEDIES = {
    errno.ENOSPC: "make room",
    errno.EDQUOT: "make room",
    errno.EFBIG: "choose another folder, or raise the file size limit",
    errno.EROFS: "choose another folder",
    errno.EACCES: "choose another folder, or get write permission there",
    errno.EPERM: "choose another folder, or get write permission there",
    errno.ENOTDIR: "choose another folder, or move the file that is in the way",
    errno.EEXIST: "choose another folder, or move the file that is in the way",
    errno.EISDIR: "move the folder that is in the way",
    errno.ENOENT: "choose a folder that can be created",
    errno.ENAMETOOLONG: "choose another folder, or shorter labels of variants",
}
"""What the user must do; any other disk error may be temporary."""
_IN_THE_WAY = (errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST, errno.EISDIR)
_CHECK_BYTES = 65536
_OTHERS_SECONDS = 3600


def _patiently(operation: Callable[Concatenate["LocalStore", P], T]) -> Callable[Concatenate["LocalStore", P], T]:
    """Repeat an operation while the disk is unavailable, as a network's may be."""

    @functools.wraps(operation)
    def call(store: "LocalStore", /, *arguments: P.args, **options: P.kwargs) -> T:
        return store.patience.retry(lambda: operation(store, *arguments, **options), store.may_pass)

    return call


class LocalStore:
    """A folder as a store."""

    def __init__(self, root: Path, shown: Path | None = None, patience: float = 0.0) -> None:
        """`shown`: the folder that refusals name, if not `root`; `patience`: for how many seconds to retry."""
        self.root = root
        self.patience = Patience(patience)
        self._shown = shown or root

    @property
    def url(self) -> str:
        """Return the folder."""
        return str(self.root)

    @property
    def is_shared(self) -> bool:
        """Return False: a folder may exist on this node only."""
        return False

    @property
    def has_conditional_writes(self) -> bool:
        """Return whether the folder knows hard links, which only one writer can create; it need not exist yet."""
        with self._errors(self.root), self._probe() as probe:
            probe.put("a", b"")
            try:
                os.link(probe.local_path("a"), probe.local_path("b"))
            except OSError:
                return False
        return True

    def abilities(self) -> dict[str, bool]:
        """Test what folders differ in: writes conditional on the key not existing."""
        return {"conditional writes": self.has_conditional_writes}

    def local_path(self, key: str) -> Path:
        """Return the file of a key."""
        return self.root / check_key(key)

    @_patiently
    def put(self, key: str, data: bytes) -> None:
        """Write the object atomically."""
        with self._writing(key) as scratch:
            scratch.write_bytes(data)

    @_patiently
    def put_new(self, key: str, data: bytes) -> bool:
        """Write the object unless the key exists; return whether the key now holds `data`.

        Without hard links (exFAT, gcsfuse, s3fs, SMB), a concurrent writer may write between the look and the renaming.
        """
        path = self.local_path(key)
        with self._errors(path), scratch_beside(path) as scratch:
            scratch.write_bytes(data)
            _sync(scratch)
            try:
                os.link(scratch, path)
            except OSError as error:
                if isinstance(error, FileExistsError) or os.path.lexists(path):
                    return self._holds(key, data)
                os.replace(scratch, path)
        return True

    @_patiently
    def get(self, key: str) -> bytes:
        """Return the object; raises `NotFoundError` if there is none."""
        return self._get(key)

    def _get(self, key: str) -> bytes:
        path = self.local_path(key)
        try:
            if not stat.S_ISREG(path.stat().st_mode):  # reading a FIFO would wait for a writer
                raise StoreRefusedError(f"--store {self._shown}: {key} is no file: move away what is in the way")
            return _read(path)
        except (FileNotFoundError, NotADirectoryError):
            raise NotFoundError(f"{path}: no such file") from None
        except OSError as error:
            raise StoreError(f"{path}: {error.strerror or error}") from error

    @_patiently
    def put_file(self, key: str, path: Path) -> None:
        """Write the object atomically from a file."""
        with self._writing(key) as scratch:
            shutil.copyfile(path, scratch)

    def get_file(self, key: str, path: Path) -> None:
        """Raise `AssertionError`: callers use `local_path`."""
        raise AssertionError("a local store's files are used in place")

    @_patiently
    def delete(self, key: str) -> None:
        """Delete the object if it exists."""
        path = self.local_path(key)
        with self._errors(path):
            path.unlink(missing_ok=True)

    @_patiently
    def list(self, prefix: str) -> list[str]:
        """Return all keys that begin with `prefix`, sorted."""
        folder = self.root / prefix.rpartition("/")[0]
        keys: list[str] = []
        with self._errors(folder):
            for where, _, names in os.walk(folder, onerror=_raise_unless_gone):
                there = (name for name in names if not name.startswith("."))
                files = (name for name in there if os.path.isfile(os.path.join(where, name)))
                inside = Path(where).relative_to(self.root).as_posix()
                keys += files if inside == "." else (f"{inside}/{name}" for name in files)
        return sorted(key for key in keys if key.startswith(prefix))

    @_patiently
    def exists(self, key: str) -> bool:
        """Return whether the key exists."""
        path = self.local_path(key)
        with self._errors(path):
            try:
                return stat.S_ISREG(path.stat().st_mode)
            except (FileNotFoundError, NotADirectoryError):
                return False

    def link(self, key: str) -> Link:
        """Return the file's URL."""
        return Link(self.local_path(key).absolute().as_uri(), "on this machine")

    def check(self) -> None:
        """Raise `StoreError` unless a store's operations work in the folder, or where it would be created."""
        content = bytes(_CHECK_BYTES)
        with self._errors(self.root), self._probe() as probe:
            probe.put("a", b"")
            probe.put("a", content)
            probe.put_new("b", b"")
            if probe.list("") != ["a", "b"] or probe.get("a") != content:
                raise StoreRefusedError(f"--store {self._shown}: returns other files than were written: choose another")
            probe.delete("a")

    @_patiently
    def remove_leftovers(self, prefix: str) -> None:
        """Remove unfinished files of dead processes, those of other machines after an hour, and empty folders."""
        for folder, _, names in os.walk(self.root / prefix, topdown=False):
            for path in (Path(folder, name) for name in names):
                writer = re.fullmatch(r"\..+\.([0-9a-f]{8})-([0-9]+)-[0-9]+", path.name)
                if writer is not None and _is_abandoned(path, writer[1], int(writer[2])):
                    with self._errors(path):
                        path.unlink(missing_ok=True)
            with suppress(OSError):
                os.rmdir(folder)  # fails unless it is empty

    def set_retrying(self, on: bool) -> None:
        """Retry from now on while the disk is unavailable, or stop retrying."""
        self.patience.set_retrying(on)

    def may_pass(self, error: StoreError) -> bool:
        """Return whether to try again after an error: not if the user must act, or if there is no such object."""
        is_final = isinstance(error, NotFoundError | StoreRefusedError)
        return self.patience.seconds > 0 and not is_final and getattr(error.__cause__, "errno", None) not in REMEDIES

    @contextmanager
    def _writing(self, key: str) -> Iterator[Path]:
        path = self.local_path(key)
        with self._errors(path), scratch_beside(path) as scratch:
            yield scratch
            _sync(scratch)
            os.replace(scratch, path)

    def _holds(self, key: str, data: bytes) -> bool:
        try:
            return self._get(key) == data
        except NotFoundError:  # deleted in the meantime
            return False

    @contextmanager
    def _probe(self) -> Iterator["LocalStore"]:
        """Yield an empty store in a temporary folder, where this one is or would be."""
        folder = self.root
        while not os.path.lexists(folder) and folder != folder.parent:
            folder = folder.parent
        with tempfile.TemporaryDirectory(dir=folder, prefix=".check-", ignore_cleanup_errors=True) as probe:
            yield LocalStore(Path(probe), self._shown)

    @contextmanager
    def _errors(self, path: Path) -> Iterator[None]:
        """Translate disk errors into ours, naming what is in the way below the folder."""
        try:
            yield
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            remedy = REMEDIES.get(error.errno or 0)
            if remedy is None:
                raise StoreError(f"{path}: {reason}") from error
            culprit = in_the_way(path, error)
            if culprit is not None and self.root in culprit.parents:
                reason = f"{culprit.relative_to(self.root)}: {reason}"
            raise StoreRefusedError(f"--store {self._shown}: cannot be written ({reason}): {remedy}") from error


def in_the_way(path: Path, error: OSError) -> Path | None:
    """Return the file or folder because of which `path` cannot be written; None if another reason is given."""
    if error.errno not in _IN_THE_WAY:
        return None
    while not os.path.lexists(path):
        path = path.parent
    return path


@contextmanager
def scratch_beside(path: Path) -> Iterator[Path]:
    """Yield an empty temporary file to write and then rename to `path`; its name identifies the writing process.

    Its name can be guessed, so it is made anew: what others put there, such as a link, is never written through.
    """
    scratch = path.with_name(f".{path.name}.{_this_machine()}-{os.getpid()}-{threading.get_ident()}")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        scratch.unlink(missing_ok=True)  # of a process that had this number before
        scratch.open("xb").close()
        yield scratch
    finally:
        with suppress(OSError):
            scratch.unlink(missing_ok=True)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        if error.errno != errno.ESTALE:
            raise
        return path.read_bytes()  # on NFS: another node has replaced the file since it was opened


def _raise_unless_gone(error: OSError) -> None:
    """Raise what went wrong while listing a folder, unless another process has removed it, or it is closed to us."""
    gone = isinstance(error, (FileNotFoundError, NotADirectoryError)) or error.errno == errno.ESTALE  # the last on NFS
    if not gone and not isinstance(error, PermissionError):
        raise error


def _is_abandoned(scratch: Path, machine: str, pid: int) -> bool:
    """Return whether nobody writes a temporary file any more; a writer on another machine is given an hour."""
    if machine == _this_machine():
        return not is_alive(pid)
    with suppress(OSError):
        return time.time() - scratch.stat().st_mtime > _OTHERS_SECONDS
    return False


@functools.cache
def _this_machine() -> str:
    return hashlib.sha256(machine_id().encode()).hexdigest()[:8]


def _sync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())
