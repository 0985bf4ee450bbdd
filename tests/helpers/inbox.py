"""A real HTTP server on loopback that takes Apprise's messages (json://)."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Inbox:
    """What has come, as title and lines; `answers` is cleared to let senders hang. A redirection leads to `GET /`."""

    def __init__(self, port: int) -> None:
        self.url = f"json://127.0.0.1:{port}/a-token"
        self.messages: list[tuple[str, list[str]]] = []
        self.status = 200
        self.answers = threading.Event()
        self.answers.set()

    @property
    def titles(self) -> list[str]:
        return [title for title, _ in self.messages]


@contextmanager
def inbox() -> Iterator[Inbox]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            box.messages.append((content["title"], content["message"].splitlines()))
            box.answers.wait(60)
            self.send_response(box.status)
            self.send_header("Location", "/")
            self.end_headers()

        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        box = Inbox(server.server_port)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield box
        finally:
            box.answers.set()
            server.shutdown()
