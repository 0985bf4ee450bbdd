"""The fault-injecting proxy itself: a plain boto3 client sees each fault as intended, and all else is unaffected."""

import functools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from boto3.s3.transfer import TransferConfig
from botocore.exceptions import (
    ClientError,
    ConnectionClosedError,
    EndpointConnectionError,
    IncompleteReadError,
    ReadTimeoutError,
    ResponseStreamingError,
)

from tests.helpers.faulty_s3 import FaultyS3, Request
from tests.helpers.project import ROOT

pytest_plugins = ["tests.helpers.s3_servers"]
MEGABYTE = 1 << 20


@pytest.fixture
def proxy(any_server: Any) -> Iterator[FaultyS3]:
    with FaultyS3(any_server.url) as proxy:
        yield proxy


@pytest.fixture
def bucket(any_server: Any) -> str:
    return str(any_server.new_bucket())


@pytest.fixture
def direct(any_server: Any) -> Iterator[Any]:
    """A client of the server itself."""
    client = any_server.client()
    yield client
    client.close()


@pytest.fixture
def client(any_server: Any, proxy: FaultyS3) -> Iterator[Any]:
    """A client of the proxy, without retries."""
    client = any_server.client(proxy.url, read_timeout=2)
    yield client
    client.close()


def stored(client: Any, bucket: str, key: str) -> bytes:
    return bytes(client.get_object(Bucket=bucket, Key=key)["Body"].read())


@pytest.mark.parametrize(
    "key", ["a", "run/trials/multi-attention__num_masks=2,lambda=1e-5/seed-00/x.png", "ä ö+%/~!*'()"]
)
def test_objects_pass_in_both_directions(client: Any, direct: Any, bucket: str, key: str) -> None:
    for content in (b"", b"x", os.urandom(3 * MEGABYTE)):
        client.put_object(Bucket=bucket, Key=key, Body=content, Metadata={"sha256": "abc"})
        assert stored(direct, bucket, key) == content == stored(client, bucket, key)
        head = client.head_object(Bucket=bucket, Key=key)
        assert (head["ContentLength"], head["Metadata"]) == (len(content), {"sha256": "abc"})
    assert [item["Key"] for item in client.list_objects_v2(Bucket=bucket, Prefix=key[0])["Contents"]] == [key]
    client.delete_object(Bucket=bucket, Key=key)
    with pytest.raises(ClientError, match="404"):
        client.head_object(Bucket=bucket, Key=key)


def test_large_files_pass_in_multiple_parts(
    client: Any, direct: Any, bucket: str, proxy: FaultyS3, tmp_path: Path
) -> None:
    content = os.urandom(20 * MEGABYTE)
    (tmp_path / "source").write_bytes(content)
    transfer = TransferConfig(multipart_threshold=5 * MEGABYTE, multipart_chunksize=5 * MEGABYTE)
    client.upload_file(str(tmp_path / "source"), bucket, "large", Config=transfer)
    assert stored(direct, bucket, "large") == content
    client.download_file(bucket, "large", str(tmp_path / "target"), Config=transfer)
    assert (tmp_path / "target").read_bytes() == content
    assert [request.method for request in proxy.passed].count("PUT") == 4
    assert not proxy.injected


