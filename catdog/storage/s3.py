"""A prefix of an S3 bucket as a store, through boto3; `s3_retries.py` has the retries."""

import functools
import mimetypes
import os
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from catdog.errors import NotFoundError, StoreError, StoreRefusedError, UserError, first_line
from catdog.storage.local import REMEDIES, scratch_beside
from catdog.storage.s3_retries import (
    CONDITION_FAILED,
    CONDITION_UNKNOWN,
    MISSING,
    RetryingClient,
    error_code,
)
from catdog.storage.store import Link, check_key

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


LINK_SECONDS = 7 * 24 * 3600
"""The longest that AWS signs a URL for."""
ENCRYPTIONS = ("AES256", "aws:kms", "aws:kms:dsse")
_TYPES = mimetypes.MimeTypes()
"""Python's own table, which is the same on every machine."""
_TYPES.add_type("text/markdown", ".md")


class S3Store:
    """A prefix of a bucket; for `patience` and `has_answered` see `RetryingClient`.

    `encryption` is what each write asks for: an algorithm of `ENCRYPTIONS`, or that and a key's id after a comma.
    """

    def __init__(
        self,
        url: str,
        endpoint: str | None,
        region: str | None,
        patience: float,
        has_answered: bool = False,
        encryption: str | None = None,
    ) -> None:
        bucket, _, prefix = url.removeprefix("s3://").partition("/")
        self.url = url
        self.bucket = bucket
        self.prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._client = RetryingClient(url, endpoint, region, patience, has_answered)
        algorithm, _, key_id = (encryption or "").partition(",")
        asked = {"ServerSideEncryption": algorithm, "SSEKMSKeyId": key_id}
        self._encryption = {name: value for name, value in asked.items() if value}

    @property
    def is_shared(self) -> bool:
        """Return True: every node can reach the bucket."""
        return True

    @property
    def has_conditional_writes(self) -> bool:
        """Return False: some S3 stores silently ignore the condition of a write."""
        return False

    def local_path(self, key: str) -> Path | None:
        """Return None: objects are not local files."""
        return None

    def put(self, key: str, data: bytes) -> None:
        """Write the object atomically."""
        self._client.request(key, lambda client: self._put(client, key, data))

    def put_new(self, key: str, data: bytes) -> bool:
        """Write the object unless the key exists; return whether the key now holds `data`."""
        return self._client.request(key, lambda client: self._put_new(client, key, data))

    def get(self, key: str) -> bytes:
        """Return the object; raises `NotFoundError` if there is none."""
        return self._client.request(
            key, lambda client: client.get_object(Bucket=self.bucket, Key=self._key(key))["Body"].read()
        )

    def put_file(self, key: str, path: Path) -> None:
        """Write the object atomically from a file."""
        extra = self._headers(key)
        self._client.request(
            key, lambda client: client.upload_file(str(path), self.bucket, self._key(key), ExtraArgs=extra)
        )

    def get_file(self, key: str, path: Path) -> None:
        """Download the object to `path` atomically; raises `UserError` if this disk refuses."""
        place = self._key(key)

        def download(scratch: Path, client: "S3Client") -> None:
            try:
                client.download_file(self.bucket, place, str(scratch))
            except OSError as error:
                if error.errno not in REMEDIES:
                    raise  # from the connection, not the disk
                raise _disk_refuses(path, error) from error

        try:
            with scratch_beside(path) as scratch:
                self._client.request(key, functools.partial(download, scratch))
                os.replace(scratch, path)
        except OSError as error:
            raise _disk_refuses(path, error) from error

    def delete(self, key: str) -> None:
        """Delete the object if it exists."""
        self._client.request(key, lambda client: client.delete_object(Bucket=self.bucket, Key=self._key(key)))

    def list(self, prefix: str) -> list[str]:
        """Return all keys that begin with `prefix`, sorted."""

        def list_all(client: "S3Client") -> list[str]:
            paginator = client.get_paginator("list_objects_v2")
            pages = paginator.paginate(Bucket=self.bucket, Prefix=self.prefix + prefix)
            return sorted(item["Key"].removeprefix(self.prefix) for page in pages for item in page.get("Contents", []))

        return self._client.request(prefix, list_all)

    def exists(self, key: str) -> bool:
        """Return whether the key exists."""
        try:
            self._client.request(key, lambda client: client.head_object(Bucket=self.bucket, Key=self._key(key)))
        except NotFoundError:
            return False
        return True

    def link(self, key: str) -> Link:
        """Return a presigned URL of the object, with which anybody can read it while it lasts.

        Source: https://docs.aws.amazon.com/AmazonS3/latest/userguide/using-presigned-url.html
        """
        with self._client.errors(key):
            place = {"Bucket": self.bucket, "Key": self._key(key)}
            url = self._client.client.generate_presigned_url("get_object", place, LINK_SECONDS)
        is_temporary = "x-amz-security-token=" in url.lower()
        less = ", and no longer than the temporary credentials that signed it" if is_temporary else ""
        return Link(url, f"for everybody who has it, for 7 days{less}")

    def check(self) -> None:
        """Raise `StoreError` unless all of a store's operations are allowed and work now."""
        key, content = f".check-{uuid.uuid4().hex}", b"catdog"
        place: Any = {"Bucket": self.bucket, "Key": self._key(key)}
        try:
            with self._client.errors(key):
                client = self._client.client
                self._put_new(client, key, b"")
                self._put(client, key, content)
                is_read = client.get_object(**place)["Body"].read() == content
                client.head_object(**place)
                listing = client.list_objects_v2(Bucket=self.bucket, Prefix=self.prefix + key)
                client.delete_object(**place)
        except StoreRefusedError:
            raise
        except StoreError as error:
            raise StoreError(f"--store {self.url}: {first_line(error)}") from None
        if not is_read or [item["Key"] for item in listing.get("Contents", [])] != [self.prefix + key]:
            raise StoreRefusedError(f"--store {self.url}: returns other objects than were written: choose another")
        self._client.has_answered = True

    def remove_leftovers(self, prefix: str) -> None:
        """Do nothing: writes are atomic, and the bucket's lifecycle rule aborts unfinished uploads."""

    def set_retrying(self, on: bool) -> None:
        """Retry from now on while the store is unavailable, or stop retrying."""
        self._client.patience.set_retrying(on)

    def abilities(self) -> dict[str, bool]:
        """Test what S3 stores differ in: writes conditional on the key not existing, and request checksums."""
        from botocore.exceptions import BotoCoreError, ClientError

        key = f".check-abilities-{uuid.uuid4().hex}"

        def answer(**options: Any) -> str:
            try:
                self._put(self._client.client, key, b"catdog", **options)
            except ClientError as error:
                return error_code(error)
            except BotoCoreError as error:
                return type(error).__name__
            return "done"

        try:
            checksums = answer(ChecksumAlgorithm="CRC32") == "done"
            conditional = answer() == "done" and answer(IfNoneMatch="*") in CONDITION_FAILED
        finally:
            self.delete(key)
        return {"conditional writes": conditional, "checksums of requests": checksums}

    def _key(self, key: str) -> str:
        """Return the bucket's key of a key."""
        return self.prefix + check_key(key)

    def _put(self, client: "S3Client", key: str, data: bytes, **options: Any) -> None:
        options |= self._headers(key)
        client.put_object(Bucket=self.bucket, Key=self._key(key), Body=data, **options)

    def _put_new(self, client: "S3Client", key: str, data: bytes) -> bool:
        from botocore.exceptions import ClientError

        try:
            self._put(client, key, data, IfNoneMatch="*")
        except ClientError as error:
            code = error_code(error)
            if code not in CONDITION_FAILED | CONDITION_UNKNOWN:
                raise
            try:  # is there an object? it may be ours, if a response was lost
                return client.get_object(Bucket=self.bucket, Key=self._key(key))["Body"].read() == data
            except ClientError as missing:
                if error_code(missing) not in MISSING:
                    raise
            if code in CONDITION_FAILED:  # it was deleted in the meantime
                return False
            self._put(client, key, data)
        return True

    def _headers(self, key: str) -> dict[str, Any]:
        """Return what is stored with an object: its type for browsers, how it is encrypted."""
        content_type = _TYPES.guess_type(key)[0] or "application/octet-stream"
        if content_type.startswith("text/"):
            content_type += "; charset=utf-8"
        return {"ContentType": content_type, **self._encryption}


def _disk_refuses(path: Path, error: OSError) -> UserError:
    """Return the error for a fault of this node's disk, which retrying the store cannot fix."""
    reason = (error.strerror or str(error)).lower()
    return UserError(f"{path}: cannot be written ({reason}): make room there, or set CATDOG_CACHE to another folder")
