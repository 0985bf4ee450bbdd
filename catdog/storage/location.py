"""What a process needs to open a store, as plain values that travel to workers."""

import functools
import os
from dataclasses import dataclass
from pathlib import Path

from catdog.errors import UserError
from catdog.storage.local import LocalStore
from catdog.storage.s3 import S3Store

PATIENCE = 30.0
"""Seconds that somebody in front of a terminal waits for a store that is away; a sweep waits longer."""


@dataclass(frozen=True)
class StoreLocation:
    """Where a store is and how long to wait for it; holds no secrets: each process finds its credentials itself."""

    url: str
    endpoint: str | None = None
    region: str | None = None
    patience: float = PATIENCE
    has_answered: bool = False
    """Another process has reached it: what is refused now may have to do with a bad minute, and is waited for."""

    @classmethod
    def of(cls, url: str, patience: float = PATIENCE) -> "StoreLocation":
        """Return the location a user named: folders become absolute, endpoint and region are this process's."""
        if not url.startswith("s3://"):
            if "://" in url or url.startswith("s3:"):
                raise UserError(f"--store {url}: give a folder or s3://bucket/prefix")
            folder = os.path.expanduser(url)
            if folder.startswith("~"):
                raise UserError(f"--store {url}: there is no such user; give a folder or s3://bucket/prefix")
            return cls(os.path.abspath(folder))
        if not url.removeprefix("s3://").partition("/")[0]:
            raise UserError(f"--store {url}: names no bucket; give s3://bucket/prefix")
        import boto3
        from botocore.exceptions import BotoCoreError

        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        try:
            region = boto3.session.Session().region_name
        except BotoCoreError as error:
            raise UserError(f"--store {url}: {error}: correct boto3's configuration, or AWS_PROFILE") from None
        return cls(url.rstrip("/"), endpoint, region, patience)

    @property
    def is_local(self) -> bool:
        return not self.url.startswith("s3://")

    @functools.cache  # noqa: B019  (one client for each location and process)
    def open(self) -> LocalStore | S3Store:
        if self.is_local:
            return LocalStore(Path(self.url))
        return S3Store(self.url, self.endpoint, self.region, self.patience, self.has_answered)