def test_everything_signed_is_forwarded_unchanged() -> None:
    target = "//bucket/a%2Fb//c+d?list-type=2&prefix=%20x"
    body = b"5\r\nhello\r\n0\r\nx-amz-checksum-crc32:NhCmhg==\r\n\r\n"  # S3's aws-chunked encoding
    chunked = b"%X\r\n%b\r\n0\r\n\r\n" % (len(body), body)  # HTTP's chunked encoding
    headers = {
        "Host": "bucket.example.com:9000",
        "authorization": "AWS4-HMAC-SHA256 Credential=KEY/20300101/us-east-1/s3/aws4_request, Signature=0",
        "Content-Encoding": "aws-chunked",
        "X-Amz-Trailer": "x-amz-checksum-crc32",
    }
    lines = [f"PUT {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    head = "\r\n".join([*lines, "Expect: 100-continue", "Transfer-Encoding: chunked", "", ""]).encode()
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:
        upstream = pool.submit(answer_one, listener, b"\r\n0\r\n\r\n")
        with (
            FaultyS3(f"http://127.0.0.1:{listener.getsockname()[1]}") as proxy,
            socket.create_connection(("127.0.0.1", int(proxy.url.rpartition(":")[2]))) as client,
        ):
            client.sendall(head)
            assert client.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
            client.sendall(chunked)
            assert client.recv(1000).startswith(b"HTTP/1.1 204 No Content\r\n")
        arrived = upstream.result()
    arrived_head, _, arrived_body = arrived.partition(b"\r\n\r\n")
    assert arrived_head.decode().split("\r\n")[: len(lines)] == lines
    assert b"Expect" not in arrived_head
    assert arrived_body == chunked
    assert proxy.content_encodings == {"aws-chunked"}
    assert "x-amz-trailer" in proxy.header_names["PUT"]


def answer_one(listener: socket.socket, end: bytes) -> bytes:
    """Answer one request; returns its bytes, up to `end`."""
    connection, _ = listener.accept()
    with connection:
        arrived = b""
        while not arrived.endswith(end):
            arrived += connection.recv(1000)
        connection.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")
    return arrived


def test_sixteen_concurrent_connections_do_not_disturb_each_other(client: Any, bucket: str, proxy: FaultyS3) -> None:
    contents = {f"key-{number}": os.urandom(1 + number * 3000) for number in range(64)}

    def put_and_get(key: str) -> bytes:
        client.put_object(Bucket=bucket, Key=key, Body=contents[key])
        return stored(client, bucket, key)

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(put_and_get, contents)) == list(contents.values())
    assert {request.path for request in proxy.passed} == {f"/{bucket}/{key}" for key in contents}


def test_refusing_rejects_and_cuts_connections_until_they_are_accepted_again(
    client: Any, bucket: str, proxy: FaultyS3
) -> None:
    client.put_object(Bucket=bucket, Key="key", Body=b"content")
    url = proxy.url
    for _ in range(2):
        proxy.refuse()
        with pytest.raises(EndpointConnectionError):
            stored(client, bucket, "key")
        proxy.accept()
        assert proxy.url == url
        assert stored(client, bucket, "key") == b"content"
    assert proxy.injected == {"refuse": 2}


def test_refusing_cuts_an_answer_that_hangs(client: Any, bucket: str, proxy: FaultyS3) -> None:
    proxy.hang_answer_share, proxy.hang_seconds = 1.0, 3600
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(client.put_object, Bucket=bucket, Key="key", Body=b"content")
        while not proxy.injected["hang_answer"] and not future.done():
            time.sleep(0.01)
        proxy.refuse()
        with pytest.raises((ConnectionClosedError, EndpointConnectionError)):
            future.result()


@pytest.mark.parametrize("method", ["put_object", "get_object", "head_object", "list_objects_v2"])
def test_slow_down_denied_and_expired_are_answered_without_the_server(
    any_server: Any, client: Any, bucket: str, proxy: FaultyS3, method: str
) -> None:
    def act() -> str:
        arguments = {} if method == "list_objects_v2" else {"Key": "key"}
        with pytest.raises(ClientError) as caught:
            getattr(client, method)(Bucket=bucket, **arguments)
        return str(caught.value.response["Error"]["Code"])

    is_head = method == "head_object"  # a HEAD response has no body to carry an error code
    proxy.slow_down_share = 1.0
    assert act() == ("503" if is_head else "SlowDown")
    proxy.deny()
    assert act() == ("403" if is_head else "AccessDenied")
    proxy.allow()
    proxy.expired_keys.add(any_server.access_key)
    assert act() == ("400" if is_head else "ExpiredToken")
    assert set(proxy.injected) == {"slow_down", "denied", "expired"}  # boto3 looks for the region after a bare 400
    assert proxy.passed == []
    proxy.calm_down()
    client.put_object(Bucket=bucket, Key="key", Body=b"")


def test_only_requests_with_an_expired_key_are_refused(client: Any, bucket: str, proxy: FaultyS3) -> None:
    proxy.expired_keys.add("somebody-else")
    client.put_object(Bucket=bucket, Key="key", Body=b"")
    assert not proxy.injected


def test_a_put_whose_answer_is_lost_is_carried_out(client: Any, direct: Any, bucket: str, proxy: FaultyS3) -> None:
    proxy.lose_answer_share = 1.0
    with pytest.raises(ConnectionClosedError):
        client.put_object(Bucket=bucket, Key="key", Body=b"content")
    assert stored(direct, bucket, "key") == b"content"
    assert proxy.passed == [Request("PUT", f"/{bucket}/key")]


