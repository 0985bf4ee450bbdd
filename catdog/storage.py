"""Where a run lives: a local folder, an S3 prefix, or memory; and uploads off the training thread.

A key is a relative path with forward slashes (`catdog.paths`). Every write is whole or not at all. Errors are
`UserError` where the user must act (no such bucket, no permission), `NotFoundError` where there is no such object,
and `StoreError` for what may pass. boto3 finds its credentials itself in every process; only url, endpoint and region
travel to workers.
"""

import concurrent.futures
import functools
import hashlib
import os
import queue
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from catdog.errors import NotFoundError, StoreError, UserError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

READERS = 16
"""How many objects are read at once."""


class Store(Protocol):
    """Objects by key."""

    @property
    def url(self) -> str: ...

    def put(self, key: str, data: bytes) -> None: ...

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
        """Raise `UserError` unless objects can be written, read and deleted here."""
        ...


@dataclass(frozen=True)
class StoreLocation:
    """What a process needs to open a store; holds no secrets."""

    url: str
    endpoint: str | None = None
    region: str | None = None

    @classmethod
    def of(cls, url: str) -> "StoreLocation":
        """Return the location a user named: folders become absolute, endpoint and region are this process's."""
        if not url.startswith("s3://"):
            if "://" in url or url.startswith("s3:"):
                raise UserError(f"--store {url}: give a folder or s3://bucket/prefix")
            return cls(str(Path(url).expanduser().absolute()))
        if not url.removeprefix("s3://").partition("/")[0]:
            raise UserError(f"--store {url}: names no bucket; give s3://bucket/prefix")
        import boto3

        region = boto3.session.Session().region_name
        return cls(
            url.rstrip("/"),
            os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"),
            region,
        )

    @property
    def is_local(self) -> bool:
        return not self.url.startswith("s3://")

    @functools.cache  # noqa: B019  (one client for each location and process)
    def open(self) -> "LocalStore | S3Store":
        return LocalStore(Path(self.url)) if self.is_local else S3Store(self)


