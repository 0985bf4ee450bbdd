"""The interface of all stores; parallel reads; an in-memory store for tests and notebooks."""

import collections
import concurrent.futures
import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

from catdog.errors import NotFoundError, UserError
from catdog.formatting import shorten

READERS = 16
"""Number of objects read in parallel."""
MOST_AHEAD = 4 * READERS
"""Objects read before their turn: a slow consumer finds no more than these in memory."""

T = TypeVar("T")


class Link(NamedTuple):
    """A URL at which a browser shows an object, as it is when it is opened."""

    url: str
    lasts: str
    """For whom and how long, in words."""


class Store(Protocol):
    """Objects by key."""

    @property
    def url(self) -> str:
        """Return the location as a user writes it."""
        ...

    @property
    def is_shared(self) -> bool:
        """Return whether other nodes can reach it."""
        ...

    @property
    def has_conditional_writes(self) -> bool:
        """Return whether `put_new` reliably lets only one of two writers win."""
        ...

    def local_path(self, key: str) -> Path | None:
        """Return the file of a key if the store's files can be used in place, else None."""
        ...

    def abilities(self) -> dict[str, bool]:
        """Test the features in which stores of this kind differ; return whether each is there, by name."""
        ...

    def put(self, key: str, data: bytes) -> None:
        """Write the object atomically."""
        ...

    def put_new(self, key: str, data: bytes) -> bool:
        """Write the object unless the key exists; return whether the key now holds `data`."""
        ...

    def get(self, key: str) -> bytes:
        """Return the object; raises `NotFoundError` if there is none."""
        ...

    def put_file(self, key: str, path: Path) -> None:
        """Write the object atomically from a file."""
        ...

    def get_file(self, key: str, path: Path) -> None:
        """Download the object to `path` atomically."""
        ...

    def delete(self, key: str) -> None:
        """Delete the object if it exists."""
        ...

    def list(self, prefix: str) -> list[str]:
        """Return all keys that begin with `prefix`, sorted."""
        ...

    def exists(self, key: str) -> bool:
        """Return whether the key exists."""
        ...

    def link(self, key: str) -> Link:
        """Return a URL of the object, whether it exists or not."""
        ...

    def check(self) -> None:
        """Raise `StoreRefusedError` unless objects can be written, read and deleted here now."""
        ...

    def remove_leftovers(self, prefix: str) -> None:
        """Remove what dead writers left below the folder `prefix`."""
        ...

    def set_retrying(self, on: bool) -> None:
        """Retry from now on while the store is unavailable, or stop retrying."""
        ...


@contextmanager
def give_up_on_interrupt(store: Store) -> Iterator[None]:
    """Stop retrying the store when the user interrupts the block."""
    store.set_retrying(True)  # an earlier block may have been interrupted
    try:
        yield
    except KeyboardInterrupt:
        store.set_retrying(False)
        raise


def read_many(store: Store, keys: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    """Read objects in parallel, yielding each with its key in the order of `keys`; missing ones are skipped."""
    return map_objects(store, keys, lambda key, data: data)


def check_key(key: str) -> str:
    """Return the key; raises `UserError` for one outside the store, which only a damaged file can have named."""
    if not key or key.startswith("/") or "\0" in key or ".." in key.split("/"):
        raise UserError(f"{shorten(key)!r} lies outside the store: the file that names it is damaged")
    return key


def map_objects(store: Store, keys: Iterable[str], function: Callable[[str, bytes], T]) -> Iterator[tuple[str, T]]:
    """Yield each key with `function(key, object)`, computed in parallel, in order; missing objects are skipped."""

    def read(key: str) -> tuple[str, T] | None:
        try:
            return key, function(key, store.get(key))
        except NotFoundError:
            return None

    waiting: collections.deque[concurrent.futures.Future[tuple[str, T] | None]] = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(READERS) as pool:
        try:
            for key in keys:
                waiting.append(pool.submit(read, key))
                if len(waiting) > MOST_AHEAD and (item := waiting.popleft().result()) is not None:
                    yield item
            while waiting:
                if (item := waiting.popleft().result()) is not None:
                    yield item
        finally:
            for one in waiting:
                one.cancel()


def sha256(data: bytes) -> str:
    """Return the sha256 of `data` in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


class MemoryStore:
    """A store in a dictionary."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}

    @property
    def url(self) -> str:
        """Return a placeholder for a location."""
        return "memory"

    @property
    def is_shared(self) -> bool:
        """Return False: the dictionary belongs to this process."""
        return False

    @property
    def has_conditional_writes(self) -> bool:
        """Return True."""
        return True

    def local_path(self, key: str) -> Path | None:
        """Return None: objects are not files."""
        return None

    def abilities(self) -> dict[str, bool]:
        """Return nothing: dictionaries do not differ."""
        return {}

    def put(self, key: str, data: bytes) -> None:
        """Write the object atomically."""
        self.objects[check_key(key)] = bytes(data)

    def put_new(self, key: str, data: bytes) -> bool:
        """Write the object unless the key exists; return whether the key now holds `data`."""
        return self.objects.setdefault(key, bytes(data)) == data

    def get(self, key: str) -> bytes:
        """Return the object; raises `NotFoundError` if there is none."""
        try:
            return self.objects[check_key(key)]
        except KeyError:
            raise NotFoundError(f"memory/{key}: no such object") from None

    def put_file(self, key: str, path: Path) -> None:
        """Write the object from a file."""
        self.put(key, path.read_bytes())

    def get_file(self, key: str, path: Path) -> None:
        """Write the object to `path`."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.get(key))

    def delete(self, key: str) -> None:
        """Delete the object if it exists."""
        self.objects.pop(key, None)

    def list(self, prefix: str) -> list[str]:
        """Return all keys that begin with `prefix`, sorted."""
        return sorted(key for key in self.objects if key.startswith(prefix))

    def exists(self, key: str) -> bool:
        """Return whether the key exists."""
        return key in self.objects

    def link(self, key: str) -> Link:
        """Return a placeholder for a URL."""
        return Link(f"memory:{key}", "in this process")

    def check(self) -> None:
        """Do nothing: memory is always writable."""

    def set_retrying(self, on: bool) -> None:
        """Do nothing: memory is always available."""

    def remove_leftovers(self, prefix: str) -> None:
        """Do nothing: dead writers leave nothing."""
