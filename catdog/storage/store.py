"""What all stores can do; reading many objects at once; a store in memory, for tests and notebooks."""

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
    def url(self) -> str:
        """Return where the store is, as a user writes it."""
        ...

    @property
    def is_shared(self) -> bool:
        """Return whether other nodes reach it too."""
        ...

    @property
    def has_conditional_writes(self) -> bool:
        """Return whether `put_new` surely decides between two writers."""
        ...

    def local_path(self, key: str) -> Path | None:
        """Return the file of a key where the store's files can be used in place; else None."""
        ...

    def abilities(self) -> dict[str, bool]:
        """Return what is found out by trying, of what stores of this kind differ in."""
        ...

    def put(self, key: str, data: bytes) -> None:
        """Write the object, whole or not at all."""
        ...

    def put_new(self, key: str, data: bytes) -> bool:
        """Put the object unless there is another one under this key; returns whether it is this one now."""
        ...

    def get(self, key: str) -> bytes:
        """Return the object; raises `NotFoundError` if there is none."""
        ...

    def put_file(self, key: str, path: Path) -> None:
        """Write the object from a file."""
        ...

    def get_file(self, key: str, path: Path) -> None:
        """Download to `path`, whole or not at all."""
        ...

    def delete(self, key: str) -> None:
        """Delete the object if it is there."""
        ...

    def list(self, prefix: str) -> list[str]:
        """Return all keys that begin with `prefix`, sorted."""
        ...

    def exists(self, key: str) -> bool:
        """Return whether there is an object under this key."""
        ...

    def check(self) -> None:
        """Raise `StoreRefusedError` unless objects can be written, read and deleted here now."""
        ...

    def remove_leftovers(self, prefix: str) -> None:
        """Remove what writers that died have left below `prefix`, a folder."""
        ...

    def set_retrying(self, on: bool) -> None:
        """Retry from now on while the store is unavailable, or stop retrying."""
        ...


@contextmanager
def give_up_on_interrupt(store: Store) -> Iterator[None]:
    """Let a user who interrupts the block leave, even if the store is away."""
    store.set_retrying(True)  # an earlier block may have been interrupted
    try:
        yield
    except KeyboardInterrupt:
        store.set_retrying(False)
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


class MemoryStore:
    """Objects in a dictionary."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}

    @property
    def url(self) -> str:
        """Return a word in place of an address."""
        return "memory"

    @property
    def is_shared(self) -> bool:
        """Return False: the dictionary is this process's."""
        return False

    @property
    def has_conditional_writes(self) -> bool:
        """Return True."""
        return True

    def local_path(self, key: str) -> Path | None:
        """Return None: nothing is in files."""
        return None

    def abilities(self) -> dict[str, bool]:
        """Return nothing: memory is memory."""
        return {}

    def put(self, key: str, data: bytes) -> None:
        self.objects[key] = bytes(data)

    def put_new(self, key: str, data: bytes) -> bool:
        return self.objects.setdefault(key, bytes(data)) == data

    def get(self, key: str) -> bytes:
        try:
            return self.objects[key]
        except KeyError:
            raise NotFoundError(f"memory/{key}: no such object") from None

    def put_file(self, key: str, path: Path) -> None:
        self.put(key, path.read_bytes())

    def get_file(self, key: str, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.get(key))

    def delete(self, key: str) -> None:
        self.objects.pop(key, None)

    def list(self, prefix: str) -> list[str]:
        return sorted(key for key in self.objects if key.startswith(prefix))

    def exists(self, key: str) -> bool:
        return key in self.objects

    def check(self) -> None:
        pass

    def set_retrying(self, on: bool) -> None:
        """Do nothing: memory is always there."""

    def remove_leftovers(self, prefix: str) -> None:
        pass
