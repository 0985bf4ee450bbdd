"""What a node needs before a trial can start: the pack, the cached features, the weights.

A local store's files are used in place. From S3 they are fetched once per node into a cache (`$CATDOG_CACHE`, default
~/.cache/catdog) under a lock, so that processes that want the same thing wait for the first. What the store does not
have is made here and put there for the others.
"""

import functools
import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import filelock

from catdog import paths
from catdog.config import SweepConfig
from catdog.data.drawn import DATASET as DRAWN
from catdog.data.drawn import open_drawn
from catdog.data.oxford import DATASET as OXFORD
from catdog.data.oxford import download_oxford, open_oxford
from catdog.data.source import Source
from catdog.errors import NotFoundError, UserError
from catdog.records import to_json
from catdog.storage import LocalStore, S3Store, Store, StoreLocation

NAMED_WEIGHTS = ("imagenet", "lite0", "none")


def node_cache() -> Path:
    """Return the folder of this node's copies."""
    return Path(os.environ.get("CATDOG_CACHE") or Path.home() / ".cache" / "catdog")


def provide(store: LocalStore | S3Store, key: str, make: Callable[[Path], None] | None = None) -> Path:
    """Return a local file with the content of `key`: from here, from the store, or from `make` (and then stored).

    Raises:
        NotFoundError: it is nowhere and there is no way to make it.
    """
    if isinstance(store, LocalStore):
        path = store.path(key)
    else:
        path = node_cache() / hashlib.sha256(store.url.encode()).hexdigest()[:8] / key
    if path.is_file() and make is None:
        return path
    with _node_lock(path):
        if not path.is_file():
            if isinstance(store, S3Store) and store.exists(key):
                store.get_file(key, path)
            elif make is not None:
                _make_whole(path, make)
            else:
                raise NotFoundError(f"{store.url}/{key}: no such object")
        if make is not None and not store.exists(key):
            store.put_file(key, path)
    return path


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
        return open_oxford(Path(config.dataset_root).expanduser())
    downloaded = node_cache() / OXFORD
    return open_oxford(downloaded) if downloaded.is_dir() else None


def stored_dataset(config: SweepConfig, store: Store) -> Dataset | None:
    """Return the dataset whose pack was put into the store last, if there is one."""
    try:
        content = json.loads(store.get(paths.dataset_pointer(config.recipe.dataset)))
        dataset = Dataset(**content)
    except (NotFoundError, TypeError, ValueError):
        return None
    return dataset if store.exists(paths.pack_key(dataset.fingerprint)) else None


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
        key = paths.pack_key(dataset.fingerprint)
        if not store.exists(key):
            from catdog.data.pack import write_pack

            say(f"packing {len(source.names):,} images, once")
            provide(store, key, functools.partial(write_pack, source))
        if stored_dataset(config, store) != dataset:
            store.put(paths.dataset_pointer(dataset.name), to_json(dataset))
    return dataset


def weights_digest(weights: str) -> str | None:
    """Return the sha256 of weights that are a file or an s3:// url; None for named ones."""
    path = provide_weights(weights)
    if isinstance(path, str):
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def provide_weights(weights: str) -> str | Path:
    """Return the name of named weights, or the local file of others (an s3:// url is fetched once per node)."""
    if weights in NAMED_WEIGHTS:
        return weights
    if not weights.startswith("s3://"):
        path = Path(weights).expanduser().absolute()
        if not path.is_file():
            raise UserError(f"--weights {weights}: no such file; choose imagenet, lite0, none, a file or an s3:// url")
        return path
    folder, _, name = weights.rpartition("/")
    if not name or folder in ("s3:", "s3:/"):
        raise UserError(f"--weights {weights}: give s3://bucket/path/file")
    store = StoreLocation.of(folder).open()
    assert isinstance(store, S3Store)
    try:
        return provide(store, name)
    except NotFoundError:
        raise UserError(f"--weights {weights}: no such object") from None


def _make_whole(path: Path, make: Callable[[Path], None]) -> None:
    """Call `make` for a file beside `path`, then rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        make(scratch)
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


def _node_lock(path: Path) -> filelock.FileLock:
    folder = Path(tempfile.gettempdir()) / f"catdog-locks-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    return filelock.FileLock(folder / f"{hashlib.sha256(str(path).encode()).hexdigest()[:24]}.lock")
