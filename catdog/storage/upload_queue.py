"""Uploads off the training thread, so that training continues while the store is unavailable."""

import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress

from catdog.errors import StoreError
from catdog.storage.store import Store, sha256

Content = bytes | Callable[[], bytes]


class BackgroundUploads:
    """Stores objects in order on its own thread, retrying for as long as the store's patience allows.

    The queue holds at most `capacity` objects. Putting a key again replaces its queued object: of a trial's checkpoints
    only the newest waits. Memory is bounded, too: bytes larger than `memory_bytes` wait on disk, in an unnamed file
    that vanishes with the process; a function takes only what it refers to until its object is made.

    On a clean exit, the context manager waits until everything is stored, and raises the error of a failed upload.
    """

    def __init__(self, store: Store, capacity: int = 1024, memory_bytes: int = 1 << 20) -> None:
        self._store = store
        self._capacity = capacity
        self._memory_bytes = memory_bytes
        self._waiting: dict[str, Callable[[], bytes]] = {}
        self._sending = False
        self._closed = False
        self._error: Exception | None = None
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, daemon=True, name="uploads")
        self._thread.start()
        self.digests: dict[str, str] = {}
        """sha256 of everything stored so far, by key."""

    def put(self, key: str, content: Content) -> None:
        """Queue an object, or a function that makes it on the upload thread; raises the error of an earlier upload."""
        make = content if callable(content) else self._keep(content)
        with self._changed:
            self._changed.wait_for(lambda: len(self._waiting) < self._capacity or self._error is not None)
            self._raise_error()
            self._waiting.pop(key, None)  # the newer one moves to the end of the queue
            self._waiting[key] = make
            self._changed.notify_all()

    def flush(self) -> None:
        """Wait until everything queued is stored; raises the error of a failed upload."""
        with self._changed:
            self._changed.wait_for(lambda: not (self._waiting or self._sending) or self._error is not None)
            self._raise_error()

    def __enter__(self) -> "BackgroundUploads":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._changed:
            if kind is not None:
                self._error = self._error or StoreError("given up")
                self._waiting.clear()
            self._closed = True
            self._changed.notify_all()
        self._thread.join()
        if kind is None:
            self._raise_error()

    def _keep(self, data: bytes) -> Callable[[], bytes]:
        """Return a function that returns the bytes; large ones wait on disk if it has room."""
        if len(data) > self._memory_bytes:
            with suppress(OSError):
                return _OnDisk(data)
        return lambda: data

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._waiting) or self._closed)
                if not self._waiting:
                    return
                key = next(iter(self._waiting))
                make = self._waiting.pop(key)
                self._sending = True
                self._changed.notify_all()
            error = None
            try:
                data = make()
                self._store.put(key, data)
                self.digests[key] = sha256(data)
            except Exception as caught:
                error = caught
            with self._changed:
                self._sending = False
                if error is not None:
                    self._error = self._error or error
                    self._waiting.clear()
                self._changed.notify_all()


class _OnDisk:
    """Bytes in an unnamed file, which disappears with this object or the process."""

    def __init__(self, data: bytes) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  (open as long as this object lives)
        self._file.write(data)
        self._file.flush()

    def __call__(self) -> bytes:
        self._file.seek(0)
        return self._file.read()

    def __del__(self) -> None:
        with suppress(AttributeError, OSError):
            self._file.close()
