"""A prefix of an S3 bucket as a store, through boto3.

S3 has bad minutes: every operation waits for as long as the store's patience says, on top of the few quick retries
that boto3 makes itself. What was refused from the start (no such bucket, no permission) is said at once; what has
worked before is waited for, and credentials are looked for again, since they may have been renewed. Each object
carries the sha256 of its content as metadata.
"""

import hashlib
import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from catdog.errors import NotFoundError, StoreError, StoreRefusedError, UserError, first_line
from catdog.storage.base import READERS, sha256
from catdog.storage.local import REMEDIES, scratch_beside

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

logger = logging.getLogger(__name__)
T = TypeVar("T")

_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 20.0
_MISSING = frozenset({"NoSuchKey", "404", "NotFound"})
_CONDITION_FAILED = frozenset({"PreconditionFailed", "412"})
_CONDITION_UNKNOWN = frozenset({"NotImplemented", "501"})
"""To a store that has no conditional writes and says so; others ignore the condition."""
_DENIED = frozenset({"AccessDenied", "403", "InvalidAccessKeyId", "SignatureDoesNotMatch", "AllAccessDisabled"})
_EXPIRED = frozenset(
    {"ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired", "InvalidToken", "400"}
)
"""Or what may mean it: an answer to HEAD has no body that would say more than 400."""


