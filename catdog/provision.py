"""What a node needs before a trial can start: the pack, the cached features, the weights.

A local store's files are used in place. From S3 they are fetched once per node into a cache (`$CATDOG_CACHE`, default
~/.cache/catdog) under a lock, so that processes that want the same thing wait for the first. What the store does not
have is made here and put there for the others.
"""

import contextlib
import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import filelock
from safetensors import SafetensorError

from catdog import paths
from catdog.config import SweepConfig
from catdog.data.drawn import DATASET as DRAWN
from catdog.data.drawn import open_drawn
from catdog.data.oxford import DATASET as OXFORD
from catdog.data.oxford import download_oxford, open_oxford
from catdog.data.source import Source
from catdog.errors import NotFoundError, StoreRefusedError, UserError, first_line
from catdog.records import to_json
from catdog.storage import LocalStore, S3Store, Store, StoreLocation, scratch_beside

logger = logging.getLogger(__name__)

NAMED_WEIGHTS = ("imagenet", "lite0", "none")


def node_cache() -> Path:
    """Return the folder of this node's copies."""
    return Path(os.environ.get("CATDOG_CACHE") or Path.home() / ".cache" / "catdog")


def provide(store: LocalStore | S3Store, key: str, make: Callable[[Path], None] | None = None) -> Path:
    """Return a local file with the content of `key`: from here, from the store, or from `make` (and then stored).

    Beside the object the store keeps its sha256, written last. A file that is not what that says is damaged or
    unfinished: it is made again, or fetched again.

    Raises:
        NotFoundError: it is nowhere, or damaged everywhere, and there is no way to make it.
    """
    path = store.path(key) if isinstance(store, LocalStore) else _cached(store, key)
    with _node_lock(path):
        digest = _stored_digest(store, key)
        if digest is not None:
            if path.is_file() and _is_whole(path, digest):
                return path
            if isinstance(store, S3Store) and store.exists(key):
                store.get_file(key, path)
                if _is_whole(path, digest):
                    return path
            logger.warning("%s/%s is damaged: its sha256 is not what it was", store.url, key)
            store.delete(paths.digest_key(key))  # so that whoever can make it again does
        if make is None:
            state = "no such object" if digest is None else "damaged; the same command makes it again"
            raise NotFoundError(f"{store.url}/{key}: {state}")
        _make_whole(path, make)
        if isinstance(store, S3Store):
            store.put_file(key, path)
        digest = _file_digest(path)
        _remember_whole(path, digest)
        store.put(paths.digest_key(key), to_json({"sha256": digest}))
    return path


def is_provided(store: Store, key: str) -> bool:
    """Return whether the store has all of `key`."""
    return _stored_digest(store, key) is not None and store.exists(key)


@dataclass(frozen=True)
class Dataset:
    """A dataset that is at hand, or in the store."""

    name: str
    fingerprint: str
    trainval_images: int


def open_source(config: SweepConfig) -> Source | None:
    """Return the dataset where this machine has it: drawn, in the folder the user named, or downloaded earlier."""
    if config.recipe.dataset == DRAWN:
        return open_drawn()
    if config.dataset_root is not None:
        return open_oxford(Path(os.path.expanduser(config.dataset_root)))
    downloaded = node_cache() / OXFORD
    return open_oxford(downloaded) if os.path.isdir(downloaded) else None


def stored_dataset(config: SweepConfig, store: Store) -> Dataset | None:
    """Return the dataset whose pack was put into the store last, if there is one."""
    try:
        content = json.loads(store.get(paths.dataset_pointer(config.recipe.dataset)))
        dataset = Dataset(**content)
    except (NotFoundError, TypeError, ValueError):
        return None
    return dataset if is_provided(store, paths.pack_key(dataset.fingerprint)) else None


def find_dataset(config: SweepConfig, store: Store) -> tuple[Dataset | None, Source | None]:
    """Return the dataset of a sweep and, where this machine has its images, their source; writes and downloads nothing.

    The machine comes first (`open_source`), then the store (where `jobs/prepare.py` put a pack).
    """
    source = open_source(config)
    if source is None:
        return stored_dataset(config, store), None
    return Dataset(source.dataset, source.fingerprint, int((~source.is_test).sum())), source


def provide_dataset(config: SweepConfig, store: LocalStore | S3Store, say: Callable[[str], None]) -> Dataset:
    """Make sure that the store holds the pack of the sweep's dataset, downloading it where it is nowhere else."""
    dataset, source = find_dataset(config, store)
    if dataset is None:
        say("Oxford-IIIT Pet is neither on this machine nor in the store: downloading it")
        download_oxford(node_cache() / OXFORD)
        dataset, source = find_dataset(config, store)
    assert dataset is not None
    if source is not None:
        _provide_pack(source, store, say)
        if stored_dataset(config, store) != dataset:
            store.put(paths.dataset_pointer(dataset.name), to_json(dataset))
    return dataset


