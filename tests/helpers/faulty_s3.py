"""A proxy in front of an S3 server that injects faults, switched on and off while it runs.

It forwards everything the client signed (method, target, headers including Host, body) unchanged, and records what it
saw. As its own process, `python -m tests.helpers.faulty_s3 URL --slow-down 0.3`, it prints its url.
"""

import argparse
import http.client
import io
import random
import re
import select
import socket
import threading
import time
import urllib.parse
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from typing import NamedTuple

ERRORS = {
    "slow_down": (503, "SlowDown", "Please reduce your request rate."),
    "expired": (400, "ExpiredToken", "The provided token has expired."),
    "denied": (403, "AccessDenied", "Access Denied"),
    "not_implemented": (501, "NotImplemented", "A header you provided implies functionality that is not implemented."),
}
"""Faults that are S3's own answers; these requests never reach the server."""
HOP_BY_HOP = frozenset({"connection", "keep-alive", "proxy-connection", "expect", "transfer-encoding", "te", "upgrade"})
"""Headers that concern a single connection. They are never signed."""
SECONDS_FOR_THE_SERVER = 60
SECONDS_BETWEEN_LOOKS = 0.05
SECONDS_BETWEEN_BYTES = 0.5


class Request(NamedTuple):
    """A request that the server carried out."""

    method: str
    path: str


class Answer(NamedTuple):
    status: int
    reason: str
    headers: list[tuple[str, str]]
    body: bytes


