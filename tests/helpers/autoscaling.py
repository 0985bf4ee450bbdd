"""A single-machine cluster whose nodes come and go: a real Ray head under Ray's autoscaler (v2), with Ray's own fake
provider, whose nodes are raylets with their own processes.

The layout is that of `ray up`: the head's home holds ray_bootstrap_config.yaml. Nodes are found by their processes, so
the tests themselves need no Ray.
"""

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tests.helpers.servers import free_ports

HEAD_ID = "f" * 51 + "00000"
"""What the fake provider calls the head."""
HEAD_TYPE = "ray.head.default"
OBJECT_STORE_BYTES = 80 << 20
MARKER = "CATDOG_TEST_CLUSTER"
NODE_ID = "RAY_OVERRIDE_NODE_ID_FOR_TESTING"
"""The variable that holds a node's name, in the environment of its raylet and of everything that raylet starts."""
SECONDS_TO_WAIT = 120


class FakeNode(NamedTuple):
    """A worker node: its raylet's process, its name in Ray, its type and the type's resources."""

    pid: int
    name: str
    type: str
    resources: dict[str, float]


class FakeAutoscalingCluster:
    """A head without GPUs and with `head_cpus` CPUs, and nodes of the given types on demand.

    `node_types` maps a name to {"resources": {"CPU": 1, ...}, "max_workers": 2};
    `environment` applies to all processes, drivers included. `most`: how many nodes there may be at once, of all types.
    """

    def __init__(
        self,
        node_types: Mapping[str, Mapping[str, Any]],
        environment: Mapping[str, str] | None = None,
        include_dashboard: bool = False,
        head_cpus: int = 0,
        most: int | None = None,
        provider: str = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
    ) -> None:
        self._types = node_types
        self._environment = dict(environment or {})
        self._include_dashboard = include_dashboard
        self._head_cpus = head_cpus
        self._provider = provider
        self._most = sum(kind["max_workers"] for kind in node_types.values()) if most is None else most
        self._folder = Path(tempfile.mkdtemp(prefix="cluster-"))  # short: Ray's sockets live in it
        self._ports = dict(zip(("gcs", "dashboard", "client"), free_ports(3), strict=True))
        self._token = secrets.token_hex(32)
        self._head: subprocess.Popen[bytes] | None = None
        self._ended = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self.highest = 0
        """The largest number of worker nodes up at the same time."""

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._ports['gcs']}"

    @property
    def dashboard_url(self) -> str:
        return f"http://127.0.0.1:{self._ports['dashboard']}"

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables that make a process a driver on this cluster's head."""
        return self._environment | {
            "RAY_ADDRESS": self.address,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self._token,
            "RAY_USAGE_STATS_ENABLED": "0",
            "HOME": str(self._folder),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "MPLCONFIGDIR": os.environ.get("MPLCONFIGDIR", str(Path.home() / ".cache/matplotlib")),  # the font cache
            MARKER: str(self._folder),
        }

    @property
    def log(self) -> Path:
        return self._folder / "head.log"

    def files_with(self, text: str) -> list[Path]:
        """Return all files written by Ray or by jobs on it, mostly logs, that contain `text`."""
        return [path for path in self._folder.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]

    def __enter__(self) -> "FakeAutoscalingCluster":
        config = self._folder / "ray_bootstrap_config.yaml"
        config.write_text(json.dumps(self._config()))
        command = [
            str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", f"--autoscaling-config={config}",
            f"--num-cpus={self._head_cpus}", "--num-gpus=0", f"--object-store-memory={OBJECT_STORE_BYTES}",
            f"--port={self._ports['gcs']}", f"--ray-client-server-port={self._ports['client']}",
            "--min-worker-port=0", "--max-worker-port=0",
            f"--include-dashboard={self._include_dashboard}", f"--dashboard-port={self._ports['dashboard']}",
            "--dashboard-agent-listen-port=0", f"--temp-dir={self._folder / 'ray'}",
        ]  # fmt: skip
        environment = os.environ | self.environment
        del environment["RAY_ADDRESS"]
        environment |= {
            "RAY_FAKE_CLUSTER": "1",
            "RAY_enable_autoscaler_v2": "1",
            "RAY_CLOUD_INSTANCE_ID": HEAD_ID,
            NODE_ID: HEAD_ID,
            "RAY_TMPDIR": str(self._folder / "ray"),
            "AUTOSCALER_UPDATE_INTERVAL_S": "1",
            "AUTOSCALER_METRIC_PORT": "0",
            "RAY_health_check_period_ms": "1000",  # a lost node is noticed after 5 s, not 15
        }
        with self.log.open("wb") as output:
            self._head = subprocess.Popen(command, env=environment, stdout=output, stderr=output, cwd=self._folder)
        try:
            for _ in range(SECONDS_TO_WAIT * 10):
                if "Ray runtime started" in self.log.read_text():
                    break
                assert self._head.poll() is None, self.log.read_text()
                time.sleep(0.1)
            else:
                raise AssertionError(f"the head did not start:\n{self.log.read_text()}")
        except BaseException:
            self._end()
            raise
        self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._watcher.join()
        self._end()

    def nodes(self) -> list[FakeNode]:
        """Return the worker nodes that are alive, oldest first."""
        found = []
        for pid, variables in self.processes().items():
            kind = variables.get("RAY_NODE_TYPE_NAME")
            if kind is not None and _program(pid) == "raylet":
                name = variables[NODE_ID]
                found.append(FakeNode(pid, name, kind, dict(self._types[kind]["resources"])))
        return sorted(found, key=lambda node: node.name)

    def nodes_running(self, program: str) -> set[str]:
        """Return the names of the nodes that have a process with `program` in its command line."""
        return {
            variables[NODE_ID]
            for pid, variables in self.processes().items()
            if NODE_ID in variables and program in _command_line(pid)
        }

    def kill_node(self, node: FakeNode) -> None:
        """Kill all processes of a node at once and without warning, like a reclaimed machine."""
        for pid, variables in self.processes().items():
            if variables.get(NODE_ID) == node.name:
                os.kill(pid, signal.SIGKILL)

    def drain_node(self, node: FakeNode, seconds: int) -> None:
        """Announce that a node will be reclaimed after so many seconds."""
        command = [
            str(Path(sys.executable).parent / "ray"), "drain-node", "--address", self.address, "--node-id", node.name,
            "--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "a test",
            "--deadline-remaining-seconds", str(seconds),
        ]  # fmt: skip
        subprocess.run(command, env=os.environ | self.environment, check=True, capture_output=True, timeout=60)

    def wait_for_nodes(self, count: int) -> list[FakeNode]:
        """Wait for exactly `count` worker nodes, and return them."""
        for _ in range(SECONDS_TO_WAIT * 5):
            if len(nodes := self.nodes()) == count:
                return nodes
            assert self._head is not None
            assert self._head.poll() is None, self.log.read_text()
            time.sleep(0.2)
        raise AssertionError(f"{len(nodes)} nodes instead of {count}")

    def processes(self) -> dict[int, dict[str, str]]:
        """Return the environments, by pid, of all processes that belong to this cluster or its drivers."""
        mark = f"{MARKER}={self._folder}".encode()
        found = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                variables = (entry / "environ").read_bytes().split(b"\0")
            except OSError:  # it has ended, or is not ours
                continue
            if mark in variables:
                pairs = (variable.decode(errors="replace").partition("=") for variable in variables)
                found[int(entry.name)] = {name: value for name, _, value in pairs}
        return found

    def _config(self) -> dict[str, Any]:
        types = {
            name: {
                "resources": {**kind["resources"], "object_store_memory": OBJECT_STORE_BYTES},
                "node_config": {},
                "min_workers": 0,
                "max_workers": kind["max_workers"],
            }
            for name, kind in self._types.items()
        }
        return {
            "cluster_name": self._folder.name,
            "max_workers": self._most,
            "idle_timeout_minutes": 0.1,
            "upscaling_speed": 100.0,
            "provider": {
                "type": "external",
                "module": self._provider,
                "gcs_address": self.address,
                "launch_multiple": True,
                "head_node_id": HEAD_ID,
                "disable_node_updaters": True,
            },
            "available_node_types": types
            | {
                HEAD_TYPE: {
                    "resources": {"CPU": self._head_cpus, "GPU": 0},
                    "node_config": {},
                    "min_workers": 0,
                    "max_workers": 0,
                }
            },
            "head_node_type": HEAD_TYPE,
            # Filled in by `ray up` on a real cluster.
            "auth": {},
            "file_mounts": {},
            "cluster_synced_files": [],
            "setup_commands": [],
            "head_setup_commands": [],
            "worker_setup_commands": [],
            "initialization_commands": [],
            "head_start_ray_commands": [],
            "worker_start_ray_commands": [],
        }

    def _watch(self) -> None:
        while not self._ended.wait(0.3):
            self.highest = max(self.highest, len(self.nodes()))

    def _end(self) -> None:
        """End everything: the head's command ends its own children, but the autoscaler leaves nodes as orphans."""
        assert self._head is not None
        self._head.terminate()
        for _ in range(SECONDS_TO_WAIT * 10):
            left = self.processes()
            if not left:
                break
            for pid in left:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            time.sleep(0.1)
        else:
            raise AssertionError(f"processes that do not end: {left}")
        self._head.wait()
        shutil.rmtree(self._folder, ignore_errors=True)


def _program(pid: int) -> str:
    return Path(_command_line(pid).split("\0")[0]).name


def _command_line(pid: int) -> str:
    try:
        return os.fsdecode(Path(f"/proc/{pid}/cmdline").read_bytes())
    except OSError:  # it has ended
        return ""