def _provide_pack(source: Source, store: LocalStore | S3Store, say: Callable[[str], None]) -> None:
    key, trimaps = paths.pack_key(source.fingerprint), paths.trimaps_key(source.fingerprint)
    if isinstance(store, S3Store) and is_provided(store, key) and store.exists(trimaps):
        return  # the driver needs no copy of its own

    def make(path: Path) -> None:
        from catdog.data.pack import write_pack

        say(f"packing {len(source.names):,} images, once")
        write_pack(source, path)

    path = provide(store, key, make)
    if not store.exists(trimaps):
        from catdog.artifacts import trimaps_npz
        from catdog.data.pack import open_pack

        store.put(trimaps, trimaps_npz(open_pack(path)))


def weights_digest(weights: str) -> str | None:
    """Return the sha256 of weights that are a file or an s3:// url, as it is now; None for named ones."""
    path = provide_weights(weights)
    return None if isinstance(path, str) else _file_digest(path)


def provide_weights(weights: str, digest: str | None = None) -> str | Path:
    """Return the name of named weights, or the local file of others.

    An s3:// url is fetched unless this node has a copy whose sha256 is `digest`, which is also checked in the end.
    """
    path = _weights_file(weights, digest)
    if isinstance(path, Path) and digest is not None and not _is_whole(path, digest):
        raise UserError(
            f"--weights {weights}: not the file that this run began with: restore it, or choose another --run"
        )
    return path


def _weights_file(weights: str, digest: str | None) -> str | Path:
    if weights in NAMED_WEIGHTS:
        return weights
    if not weights.startswith("s3://"):
        path = Path(os.path.abspath(os.path.expanduser(weights)))
        if not os.path.isfile(path):  # unlike Path.is_file, it takes names that are too long
            raise UserError(f"--weights {weights}: no such file; choose imagenet, lite0, none, a file or an s3:// url")
        if not os.access(path, os.R_OK):
            raise UserError(f"--weights {weights}: cannot be read: get the right to read it, or choose another file")
        return path
    folder, _, name = weights.rpartition("/")
    if not name or folder in ("s3:", "s3:/"):
        raise UserError(f"--weights {weights}: give s3://bucket/path/file")
    store = StoreLocation.of(folder).open()
    assert isinstance(store, S3Store)
    path = _cached(store, name)
    try:
        with _node_lock(path):
            if digest is None or not (path.is_file() and _is_whole(path, digest)):
                store.get_file(name, path)
    except NotFoundError:
        raise UserError(f"--weights {weights}: no such object: check the url") from None
    except StoreRefusedError as error:
        raise UserError(str(error).replace("--store", "--weights", 1)) from None
    return path


def _cached(store: S3Store, key: str) -> Path:
    """Return where this node keeps its copy of an object."""
    return node_cache() / hashlib.sha256(store.url.encode()).hexdigest()[:8] / key


def _stored_digest(store: Store, key: str) -> str | None:
    """Return the sha256 that an object had when it was stored; None where it is not there or was not finished."""
    try:
        digest = json.loads(store.get(paths.digest_key(key)))["sha256"]
    except (NotFoundError, KeyError, TypeError, ValueError):
        return None
    return digest if isinstance(digest, str) else None


def _is_whole(path: Path, digest: str) -> bool:
    """Return whether a file's sha256 is `digest`; remembers it until the file changes, since packs are large."""
    with contextlib.suppress(OSError):
        if _node_file(path, "verified").read_text() == _state(path, digest):
            return True
    if _file_digest(path) != digest:
        return False
    _remember_whole(path, digest)
    return True


def _remember_whole(path: Path, digest: str) -> None:
    with contextlib.suppress(OSError):
        _node_file(path, "verified").write_text(_state(path, digest))


def _state(path: Path, digest: str) -> str:
    status = path.stat()
    return f"{digest} {status.st_size} {status.st_mtime_ns} {status.st_ino}"


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _make_whole(path: Path, make: Callable[[Path], None]) -> None:
    """Call `make` for a file beside `path`, then rename it."""
    scratch = scratch_beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        make(scratch)
        os.replace(scratch, path)
    except (OSError, SafetensorError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or first_line(error)
        raise UserError(f"{path}: cannot be written ({reason}): make room, or choose another folder") from error
    finally:
        with contextlib.suppress(OSError):
            scratch.unlink(missing_ok=True)


def _node_lock(path: Path) -> filelock.FileLock:
    return filelock.FileLock(_node_file(path, "lock"))


def _node_file(path: Path, kind: str) -> Path:
    """Return a file of this node that says something about `path`, which may be shared."""
    folder = Path(tempfile.gettempdir()) / f"catdog-locks-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    return folder / f"{hashlib.sha256(str(path).encode()).hexdigest()[:24]}.{kind}"
