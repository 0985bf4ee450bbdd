"""A Ray of several nodes on this machine, all up from the start: each is a `ray start --block` with its raylet."""

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.helpers.autoscaling import OBJECT_STORE_BYTES
from tests.helpers.servers import free_ports
from tests.helpers.sweeps import kill_all

MARKER = "CATDOG_TEST_NODES"
SECONDS_TO_WAIT = 120


class RayNodes:
    """A head and further nodes of one CPU each; `commands` are put before those of the further nodes."""

    def __init__(self, *commands: Sequence[str]) -> None:
        self._commands = commands
        self._folder = Path(tempfile.mkdtemp(prefix="nodes-"))  # short: Ray's sockets live in it
        self._port, self._client_port = free_ports(2)
        self._token = secrets.token_hex(32)

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables that make a process a driver on the head."""
        return {
            "RAY_ADDRESS": f"127.0.0.1:{self._port}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self._token,
            "RAY_USAGE_STATS_ENABLED": "0",
            MARKER: str(self._folder),
        }

    def __enter__(self) -> "RayNodes":
        head = [
            "--head", f"--port={self._port}", f"--ray-client-server-port={self._client_port}",
            "--include-dashboard=False", f"--temp-dir={self._folder / 'ray'}",
        ]  # fmt: skip
        try:
            self._start("head", [], head)
            for number, command in enumerate(self._commands):
                self._start(f"node{number}", command, [f"--address=127.0.0.1:{self._port}"])
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        kill_all(f"{MARKER}={self._folder}")
        shutil.rmtree(self._folder, ignore_errors=True)

    def _start(self, name: str, before: Sequence[str], options: Sequence[str]) -> None:
        command = [
            *before, str(Path(sys.executable).parent / "ray"), "start", "--block", "--num-cpus=1", "--num-gpus=0",
            f"--object-store-memory={OBJECT_STORE_BYTES}", "--dashboard-agent-listen-port=0", "--min-worker-port=0",
            "--max-worker-port=0", *options,
        ]  # fmt: skip
        environment = os.environ | self.environment
        del environment["RAY_ADDRESS"]
        log = self._folder / f"{name}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(command, env=environment, stdout=output, stderr=output, cwd=self._folder)
        for _ in range(SECONDS_TO_WAIT * 10):
            if "Ray runtime started" in log.read_text():
                return
            assert process.poll() is None, log.read_text()
            time.sleep(0.1)
        raise AssertionError(f"{name} did not start:\n{log.read_text()}")