class LocalStore:
    """A folder. Files are written beside their place, synced to the disk and renamed."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def url(self) -> str:
        return str(self.root)

    def path(self, key: str) -> Path:
        """Return the file of a key; a key that leaves the folder is our mistake."""
        assert key, "an empty key"
        assert not key.startswith("/"), f"not a relative key: {key!r}"
        assert ".." not in key.split("/"), f"a key that leaves the store: {key!r}"
        return self.root / key

    def put(self, key: str, data: bytes) -> None:
        with self._writing(key) as scratch:
            scratch.write_bytes(data)

    def get(self, key: str) -> bytes:
        try:
            return self.path(key).read_bytes()
        except FileNotFoundError:
            raise NotFoundError(f"{self.path(key)}: no such file") from None
        except OSError as error:
            raise StoreError(f"{self.path(key)}: {error.strerror or error}") from error

    def put_file(self, key: str, path: Path) -> None:
        with self._writing(key) as scratch, path.open("rb") as source, scratch.open("wb") as target:
            while block := source.read(1 << 22):
                target.write(block)

    def get_file(self, key: str, path: Path) -> None:
        raise AssertionError("a local store's files are used in place")

    def delete(self, key: str) -> None:
        try:
            self.path(key).unlink(missing_ok=True)
        except OSError as error:
            raise StoreError(f"{self.path(key)}: {error.strerror or error}") from error

    def list(self, prefix: str) -> list[str]:
        folder = self.root / prefix.rpartition("/")[0]
        files = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
        keys = (path.relative_to(self.root).as_posix() for path in files)
        return sorted(key for key in keys if key.startswith(prefix))

    def exists(self, key: str) -> bool:
        return self.path(key).is_file()

    def check(self) -> None:
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self.root, prefix=".check-"):
                pass
        except OSError as error:
            raise UserError(f"--store {self.root}: cannot be written ({error.strerror or error})") from None

    @contextmanager
    def _writing(self, key: str) -> Iterator[Path]:
        path = self.path(key)
        scratch = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield scratch
            with scratch.open("rb+") as file:
                os.fsync(file.fileno())
            os.replace(scratch, path)
        except OSError as error:
            raise StoreError(f"{path}: {error.strerror or error}") from error
        finally:
            with suppress(OSError):
                scratch.unlink()


class S3Store:
    """A prefix of an S3 bucket, through boto3. Each object carries the sha256 of its content as metadata."""

    def __init__(self, location: StoreLocation) -> None:
        bucket, _, prefix = location.url.removeprefix("s3://").partition("/")
        self.location = location
        self.bucket = bucket
        self.prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self.client = _s3_client(location)

    @property
    def url(self) -> str:
        return self.location.url

    def put(self, key: str, data: bytes) -> None:
        with self._errors(key):
            self.client.put_object(
                Bucket=self.bucket, Key=self.prefix + key, Body=data, Metadata={"sha256": sha256(data)}
            )

    def get(self, key: str) -> bytes:
        with self._errors(key):
            return self.client.get_object(Bucket=self.bucket, Key=self.prefix + key)["Body"].read()

    def put_file(self, key: str, path: Path) -> None:
        from boto3.exceptions import S3UploadFailedError

        with self._errors(key), path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            extra = {"Metadata": {"sha256": digest}}
            try:
                self.client.upload_file(str(path), self.bucket, self.prefix + key, ExtraArgs=extra)
            except S3UploadFailedError as error:  # boto3 wraps the error that says what is wrong
                raise error.__context__ or error from None

    def get_file(self, key: str, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            with self._errors(key):
                self.client.download_file(self.bucket, self.prefix + key, str(scratch))
            os.replace(scratch, path)
        finally:
            scratch.unlink(missing_ok=True)

    def delete(self, key: str) -> None:
        with self._errors(key):
            self.client.delete_object(Bucket=self.bucket, Key=self.prefix + key)

    def list(self, prefix: str) -> list[str]:
        with self._errors(prefix):
            pages = self.client.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=self.prefix + prefix
            )
            return sorted(item["Key"].removeprefix(self.prefix) for page in pages for item in page.get("Contents", []))

    def exists(self, key: str) -> bool:
        try:
            with self._errors(key):
                self.client.head_object(Bucket=self.bucket, Key=self.prefix + key)
        except NotFoundError:
            return False
        return True

    def check(self) -> None:
        key = f".check-{os.getpid()}"
        try:
            self.put(key, b"catdog")
            self.get(key)
            self.delete(key)
        except StoreError as error:
            raise UserError(f"--store {self.url}: {error}") from None

    def abilities(self) -> dict[str, bool]:
        """Try what stores differ in: writes on condition that there is no such object, and checksums of requests."""
        from botocore.exceptions import BotoCoreError, ClientError

        key = f"{self.prefix}.check-abilities-{os.getpid()}"

        def succeeds(**options: Any) -> bool:
            try:
                self.client.put_object(Bucket=self.bucket, Key=key, Body=b"catdog", **options)
            except (BotoCoreError, ClientError):
                return False
            return True

        try:
            checksums = succeeds(ChecksumAlgorithm="CRC32")
            conditional = succeeds() and not succeeds(IfNoneMatch="*")
        finally:
            self.delete(key.removeprefix(self.prefix))
        return {"conditional writes": conditional, "checksums of requests": checksums}

    @contextmanager
    def _errors(self, key: str) -> Iterator[None]:
        """Turn boto3's errors into ours."""
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

        try:
            yield
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code", "")
            if code == "NoSuchBucket":
                raise UserError(
                    f"--store {self.url}: there is no bucket {self.bucket!r}: create it, or check the endpoint"
                ) from None
            if code in ("NoSuchKey", "404", "NotFound"):
                raise NotFoundError(f"{self.url}/{key}: no such object") from None
            if code in (
                "AccessDenied",
                "403",
                "InvalidAccessKeyId",
                "SignatureDoesNotMatch",
                "AllAccessDisabled",
            ):
                raise UserError(
                    f"--store {self.url}: access denied ({code}): check credentials and the bucket's policy"
                ) from None
            raise StoreError(f"{self.url}/{key}: {error}") from error
        except NoCredentialsError:
            raise UserError(
                f"--store {self.url}: boto3 finds no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
                "a profile, or an instance profile"
            ) from None
        except (BotoCoreError, Boto3Error, OSError) as error:
            raise StoreError(f"{self.url}/{key}: {error}") from error


