"""boto3's own settings win, refusals say what is refused and why, a server that trickles is given up."""

import dataclasses
import datetime
import os
import ssl
import threading
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from catdog.errors import StoreError, StoreRefusedError, UserError
from catdog.storage import S3Store, StoreLocation
from tests.helpers.faulty_s3 import FaultyS3, Request

pytest_plugins = ["tests.helpers.s3_servers"]
KEY_ID = "arn:aws:kms:us-east-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"


@pytest.fixture
def proxy(moto_server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyS3]:
    """A proxy before a server, which the environment names; boto3's config file, which it names too, is empty."""
    with FaultyS3(moto_server.url) as proxy:
        for name, value in moto_server.variables(tmp_path / "cache", proxy.url).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
        yield proxy


@pytest.fixture
def new_store(moto_server: Any, proxy: FaultyS3) -> Callable[..., S3Store]:
    """A function that opens a store in a new bucket as a new process would."""
    bucket = moto_server.new_bucket()

    def open_store(patience: float = 30.0) -> S3Store:
        StoreLocation.open.cache_clear()
        store = StoreLocation.of(f"s3://{bucket}/team", patience).open()
        assert isinstance(store, S3Store)
        return store

    return open_store


def head(server: Any, store: S3Store, key: str) -> dict[str, Any]:
    client = server.client()
    answer: dict[str, Any] = client.head_object(Bucket=store.bucket, Key=store.prefix + key)
    client.close()
    return answer


def test_a_fault_of_tls_within_an_answer_is_one_of_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = tmp_path / "server.pem"
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    pem.write_bytes(certificate.public_bytes(Encoding.PEM) + private)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)

    class Spoilt(BaseHTTPRequestHandler):
        """Answers with a record that does not decrypt, after the first part of an object."""

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "100000")
            self.end_headers()
            self.wfile.write(b"x" * 1000)
            os.write(self.connection.fileno(), b"\x17\x03\x03\x00\x40" + bytes(64))

    with ThreadingHTTPServer(("127.0.0.1", 0), Spoilt) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever).start()
        for variable, value in {"ACCESS_KEY_ID": "a", "SECRET_ACCESS_KEY": "b", "CA_BUNDLE": str(pem)}.items():
            monkeypatch.setenv(f"AWS_{variable}", value)
        store = S3Store("s3://bucket/team", f"https://localhost:{server.server_port}", "us-east-1", 0.0)
        for read in (lambda: store.get("object"), lambda: store.get_file("object", tmp_path / "object")):
            with pytest.raises(StoreError, match="s3://bucket/team/object: "):
                read()
        server.shutdown()


def test_objects_carry_a_type_so_that_a_browser_shows_them(
    moto_server: Any, new_store: Callable[..., S3Store], tmp_path: Path
) -> None:
    store = new_store()
    (tmp_path / "file").write_bytes(b"content")
    for name, content_type in {
        "report.html": "text/html; charset=utf-8",
        "table.csv": "text/csv; charset=utf-8",
        "table.md": "text/markdown; charset=utf-8",
        "summary.json": "application/json",
        "figure.svg": "image/svg+xml",
        "epoch-000.png": "image/png",
        "masks.npz": "application/octet-stream",
    }.items():
        store.put(name, b"content")
        store.put_file(f"file/{name}", tmp_path / "file")
        assert head(moto_server, store, name)["ContentType"] == content_type
        assert head(moto_server, store, f"file/{name}")["ContentType"] == content_type


def test_a_key_that_vanishes_as_it_is_claimed_is_not_held(moto_server: Any, new_store: Callable[..., S3Store]) -> None:
    class Vanishing(FaultyS3):
        def passes(self, request: Request) -> None:
            if request.method == "PUT":
                theirs.delete("claim")

    theirs = new_store()
    with Vanishing(moto_server.url) as proxy:
        ours = S3Store(theirs.url, proxy.url, "us-east-1", patience=0.0)
        theirs.put("claim", b"theirs")
        assert not ours.put_new("claim", b"ours")
    assert theirs.list("") == []


