"""Servers on loopback: ports for them, and the wait until one answers."""

import socket
import time
import urllib.request
from contextlib import ExitStack

SECONDS_TO_START = 20


def free_ports(count: int) -> list[int]:
    """Return different ports that no one listens on."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in sockets]


def wait_until_ready(url: str) -> None:
    for _ in range(SECONDS_TO_START * 10):
        try:
            urllib.request.urlopen(url, timeout=1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError(f"nothing answers at {url}")