class S3Store:
    """A prefix of a bucket.

    `patience` is how many seconds an operation waits for a store that is away; `has_answered`, whether the bucket is
    known to be there and open, so that a refusal is waited for, too.
    """

    def __init__(
        self, url: str, endpoint: str | None, region: str | None, patience: float, has_answered: bool = False
    ) -> None:
        bucket, _, prefix = url.removeprefix("s3://").partition("/")
        self.url = url
        self.bucket = bucket
        self.prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._endpoint, self._region, self._patience = endpoint, region, patience
        self._opened: S3Client | None = None
        self._has_answered = has_answered
        self._in_a_hurry = threading.Event()

    def put(self, key: str, data: bytes) -> None:
        self._request(key, lambda client: self._put(client, key, data))

    def put_new(self, key: str, data: bytes) -> bool:
        def put(client: "S3Client") -> bool:
            try:
                self._put(client, key, data, IfNoneMatch="*")
            except _client_error() as error:
                code = _code(error)
                if code not in _CONDITION_FAILED | _CONDITION_UNKNOWN:
                    raise
                try:  # is there one? perhaps ours, if an answer was lost
                    return client.get_object(Bucket=self.bucket, Key=self.prefix + key)["Body"].read() == data
                except _client_error() as missing:
                    if code in _CONDITION_FAILED or _code(missing) not in _MISSING:
                        raise
                self._put(client, key, data)
            return True

        return self._request(key, put)

    def get(self, key: str) -> bytes:
        return self._request(
            key, lambda client: client.get_object(Bucket=self.bucket, Key=self.prefix + key)["Body"].read()
        )

    def put_file(self, key: str, path: Path) -> None:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        extra = {"Metadata": {"sha256": digest}}
        self._request(
            key, lambda client: client.upload_file(str(path), self.bucket, self.prefix + key, ExtraArgs=extra)
        )

    def get_file(self, key: str, path: Path) -> None:
        scratch = scratch_beside(path)

        def download(client: "S3Client") -> None:
            try:
                client.download_file(self.bucket, self.prefix + key, str(scratch))
            except OSError as error:
                if error.errno not in REMEDIES:
                    raise  # the connection's, not the disk's
                raise _disk_refuses(path, error) from error

        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._request(key, download)
            os.replace(scratch, path)
        except OSError as error:
            raise _disk_refuses(path, error) from error
        finally:
            with suppress(OSError):
                scratch.unlink(missing_ok=True)

    def delete(self, key: str) -> None:
        self._request(key, lambda client: client.delete_object(Bucket=self.bucket, Key=self.prefix + key))

    def list(self, prefix: str) -> list[str]:
        def list_all(client: "S3Client") -> list[str]:
            paginator = client.get_paginator("list_objects_v2")
            pages = paginator.paginate(Bucket=self.bucket, Prefix=self.prefix + prefix)
            return sorted(item["Key"].removeprefix(self.prefix) for page in pages for item in page.get("Contents", []))

        return self._request(prefix, list_all)

    def exists(self, key: str) -> bool:
        try:
            self._request(key, lambda client: client.head_object(Bucket=self.bucket, Key=self.prefix + key))
        except NotFoundError:
            return False
        return True

    def check(self) -> None:
        key, content = f".check-{uuid.uuid4().hex}", b"catdog"
        try:
            with self._errors(key):
                self._put(self._client, key, content)
                self._client.get_object(Bucket=self.bucket, Key=self.prefix + key)["Body"].read()
                self._client.delete_object(Bucket=self.bucket, Key=self.prefix + key)
        except StoreRefusedError:
            raise
        except StoreError as error:
            raise StoreError(f"--store {self.url}: {first_line(error)}") from None
        self._has_answered = True

    def tidy(self, prefix: str) -> None:
        """Nothing to do: an object is there or not, and the bucket's lifecycle rule ends unfinished uploads."""

    def hurry(self, on: bool = True) -> None:
        if on:
            self._in_a_hurry.set()
        else:
            self._in_a_hurry.clear()

    def abilities(self) -> dict[str, bool]:
        """Try what stores differ in: writes on condition that there is no such object, and checksums of requests."""
        from botocore.exceptions import BotoCoreError, ClientError

        key = f".check-abilities-{uuid.uuid4().hex}"

        def answer(**options: Any) -> str:
            try:
                self._put(self._client, key, b"catdog", **options)
            except ClientError as error:
                return _code(error)
            except BotoCoreError as error:
                return type(error).__name__
            return "done"

        try:
            checksums = answer(ChecksumAlgorithm="CRC32") == "done"
            conditional = answer() == "done" and answer(IfNoneMatch="*") in _CONDITION_FAILED
        finally:
            self.delete(key)
        return {"conditional writes": conditional, "checksums of requests": checksums}

    @property
    def _client(self) -> "S3Client":
        client = self._opened or _new_client(self._endpoint, self._region)
        self._opened = client
        return client

    def _put(self, client: "S3Client", key: str, data: bytes, **options: Any) -> None:
        metadata = {"sha256": sha256(data)}
        client.put_object(Bucket=self.bucket, Key=self.prefix + key, Body=data, Metadata=metadata, **options)

    def _request(self, key: str, operation: Callable[["S3Client"], T]) -> T:
        """Carry out an operation; while the store is away, again and again until the patience is over."""
        started, pause = time.monotonic(), _FIRST_PAUSE
        while True:
            try:
                with self._errors(key):
                    result = operation(self._client)
            except NotFoundError:
                self._has_answered = True
                raise
            except StoreError as error:
                is_refused = isinstance(error, StoreRefusedError)
                if is_refused and not self._has_answered:
                    raise
                waited = time.monotonic() - started
                if waited + pause > self._patience or self._in_a_hurry.is_set():
                    raise type(error)(f"{first_line(error)} (for {waited:.0f} s)") from error
                logger.warning("waiting for the store: %s", first_line(error))
                self._in_a_hurry.wait(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
                if is_refused or isinstance(error, _CredentialsExpiredError):
                    self._opened = None  # the next try looks for credentials as they are then
            else:
                self._has_answered = True
                return result

    @contextmanager
    def _errors(self, key: str) -> Iterator[None]:
        """Turn boto3's errors into ours."""
        from boto3.exceptions import Boto3Error, S3UploadFailedError
        from botocore.exceptions import (
            BotoCoreError,
            ClientError,
            ConfigParseError,
            NoCredentialsError,
            PartialCredentialsError,
            ProfileNotFound,
        )

        try:
            try:
                yield
            except S3UploadFailedError as error:  # boto3 wraps the error that says what is wrong
                raise error.__context__ or error from None
        except ClientError as error:
            code = _code(error)
            if code == "NoSuchBucket":
                raise StoreRefusedError(
                    f"--store {self.url}: there is no bucket {self.bucket!r}: create it, or check the endpoint"
                ) from None
            if code in _MISSING:
                raise NotFoundError(f"{self.url}/{key}: no such object") from None
            if code in _DENIED:
                raise StoreRefusedError(
                    f"--store {self.url}: access denied ({code}): check credentials and the bucket's policy"
                ) from None
            kind = _CredentialsExpiredError if code in _EXPIRED else StoreError
            raise kind(f"{self.url}/{key}: {error}") from error
        except NoCredentialsError:
            raise StoreRefusedError(
                f"--store {self.url}: boto3 finds no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
                "a profile, or an instance profile"
            ) from None
        except (ConfigParseError, PartialCredentialsError, ProfileNotFound) as error:
            raise StoreRefusedError(
                f"--store {self.url}: {error}: correct the credentials file, or AWS_PROFILE"
            ) from None
        except (BotoCoreError, Boto3Error, OSError) as error:
            raise StoreError(f"{self.url}/{key}: {error}") from error


def _disk_refuses(path: Path, error: OSError) -> UserError:
    """Return what is wrong with this node's disk, which no waiting for the store mends."""
    reason = (error.strerror or str(error)).lower()
    return UserError(f"{path}: cannot be written ({reason}): make room there, or name another folder by CATDOG_CACHE")


class _CredentialsExpiredError(StoreError):
    """Somebody will renew them; boto3 must look for them again."""


def _new_client(endpoint: str | None, region: str | None) -> "S3Client":
    """Return a client of a session of its own, which finds credentials as they are now."""
    import boto3
    from botocore.config import Config

    # Stores other than AWS's often reject the optional checksums that boto3 sends since 1.36.
    checksums: Literal["when_required", "when_supported"]
    checksums = "when_required" if endpoint else "when_supported"
    config = Config(
        retries={"mode": "standard", "max_attempts": 4},
        connect_timeout=10,
        read_timeout=30,
        max_pool_connections=READERS,
        request_checksum_calculation=checksums,
        response_checksum_validation=checksums,
    )
    return boto3.session.Session().client("s3", endpoint_url=endpoint, region_name=region, config=config)


def _client_error() -> type[Exception]:
    from botocore.exceptions import ClientError

    return ClientError


def _code(error: Any) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))
