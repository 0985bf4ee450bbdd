"""boto3's client for S3: what the user configured for boto3 wins, and an answer that trickles is given up.

boto3's own `read_timeout` is the time without a byte: a server that sends one now and then never reaches it.
"""

import contextlib
import http.client
import io
import os
import socket
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from catdog.storage.store import READERS

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_SECONDS_TO_ANSWER = 30.0
_SECONDS_TO_COMPLETE = 600.0
"""For POST requests: S3 sends blanks while it joins the parts of a large upload."""
_SLOWEST = 10_000
"""Bytes per second."""
_BLOCK = 1 << 18
"""Bytes sent at once: a socket's timeout is for all of them."""


def configured_endpoint(session: Any) -> str | None:
    """Return the endpoint that a botocore session is configured for, from variables or its file; None for AWS's own.

    Source: https://docs.aws.amazon.com/sdkref/latest/guide/feature-ss-endpoints.html
    """
    if session.get_config_variable("ignore_configured_endpoint_urls"):
        return None
    profile = session.get_scoped_config()
    service = session.full_config.get("services", {}).get(profile.get("services"), {}).get("s3", {})
    return (
        os.environ.get("AWS_ENDPOINT_URL_S3")
        or os.environ.get("AWS_ENDPOINT_URL")
        or service.get("endpoint_url")
        or profile.get("endpoint_url")
    )


def open_client(endpoint: str | None, region: str | None, patience: float) -> "S3Client":
    """Return a client with its own session, which loads the current credentials.

    It waits for an answer as long as the store's patience, within limits.
    """
    import boto3
    import botocore.session
    from botocore.config import Config
    from botocore.utils import conditionally_calculate_md5

    session = botocore.session.get_session()
    seconds = min(_SECONDS_TO_ANSWER, max(5.0, patience))
    ours: dict[str, Any] = {"retry_mode": "standard", "max_attempts": 5}
    if endpoint and not _is_amazons(endpoint):  # other stores often reject the checksums that boto3 has sent since 1.36
        ours |= dict.fromkeys(("request_checksum_calculation", "response_checksum_validation"), "when_required")
    for name, value in ours.items():
        if name not in session.get_scoped_config() and f"AWS_{name.upper()}" not in os.environ:
            session.set_config_variable(name, value)
    config = Config(connect_timeout=10, read_timeout=seconds, max_pool_connections=READERS)
    client: S3Client = boto3.session.Session(botocore_session=session).client(
        "s3", endpoint_url=endpoint, region_name=region, config=config
    )
    for operation in ("PutObject", "UploadPart"):  # where no checksum is sent: buckets with object lock demand one
        client.meta.events.register(f"before-call.s3.{operation}", conditionally_calculate_md5)  # type: ignore[arg-type]
    client.meta.events.register_first("choose-signer.s3", _sign_urls_like_requests)  # type: ignore[arg-type]
    _give_up_on_trickles(client, seconds)
    return client


def _sign_urls_like_requests(signature_version: str, **_: object) -> str | None:
    """Keep boto3 from signing URLs by version 2, which newer regions and encrypted objects refuse."""
    return "s3v4-query" if signature_version in ("v4-query", "s3v4-query") else None


def _is_amazons(endpoint: str) -> bool:
    return (urlsplit(endpoint).hostname or "").endswith((".amazonaws.com", ".amazonaws.com.cn"))


class _Pace:
    """Time spent waiting for a connection, and the bytes that came of it."""

    def __init__(self, seconds: float) -> None:
        self._allowed, self._waited, self._bytes = seconds, 0.0, 0

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Raise `TimeoutError` if the block leaves the connection slower than it may be; count its bytes with `add`."""
        started = time.monotonic()
        yield
        self._waited += time.monotonic() - started
        if self._waited > self._allowed + self._bytes / _SLOWEST:
            raise TimeoutError(f"only {self._bytes} bytes in {self._waited:.0f} s")

    def add(self, count: int) -> None:
        """Count bytes."""
        self._bytes += count


class _PacedReader(io.RawIOBase):
    """A response as it arrives."""

    def __init__(self, raw: io.RawIOBase, pace: _Pace) -> None:
        self._raw, self._pace = raw, pace

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int | None:
        """Read what is there; raises `TimeoutError` if it trickles."""
        with self._pace.waiting():
            count: int | None = self._raw.readinto(buffer)
            self._pace.add(count or 0)
        return count

    def close(self) -> None:
        """Close the connection's side of it."""
        self._raw.close()
        super().close()


def _give_up_on_trickles(client: "S3Client", seconds: float) -> None:
    """Let the client's connections raise `TimeoutError` if they trickle."""
    from botocore.awsrequest import (
        AWSHTTPConnection,
        AWSHTTPConnectionPool,
        AWSHTTPSConnection,
        AWSHTTPSConnectionPool,
    )

    class PacedResponse(http.client.HTTPResponse):
        def __init__(self, sock: socket.socket, debuglevel: int = 0, method: str | None = None, **options: Any) -> None:
            super().__init__(sock, debuglevel, method, **options)
            pace = _Pace(_SECONDS_TO_COMPLETE if method == "POST" else seconds)
            self.fp = io.BufferedReader(_PacedReader(self.fp.detach(), pace))

    class Paced:
        response_class = PacedResponse
        pace = _Pace(seconds)

        def request(self, *arguments: Any, **options: Any) -> None:
            self.pace = _Pace(seconds)
            super().request(*arguments, **options)  # type: ignore[misc]

        def send(self, data: Any) -> None:
            view = memoryview(data) if isinstance(data, bytes) else None
            for block in (data,) if view is None else (view[i : i + _BLOCK] for i in range(0, len(view), _BLOCK)):
                with self.pace.waiting():
                    super().send(block)  # type: ignore[misc]
                    self.pace.add(len(block) if view is not None else 0)

    class Connection(Paced, AWSHTTPConnection): ...  # type: ignore[misc]

    class SecureConnection(Paced, AWSHTTPSConnection): ...  # type: ignore[misc]

    class Pool(AWSHTTPConnectionPool):
        ConnectionCls = Connection

    class SecurePool(AWSHTTPSConnectionPool):
        ConnectionCls = SecureConnection

    client._endpoint.http_session._pool_classes_by_scheme.update(http=Pool, https=SecurePool)  # type: ignore[attr-defined]