class FaultyS3:
    """Forwards requests to `upstream_url`, except for faults. A context manager; attributes can be set at any time.

    Each share is the fraction of requests that get the fault, drawn from `seed`; they sum to at most 1.
    """

    def __init__(self, upstream_url: str, seed: int = 0, port: int = 0) -> None:
        self.upstream = urllib.parse.urlsplit(upstream_url).netloc
        self.slow_down_share = 0.0
        """503 SlowDown."""
        self.lose_answer_share = 0.0
        """The request is carried out, but the connection is closed without an answer."""
        self.hang_answer_share = 0.0
        """The same, but the connection hangs for `hang_seconds` first."""
        self.hang_seconds = 10.0
        self.cut_share = 0.0
        """The connection is closed after half of the body of a GET response."""
        self.expired_keys: set[str] = set()
        """Access key ids that are answered 400 ExpiredToken."""
        self.next_faults: list[str] = []
        """Faults for the next requests, in order, instead of drawn ones: a key of ERRORS, "lose_answer",
        "hang_answer", "cut", "trickle" (one byte of the answer now and then), "trickle_body" (the same after its
        headers) or "" for none."""
        self.knows_conditions = True
        """Whether conditional writes are carried out; otherwise they are answered 501 NotImplemented."""
        self.injected: Counter[str] = Counter()
        """How often each fault was injected."""
        self.passed: list[Request] = []
        """The requests that the server carried out, in the order of its answers."""
        self.header_names: defaultdict[str, set[str]] = defaultdict(set)
        """The names of headers that clients sent, in lower case, by method."""
        self.content_encodings: set[str] = set()
        """The Content-Encoding headers that clients sent."""
        self._denied = False
        self._random = random.Random(seed)
        self._lock = threading.RLock()
        self._conversations: dict[socket.socket, threading.Thread] = {}
        self._socket = _bound_socket(port)
        self._acceptor: threading.Thread | None = None
        self._listening = False

    @property
    def url(self) -> str:
        host, port = self._socket.getsockname()
        return f"http://{host}:{port}"

    def __enter__(self) -> "FaultyS3":
        self.accept()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop_listening()
        self._socket.close()
        self._cut_connections(wait=True)

    def refuse(self) -> None:
        """Refuse connections from now on, and cut open ones."""
        if not self._listening:
            return
        self._stop_listening()
        port = self._socket.getsockname()[1]
        self._socket.close()
        self._socket = _bound_socket(port)  # bound but not listening: nobody else can take the port
        self.count("refuse")
        self._cut_connections()

    def accept(self) -> None:
        """Accept connections again, on the same port."""
        if self._listening:
            return
        self._listening = True
        self._socket.listen(128)
        self._socket.settimeout(SECONDS_BETWEEN_LOOKS)
        self._acceptor = threading.Thread(target=self._accept_connections, name="faulty-s3", daemon=True)
        self._acceptor.start()

    def deny(self) -> None:
        """Answer all requests 403 AccessDenied from now on."""
        self._denied = True

    def allow(self) -> None:
        self._denied = False

    def calm_down(self) -> None:
        """End all faults."""
        self.slow_down_share = self.lose_answer_share = self.hang_answer_share = self.cut_share = 0.0
        self.expired_keys, self.next_faults = set(), []
        self.allow()
        self.accept()

    def choose_fault(self, method: str, headers: Mapping[str, str]) -> str:
        """Return the fault for a request, "" for none; header names are in lower case."""
        with self._lock:
            self.header_names[method] |= headers.keys()
            self.content_encodings |= {headers["content-encoding"]} if "content-encoding" in headers else set()
            if self._denied:
                return "denied"
            if not self.knows_conditions and "if-none-match" in headers:
                return "not_implemented"
            if _access_key(headers) in self.expired_keys:
                return "expired"
            if self.next_faults:
                return self.next_faults.pop(0)
            return self._draw(method)

    def passes(self, request: Request) -> None:
        with self._lock:
            self.passed.append(request)

    def count(self, fault: str) -> None:
        with self._lock:
            self.injected[fault] += 1

    def _draw(self, method: str) -> str:
        number = self._random.random()
        for fault, share in (
            ("slow_down", self.slow_down_share),
            ("lose_answer", self.lose_answer_share),
            ("hang_answer", self.hang_answer_share),
            ("cut", self.cut_share if method == "GET" else 0.0),
        ):
            number -= share
            if number < 0:
                return fault
        return ""

    def _accept_connections(self) -> None:
        while self._listening:
            with suppress(TimeoutError):
                connection, address = self._socket.accept()
                thread = threading.Thread(target=self._converse, args=(connection, address), daemon=True)
                with self._lock:
                    self._conversations[connection] = thread
                thread.start()

    def _stop_listening(self) -> None:
        self._listening = False
        if self._acceptor is not None:
            self._acceptor.join()

    def _converse(self, connection: socket.socket, address: tuple[str, int]) -> None:
        with connection, suppress(OSError, http.client.HTTPException):  # either side may disconnect
            _Conversation(connection, address, self)  # type: ignore[arg-type]
            connection.shutdown(socket.SHUT_RDWR)
        with self._lock:
            del self._conversations[connection]

    def _cut_connections(self, wait: bool = False) -> None:
        with self._lock:
            conversations = dict(self._conversations)
        for connection in conversations:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in conversations.values() if wait else ():
            thread.join()


