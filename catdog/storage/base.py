"""What all stores can do, and reading many objects at once."""

import concurrent.futures
import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, TypeVar

from catdog.errors import NotFoundError

READERS = 16
"""How many objects are read at once."""

T = TypeVar("T")


class Store(Protocol):
    """Objects by key."""

    @property
    def url(self) -> str: ...

    def put(self, key: str, data: bytes) -> None: ...

    def put_new(self, key: str, data: bytes) -> bool:
        """Put the object unless there is another one under this key; returns whether it is this one now."""
        ...

    def get(self, key: str) -> bytes: ...

    def put_file(self, key: str, path: Path) -> None: ...

    def get_file(self, key: str, path: Path) -> None:
        """Download to `path`, whole or not at all."""
        ...

    def delete(self, key: str) -> None:
        """Delete the object if it is there."""
        ...

    def list(self, prefix: str) -> list[str]:
        """Return all keys that begin with `prefix`, sorted."""
        ...

    def exists(self, key: str) -> bool: ...

    def check(self) -> None:
        """Raise `StoreRefusedError` unless objects can be written, read and deleted here now."""
        ...

    def tidy(self, prefix: str) -> None:
        """Remove what writers that died have left below `prefix`, a folder."""
        ...

    def hurry(self, on: bool = True) -> None:
        """Wait no longer for a store that is away, from now on; or wait again."""
        ...


@contextmanager
def leaving_at_once(store: Store) -> Iterator[None]:
    """Let a user who interrupts the block leave, even if the store is away."""
    store.hurry(False)  # an earlier block may have been left so
    try:
        yield
    except KeyboardInterrupt:
        store.hurry()
        raise


def read_many(store: Store, keys: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    """Read objects in parallel, yielding them in the order of `keys`; those that are gone are left out."""
    return _map_objects(store, keys, lambda data: data)


def digest_many(store: Store, keys: Iterable[str]) -> dict[str, str]:
    """Return the sha256 of objects by key, read in parallel; those that are gone are left out."""
    return dict(_map_objects(store, keys, sha256))


def sha256(data: bytes) -> str:
    """Return the sha256 of some bytes, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def _map_objects(store: Store, keys: Iterable[str], function: Callable[[bytes], T]) -> Iterator[tuple[str, T]]:
    def read(key: str) -> tuple[str, T] | None:
        try:
            return key, function(store.get(key))
        except NotFoundError:
            return None

    with concurrent.futures.ThreadPoolExecutor(READERS) as pool:
        yield from (item for item in pool.map(read, keys) if item is not None)