CONFIGS = {
    "global": "[default]\nendpoint_url = {url}\n",
    "of the service": "[default]\nservices = here\nendpoint_url = http://not.this\n"
    "[services here]\ns3 =\n  endpoint_url = {url}\n",
    "of a profile": "[default]\nendpoint_url = http://not.this\n[profile other]\nendpoint_url = {url}\n",
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_an_endpoint_in_boto3s_config_file_counts_and_travels_and_gets_no_optional_checksums(
    kind: str, proxy: FaultyS3, new_store: Callable[..., S3Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    (tmp_path / "config").write_text(CONFIGS[kind].format(url=proxy.url))
    if kind == "of a profile":
        monkeypatch.setenv("AWS_PROFILE", "other")
    assert StoreLocation.of("s3://bucket/x").endpoint == proxy.url
    (tmp_path / "large").write_bytes(bytes(9 << 20))  # in parts
    store = new_store()
    store.put("key", b"content")
    store.put_file("large", tmp_path / "large")
    names = proxy.header_names["PUT"]
    assert not [name for name in names if name.startswith(("x-amz-checksum", "x-amz-trailer", "x-amz-sdk-checksum"))]
    assert "content-md5" in names, "what buckets with object lock demand"


def test_a_variable_wins_over_the_config_file_and_both_can_be_ignored(
    proxy: FaultyS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config").write_text(CONFIGS["global"].format(url="http://not.this"))
    assert StoreLocation.of("s3://bucket/x").endpoint == proxy.url
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://s3.only")
    assert StoreLocation.of("s3://bucket/x").endpoint == "http://s3.only"
    monkeypatch.setenv("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true")
    assert StoreLocation.of("s3://bucket/x").endpoint is None


@pytest.mark.parametrize("place", ["variable", "file"])
def test_a_checksum_mode_that_the_user_set_is_kept(
    place: str, proxy: FaultyS3, new_store: Callable[..., S3Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if place == "variable":
        monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_supported")
    else:
        (tmp_path / "config").write_text("[default]\nrequest_checksum_calculation = when_supported\n")
    new_store().put("key", b"content")
    assert "x-amz-checksum-crc32" in proxy.header_names["PUT"]
    assert "content-md5" not in proxy.header_names["PUT"]


def test_the_number_of_attempts_that_the_user_set_is_kept(
    proxy: FaultyS3, new_store: Callable[..., S3Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    proxy.slow_down_share = 1.0
    with pytest.raises(StoreError, match="SlowDown"):
        new_store(patience=0).get("key")
    assert proxy.injected == {"slow_down": 1}


@pytest.mark.parametrize("key_id", ["", KEY_ID])
def test_writes_ask_for_the_encryption_that_a_policy_demands_on_workers_too(
    key_id: str,
    moto_server: Any,
    new_store: Callable[..., S3Store],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CATDOG_STORE_ENCRYPTION", f"aws:kms,{key_id}" if key_id else "aws:kms")
    location = StoreLocation.of(new_store().url)
    monkeypatch.delenv("CATDOG_STORE_ENCRYPTION")  # a worker has the location, not the driver's environment
    store = location.open()
    assert isinstance(store, S3Store)
    (tmp_path / "large").write_bytes(bytes(9 << 20))  # in parts
    store.put("put", b"content")
    store.put_new("put-new", b"content")
    store.put_file("large", tmp_path / "large")
    for key in ("put", "put-new", "large"):
        answer = head(moto_server, store, key)
        assert answer["ServerSideEncryption"] == "aws:kms"
        assert answer.get("SSEKMSKeyId", "").endswith(key_id)


def test_an_unknown_encryption_is_a_mistake(proxy: FaultyS3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CATDOG_STORE_ENCRYPTION", "rot13")
    with pytest.raises(UserError, match=r"^CATDOG_STORE_ENCRYPTION rot13: give AES256, aws:kms, "):
        StoreLocation.of("s3://bucket/x")


@pytest.mark.parametrize(
    ("number", "action"),
    [
        (0, "s3:PutObject"),
        (1, "s3:PutObject"),
        (2, "s3:GetObject"),
        (3, "s3:GetObject"),
        (4, "s3:ListBucket"),
        (5, "s3:DeleteObject"),
    ],
)
def test_a_check_tries_everything_and_a_refusal_names_the_action_and_quotes_the_server(
    number: int, action: str, proxy: FaultyS3, new_store: Callable[..., S3Store]
) -> None:
    store = new_store()
    proxy.next_faults = [""] * number + ["denied"]
    reason = "403: Forbidden" if number == 3 else "AccessDenied: Access Denied"  # a HEAD response has no body
    with pytest.raises(
        StoreRefusedError,
        match=rf"^--store {store.url}: access denied: {action} on {store.bucket}/team/\.check-\w+ \({reason}\): check",
    ):
        store.check()


def test_a_check_costs_six_requests(proxy: FaultyS3, new_store: Callable[..., S3Store]) -> None:
    new_store().check()
    assert [request.method for request in proxy.passed] == ["PUT", "PUT", "GET", "HEAD", "GET", "DELETE"]


def test_a_long_refusal_keeps_its_remedy_while_the_store_is_waited_for(
    proxy: FaultyS3, new_store: Callable[..., S3Store]
) -> None:
    store = new_store(patience=0)
    store.put("key", b"")
    proxy.deny()
    with pytest.raises(StoreRefusedError, match=r"check credentials and .* if it demands that \(for \d+ s\)$"):
        store.put("a/" * 150, b"")


@pytest.mark.timeout(60)
@pytest.mark.parametrize("fault", ["trickle", "trickle_body"])
def test_an_answer_that_trickles_counts_against_the_patience(
    fault: str, proxy: FaultyS3, new_store: Callable[..., S3Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    store = new_store(patience=5)
    store.put("key", bytes(1000))
    acts: list[Callable[[], object]] = [lambda: store.get("key"), lambda: store.list("")]
    if fault == "trickle":
        acts += [lambda: store.exists("key"), lambda: store.put("new", b"content"), lambda: store.delete("other")]
    proxy.next_faults = [fault] * 100

    def error_of(act: Callable[[], object]) -> StoreError:
        with pytest.raises(StoreError) as caught:
            act()
        return caught.value

    with ThreadPoolExecutor(len(acts)) as pool:
        for error in pool.map(error_of, acts):
            assert "Read timeout" in str(error)
            assert str(error).endswith(" s)")
    proxy.calm_down()
    assert store.get("key") == bytes(1000)


def test_the_location_of_a_store_still_holds_no_secret(proxy: FaultyS3) -> None:
    location = dataclasses.asdict(StoreLocation.of("s3://bucket/x"))
    assert location.keys() == {"url", "endpoint", "region", "patience", "has_answered", "encryption"}


def test_a_link_is_signed_as_every_server_knows_and_says_when_its_credentials_end_sooner(
    any_server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in any_server.variables(tmp_path / "cache").items():
        monkeypatch.setenv(name, value)
    StoreLocation.open.cache_clear()
    url = f"s3://{any_server.new_bucket()}/team"
    store = StoreLocation.of(url).open()
    store.put("night/report/report.html", b"<p>")
    link = store.link("night/report/report.html")
    assert "X-Amz-Algorithm=AWS4-HMAC-SHA256" in link.url
    assert "X-Amz-Expires=604800" in link.url
    assert link.lasts == "for everybody who has it, for 7 days"
    with urllib.request.urlopen(link.url) as page:
        assert page.read() == b"<p>"
    monkeypatch.setenv("AWS_SESSION_TOKEN", "temporary")
    StoreLocation.open.cache_clear()
    lasts = StoreLocation.of(url).open().link("night/report/report.html").lasts
    assert lasts.endswith("for 7 days, and no longer than the temporary credentials that signed it")
