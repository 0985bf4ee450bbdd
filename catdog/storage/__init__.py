"""Where a run lives: a local folder, an S3 prefix, or memory; and uploads off the training thread.

A key is a relative path with forward slashes (`catdog.paths`). Every write is whole or not at all. `NotFoundError` says
that there is no such object; `StoreRefusedError` that the user must act (no such bucket, no permission, a full disk);
every other `StoreError` is what may pass, and S3 stores have waited for that already.
"""

from catdog.storage.base import Store, digest_many, leaving_at_once, read_many, sha256
from catdog.storage.local import LocalStore, scratch_beside
from catdog.storage.location import StoreLocation
from catdog.storage.memory import MemoryStore
from catdog.storage.s3 import S3Store
from catdog.storage.uploads import BackgroundUploads

__all__ = [
    "BackgroundUploads",
    "LocalStore",
    "MemoryStore",
    "S3Store",
    "Store",
    "StoreLocation",
    "digest_many",
    "leaving_at_once",
    "read_many",
    "scratch_beside",
    "sha256",
]