class _Conversation(BaseHTTPRequestHandler):
    """The requests of one connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: FaultyS3  # type: ignore[assignment]

    def log_message(self, format: str, *arguments: object) -> None:
        pass

    def handle_request(self) -> None:
        body = self._read_body()
        fault = self.server.choose_fault(self.command, {name.lower(): value for name, value in self.headers.items()})
        if fault in ERRORS:
            self.server.count(fault)
            self._send(_error_answer(fault))
            return
        answer = self._forward(body)
        self.server.passes(Request(self.command, urllib.parse.unquote(self.path.partition("?")[0])))
        if fault in ("lose_answer", "hang_answer"):
            self.server.count(fault)
            self._lose(self.server.hang_seconds if fault == "hang_answer" else 0.0)
        elif fault == "cut" and answer.body:
            self.server.count(fault)
            self._send(answer, answer.body[: len(answer.body) // 2])
            self.close_connection = True
        elif fault in ("trickle", "trickle_body"):
            self.server.count(fault)
            self._trickle(answer, whole=fault == "trickle")
        else:
            self._send(answer)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_request

    def _read_body(self) -> bytes:
        if self._is_chunked():
            body = b"".join(iter(self._read_chunk, b""))
            while self.rfile.readline().strip():  # HTTP trailers, which S3 clients do not send
                pass
            return body
        return self._read(int(self.headers.get("Content-Length", 0)))

    def _read_chunk(self) -> bytes:
        chunk = self._read(int(self.rfile.readline().partition(b";")[0], 16))
        if chunk:
            self._read(2)
        return chunk

    def _read(self, size: int) -> bytes:
        data = self.rfile.read(size)
        if len(data) < size:
            raise ConnectionError("the client has gone")
        return data

    def _is_chunked(self) -> bool:
        return "chunked" in self.headers.get("Transfer-Encoding", "").lower()

    def _forward(self, body: bytes) -> Answer:
        """Return the server's answer over a new connection: an old one may be closed at any time."""
        connection = http.client.HTTPConnection(self.server.upstream, timeout=SECONDS_FOR_THE_SERVER)
        is_chunked = self._is_chunked()
        try:
            target = self.requestline.split()[1]  # self.path is not exactly what was signed
            connection.putrequest(self.command, target, skip_host=True, skip_accept_encoding=True)
            for name, value in _end_to_end(self.headers.items()):
                connection.putheader(name, value)
            connection.putheader("Connection", "close")
            if is_chunked:
                connection.putheader("Transfer-Encoding", "chunked")
            connection.endheaders(body if body or is_chunked else None, encode_chunked=is_chunked)
            response = connection.getresponse()
            headers = _end_to_end(response.getheaders())
            return Answer(response.status, response.reason, headers, response.read())
        finally:
            connection.close()

    def _send(self, answer: Answer, body: bytes | None = None) -> None:
        """Send an answer; `body`, if given, is the part of its body to send."""
        self.send_response_only(answer.status, answer.reason)
        for name, value in answer.headers:
            self.send_header(name, value)
        has_length = any(name.lower() == "content-length" for name, _ in answer.headers)
        if not has_length and answer.status not in (204, 304) and self.command != "HEAD":
            self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body if body is None else body)

    def _trickle(self, answer: Answer, whole: bool) -> None:
        """Send the answer, or its body, byte by byte until the client gives up."""
        connection, self.wfile = self.wfile, io.BytesIO()
        self._send(answer)
        data, self.wfile = self.wfile.getvalue(), connection
        start = 0 if whole else data.index(b"\r\n\r\n") + 4
        self.wfile.write(data[:start])
        for i in range(start, len(data)):
            if select.select([self.connection], [], [], SECONDS_BETWEEN_BYTES)[0]:
                break
            self.wfile.write(data[i : i + 1])
        self.close_connection = True

    def _lose(self, seconds: float) -> None:
        """Send nothing until the client gives up or the time is over, then close the connection."""
        select.select([self.connection], [], [], seconds)
        self.close_connection = True


def _bound_socket(port: int) -> socket.socket:
    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind(("127.0.0.1", port))
    return bound


def _end_to_end(headers: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(name, value) for name, value in headers if name.lower() not in HOP_BY_HOP]


def _access_key(headers: Mapping[str, str]) -> str:
    """Return the id of the access key that signed a request."""
    signed = re.search(r"Credential=([^/,\s]+)/", headers.get("authorization", ""))
    return signed[1] if signed else ""


def _error_answer(fault: str) -> Answer:
    status, code, message = ERRORS[fault]
    body = (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<Error><Code>{code}</Code><Message>{message}</Message><RequestId>faulty</RequestId></Error>"
    ).encode()
    headers = [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))]
    return Answer(status, http.client.responses[status], headers, body)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("upstream_url")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--hang-seconds", type=float, default=10.0)
    shares = ("slow_down", "lose_answer", "hang_answer", "cut")
    for share in shares:
        parser.add_argument(f"--{share.replace('_', '-')}", type=float, default=0.0, metavar="SHARE")
    options = parser.parse_args()
    with FaultyS3(options.upstream_url, options.seed, options.port) as proxy:
        proxy.hang_seconds = options.hang_seconds
        for share in shares:
            setattr(proxy, f"{share}_share", getattr(options, share))
        print(proxy.url, flush=True)
        with suppress(KeyboardInterrupt):
            while True:
                time.sleep(1)
        print(f"{len(proxy.passed)} requests passed; faults: {dict(proxy.injected)}")


if __name__ == "__main__":
    main()
