"""Where a run lives: a local folder, an S3 prefix, or memory; and uploads off the training thread.

A key is a relative path with forward slashes (`catdog.runs.paths`). Every write is atomic. `NotFoundError` means that
there is no such object; `StoreRefusedError`, that the user must act (no such bucket, no permission, a full disk); any
other `StoreError` may be temporary, and the store has already retried.
"""

import functools
import os
from dataclasses import dataclass
from pathlib import Path

from catdog.errors import UserError
from catdog.storage.local import LocalStore
from catdog.storage.s3 import ENCRYPTIONS, S3Store
from catdog.storage.s3_client import configured_endpoint
from catdog.storage.store import Link, MemoryStore, Store, give_up_on_interrupt, map_objects, read_many, sha256
from catdog.storage.upload_queue import BackgroundUploads

__all__ = [
    "BackgroundUploads",
    "Link",
    "LocalStore",
    "MemoryStore",
    "S3Store",
    "Store",
    "StoreLocation",
    "give_up_on_interrupt",
    "map_objects",
    "open_target",
    "put_file",
    "read_many",
    "sha256",
]

PATIENCE = 30.0
"""Seconds to retry an unavailable store while a user waits at a terminal; a sweep retries longer."""


@dataclass(frozen=True)
class StoreLocation:
    """Where a store is and how long to retry it; holds no secrets: each process finds its own credentials."""

    url: str
    endpoint: str | None = None
    region: str | None = None
    patience: float = PATIENCE
    has_answered: bool = False
    """Another process has reached it, so a refusal may be temporary and is retried."""
    encryption: str | None = None
    """What writes to S3 ask for, from `$CATDOG_STORE_ENCRYPTION`: ALGORITHM or ALGORITHM,KEY-ID."""

    @classmethod
    def of(cls, url: str, patience: float = PATIENCE) -> "StoreLocation":
        """Return the location a user named: folders become absolute, how to reach S3 is this process's setting."""
        if not url.startswith("s3://"):
            if "://" in url or url.startswith("s3:"):
                raise UserError(f"--store {url}: give a folder or s3://bucket/prefix")
            folder = os.path.expanduser(url)
            if folder.startswith("~"):
                raise UserError(f"--store {url}: there is no such user; give a folder or s3://bucket/prefix")
            return cls(os.path.abspath(folder), patience=patience)
        if not url.removeprefix("s3://").partition("/")[0]:
            raise UserError(f"--store {url}: names no bucket; give s3://bucket/prefix")
        encryption = os.environ.get("CATDOG_STORE_ENCRYPTION") or None
        if encryption and encryption.partition(",")[0] not in ENCRYPTIONS:
            raise UserError(f"CATDOG_STORE_ENCRYPTION {encryption}: give {', '.join(ENCRYPTIONS)} or aws:kms,KEY-ID")
        import botocore.session
        from botocore.exceptions import BotoCoreError

        try:
            session = botocore.session.get_session()
            endpoint, region = configured_endpoint(session), session.get_config_variable("region")
        except BotoCoreError as error:
            raise UserError(f"--store {url}: {error}: correct boto3's configuration, or AWS_PROFILE") from None
        return cls(url.rstrip("/"), endpoint, region, patience, encryption=encryption)

    @property
    def is_shared(self) -> bool:
        """Return whether other nodes can reach the store; a folder may exist on this node only."""
        return self.url.startswith("s3://")

    @functools.cache  # noqa: B019  (one client per location and process)
    def open(self) -> Store:
        """Return the store, one instance per location and process."""
        if self.is_shared:
            return S3Store(self.url, self.endpoint, self.region, self.patience, self.has_answered, self.encryption)
        return LocalStore(Path(self.url), patience=self.patience)


def open_target(option: str, url: str) -> Store:
    """Return the store that an option names for what a job writes, once it can be written to."""
    try:
        target = StoreLocation.of(url).open()
        target.check()
    except UserError as error:
        raise UserError(str(error).replace("--store", option, 1)) from None
    return target


def put_file(option: str, url: str, data: bytes) -> None:
    """Write the file that an option names."""
    folder, slash, name = url.rpartition("/")
    open_target(option, folder or slash or ".").put(name, data)