def test_a_put_whose_answer_hangs_is_carried_out_and_times_out(
    client: Any, direct: Any, bucket: str, proxy: FaultyS3
) -> None:
    proxy.hang_answer_share, proxy.hang_seconds = 1.0, 3600
    with pytest.raises(ReadTimeoutError):
        client.put_object(Bucket=bucket, Key="key", Body=b"content")
    assert stored(direct, bucket, "key") == b"content"
    proxy.hang_seconds = 0.1
    with pytest.raises(ConnectionClosedError):
        client.put_object(Bucket=bucket, Key="key", Body=b"content")


@pytest.mark.parametrize("content", [b"x", bytes(300_000)])
def test_a_cut_answer_raises_when_read(client: Any, direct: Any, bucket: str, proxy: FaultyS3, content: bytes) -> None:
    direct.put_object(Bucket=bucket, Key="key", Body=content)
    proxy.cut_share = 1.0
    answer = client.get_object(Bucket=bucket, Key="key")
    assert answer["ContentLength"] == len(content)
    with pytest.raises((IncompleteReadError, ResponseStreamingError)):
        answer["Body"].read()
    assert proxy.injected == {"cut": 1}
    client.put_object(Bucket=bucket, Key="key", Body=b"")
    client.head_object(Bucket=bucket, Key="key")
    assert proxy.injected == {"cut": 1}


def test_an_answer_trickles_from_its_start_or_from_its_body(client: Any, bucket: str, proxy: FaultyS3) -> None:
    client.put_object(Bucket=bucket, Key="key", Body=b"abc")
    proxy.next_faults = ["trickle_body"]
    answer = client.get_object(Bucket=bucket, Key="key")
    assert answer["ContentLength"] == 3
    assert answer["Body"].read() == b"abc"
    proxy.next_faults = ["trickle"]
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(client.get_object, Bucket=bucket, Key="key")
        while not proxy.injected["trickle"] and not future.done():
            time.sleep(0.01)
        proxy.refuse()
        with pytest.raises((ConnectionClosedError, EndpointConnectionError)):
            future.result()


def test_the_next_faults_come_in_order(client: Any, bucket: str, proxy: FaultyS3) -> None:
    proxy.next_faults = ["", "slow_down", "lose_answer"]
    client.put_object(Bucket=bucket, Key="key", Body=b"1")
    with pytest.raises(ClientError, match="SlowDown"):
        client.put_object(Bucket=bucket, Key="key", Body=b"2")
    with pytest.raises(ConnectionClosedError):
        client.put_object(Bucket=bucket, Key="key", Body=b"3")
    assert stored(client, bucket, "key") == b"3"


def test_faults_match_their_shares_and_are_reproducible_by_seed(moto_server: Any) -> None:
    bucket = moto_server.new_bucket()

    def codes(seed: int) -> list[str]:
        found = []
        with FaultyS3(moto_server.url, seed) as proxy:
            proxy.slow_down_share, proxy.lose_answer_share = 0.3, 0.2
            client = moto_server.client(proxy.url)
            for _ in range(200):
                try:
                    client.head_bucket(Bucket=bucket)
                    found.append("")
                except (ClientError, ConnectionClosedError) as error:
                    found.append(type(error).__name__)
            client.close()
        assert proxy.injected.total() + found.count("") == 200
        return found

    first = codes(1)
    assert first == codes(1) != codes(2)
    assert 40 <= first.count("ClientError") <= 80
    assert 20 <= first.count("ConnectionClosedError") <= 60


def test_it_records_the_headers_that_clients_sent(client: Any, bucket: str, proxy: FaultyS3) -> None:
    client.put_object(Bucket=bucket, Key="key", Body=b"", ContentEncoding="gzip", ChecksumAlgorithm="CRC32")
    assert {"host", "authorization", "x-amz-checksum-crc32"} <= proxy.header_names["PUT"]
    assert proxy.content_encodings == {"gzip"}
    assert not proxy.header_names["GET"]


def test_it_runs_as_its_own_process(moto_server: Any) -> None:
    bucket = moto_server.new_bucket()
    command = [sys.executable, "-m", "tests.helpers.faulty_s3", moto_server.url, "--slow-down", "1"]
    with subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        # A shell's background processes ignore SIGINT.
        preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    ) as process:
        assert process.stdout is not None
        client = moto_server.client(process.stdout.readline().strip())
        with pytest.raises(ClientError, match="SlowDown"):
            client.list_objects_v2(Bucket=bucket)
        client.close()
        process.send_signal(signal.SIGINT)
        assert process.communicate()[0] == "0 requests passed; faults: {'slow_down': 1}\n"