def _s3_client(location: StoreLocation) -> "S3Client":
    import boto3
    from botocore.config import Config

    # Stores other than AWS's often reject the optional checksums that boto3 sends since 1.36.
    checksums: Literal["when_required", "when_supported"]
    checksums = "when_required" if location.endpoint else "when_supported"
    config = Config(
        retries={"mode": "standard", "max_attempts": 8},
        connect_timeout=10,
        read_timeout=60,
        max_pool_connections=READERS,
        request_checksum_calculation=checksums,
        response_checksum_validation=checksums,
    )
    return boto3.client("s3", endpoint_url=location.endpoint, region_name=location.region, config=config)


class MemoryStore:
    """Objects in a dictionary: for tests and notebooks."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}

    @property
    def url(self) -> str:
        return "memory"

    def put(self, key: str, data: bytes) -> None:
        self.objects[key] = bytes(data)

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


class BackgroundUploads:
    """Makes and stores objects in order on a thread of its own; the queue is bounded.

    Each object is tried again for `patience` seconds while the store is away. Used as a context: leaving it without
    an error waits until everything is stored, and raises the `StoreError` of what could not be.
    """

    def __init__(self, store: Store, patience: float = 600.0, capacity: int = 256) -> None:
        self._store = store
        self._patience = patience
        self._queue: queue.Queue[tuple[str, Callable[[], bytes]] | None] = queue.Queue(capacity)
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._work, daemon=True, name="uploads")
        self._thread.start()
        self.digests: dict[str, str] = {}
        """sha256 of everything stored so far, by key."""

    def put(self, key: str, make: Callable[[], bytes]) -> None:
        """Queue an object; `make` is called on the upload thread. Raises the error of an earlier one."""
        self._raise_error()
        self._queue.put((key, make))

    def flush(self) -> None:
        """Wait until everything queued is stored."""
        self._queue.join()
        self._raise_error()

    def __enter__(self) -> "BackgroundUploads":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._error = self._error or StoreError("given up")  # what still waits is dropped
        self._queue.put(None)
        self._thread.join()
        if kind is None:
            self._raise_error()

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            if self._error is None:
                try:
                    key, make = item
                    data = make()
                    self._put_patiently(key, data)
                    self.digests[key] = sha256(data)
                except Exception as error:
                    self._error = error
            self._queue.task_done()

    def _put_patiently(self, key: str, data: bytes) -> None:
        give_up, wait = time.monotonic() + self._patience, 0.5
        while True:
            try:
                return self._store.put(key, data)
            except StoreError:
                if self._error is not None or time.monotonic() + wait > give_up:
                    raise
                time.sleep(wait)
                wait = min(2 * wait, 20.0)


def read_many(store: Store, keys: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    """Read objects in parallel, yielding them in the order of `keys`; those that are gone are left out."""

    def read(key: str) -> tuple[str, bytes | None]:
        try:
            return key, store.get(key)
        except NotFoundError:
            return key, None

    with concurrent.futures.ThreadPoolExecutor(READERS) as pool:
        for key, data in pool.map(read, keys):
            if data is not None:
                yield key, data


def sha256(data: bytes) -> str:
    """Return the sha256 of some bytes, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()
