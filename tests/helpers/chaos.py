"""A disturbed sweep: a cluster on this machine and a driver, whose processes are killed at random moments.

A node is a `ray start` with its own processes, identified by a mark in their environment. Just before each fault, the
times at which the epochs in each checkpoint were computed are read from the store: faults must not change them.
"""

import io
import os
import random
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import torch

from catdog.errors import NotFoundError
from catdog.storage import Store
from tests.helpers.project import ROOT
from tests.helpers.servers import free_ports
from tests.helpers.sweeps import kill_all, processes_of, times_computed

Fault = Literal["worker", "node", "driver", "head"]
FAULTS: tuple[Fault, ...] = get_args(Fault)
WORKER_NODES = 2
OBJECT_STORE_BYTES = 80 << 20
SECONDS_TO_WAIT = 600
"""Generous, for events that must happen eventually: hanging is a failure, slowness is not."""


class Node(NamedTuple):
    """A node's command, and the mark that all its processes have in their environment."""

    mark: str
    command: subprocess.Popen[bytes]
    log: Path


class ChaosCluster:
    """A head without CPUs, where the driver runs, and worker nodes for one trial each."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="chaos-"))  # short: Ray's sockets live in it
        self.mark = f"CATDOG_CHAOS={self.folder}"
        self.workers: list[Node] = []
        self._started: list[Node] = []
        self._environment = {
            **os.environ,
            **environment,
            "CATDOG_CHAOS": str(self.folder),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_health_check_period_ms": "1000",  # a lost node is noticed after 3 s, not 15
            "RAY_health_check_failure_threshold": "3",
        }
        self._environment.pop("RAY_ADDRESS", None)

    @property
    def driver_environment(self) -> dict[str, str]:
        """The environment variables of a process on the head."""
        return self._environment | {"RAY_ADDRESS": self._address, "CATDOG_CHAOS_NODE": _value(self._head.mark)}

    def start(self) -> None:
        """Start a head with its nodes; nodes of an earlier head are left alone."""
        port, client_port = free_ports(2)
        self._address = f"127.0.0.1:{port}"
        self._head = self._start_node(
            "--head", f"--port={port}", f"--ray-client-server-port={client_port}", "--num-cpus=0",
            "--include-dashboard=False",
        )  # fmt: skip
        self._wait_for(self._head)
        self.workers = []
        for _ in range(WORKER_NODES):
            self.add_node()

    def add_node(self) -> None:
        self.workers.append(self._start_node(f"--address={self._address}", "--num-cpus=1"))

    def settle(self) -> None:
        """Wait until all nodes are up."""
        for node in self.workers:
            self._wait_for(node)

    def lose_node(self, node: Node) -> None:
        """Kill a worker node, as a power cut would."""
        self.workers.remove(node)
        kill_all(node.mark)

    def lose_head(self) -> None:
        """Kill the head, and the driver with it."""
        kill_all(self._head.mark)

    def end(self) -> None:
        """End every process of the cluster, and all their descendants."""
        kill_all(self.mark)
        for node in self._started:
            node.command.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _start_node(self, *arguments: str) -> Node:
        name = self.folder / f"node-{len(self._started):03d}"
        command = [
            str(Path(sys.executable).parent / "ray"), "start", "--block", "--num-gpus=0",
            f"--object-store-memory={OBJECT_STORE_BYTES}", "--min-worker-port=0", "--max-worker-port=0",
            "--dashboard-agent-listen-port=0", f"--temp-dir={name}", *arguments,
        ]  # fmt: skip
        environment = self._environment | {"CATDOG_CHAOS_NODE": str(name)}
        log = name.with_suffix(".log")
        with log.open("wb") as output:
            process = subprocess.Popen(command, env=environment, cwd=self.folder, stdout=output, stderr=output)
        self._started.append(Node(f"CATDOG_CHAOS_NODE={name}", process, log))
        return self._started[-1]

    def _wait_for(self, node: Node) -> None:
        for _ in range(SECONDS_TO_WAIT * 5):
            if "Ray runtime started" in node.log.read_text():
                return
            assert node.command.poll() is None, node.log.read_text()
            time.sleep(0.2)
        raise AssertionError(f"a node did not start:\n{node.log.read_text()}")


class Chaos:
    """A sweep on such a cluster, and the faults injected into it.

    As a context manager, it leaves no process behind, and adds to an error the faults so far and the drivers' output.
    """

    def __init__(self, store: Store, arguments: Sequence[str], environment: Mapping[str, str], seed: int) -> None:
        self.store = store
        self.chance = random.Random(seed)
        self.faults: Counter[Fault] = Counter()
        self.held: list[tuple[str, list[str]]] = []
        """Trials, each with the times at which its saved epochs were computed, as read before a fault."""
        self._command = [sys.executable, "jobs/sweep.py", "demo", "--store", store.url, *arguments]
        self._cluster = ChaosCluster(environment)
        self._launches: list[tuple[subprocess.Popen[bytes], Path]] = []
        self._orphans: set[int] = set()
        self._story: list[str] = []
        self._started = time.monotonic()

    def __enter__(self) -> "Chaos":
        try:
            self._cluster.start()
            self._launch()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, kind: object = None, error: BaseException | None = None, trace: object = None) -> None:
        if error is not None:
            error.add_note(self.describe())
        self._cluster.end()
        for process, _ in self._launches:
            process.wait()

    @property
    def launches(self) -> int:
        return len(self._launches)

    def inject(self, fault: Fault, pauses: float) -> None:
        """Inject a fault at a random moment: after a pause (with probability `pauses`), or after a trial's progress."""
        if self.chance.random() < pauses:
            time.sleep(self.chance.uniform(1, 5))
        else:
            self._await_epochs(self.chance.randint(1, 2))
        lose = {"worker": self._lose_worker, "node": self._lose_node, "driver": self._lose_driver}
        lose.get(fault, self._lose_head)()
        self.faults[fault] += 1

    def finish(self) -> None:
        """Wait for the sweep to succeed on its own."""
        process, _ = self._launches[-1]
        try:
            code = process.wait(SECONDS_TO_WAIT)
        except subprocess.TimeoutExpired:
            raise AssertionError("the sweep does not end") from None
        assert code == 0, f"the sweep ended with {code}"

    def describe(self) -> str:
        """Return the events so far, and the output of every launch."""
        outputs = [f"--- launch {number}\n{log.read_text()}" for number, (_, log) in enumerate(self._launches)]
        failures = [f"--- {key}\n{self.store.get(key).decode()}" for key in self.store.list("demo/failures/")]
        return "\n".join([*self._story, *outputs, *failures])

    def saved(self, trial: str) -> list[str]:
        """Return when each stored epoch of a trial, unfinished or finished, was computed."""
        with suppress(NotFoundError):
            content = torch.load(io.BytesIO(self.store.get(f"{trial}/checkpoint.pt")), weights_only=True)
            return [row["finished_at"] for row in content["state"]["history"]]
        with suppress(NotFoundError):
            return times_computed(self.store.get(f"{trial}/history.csv").decode())
        return []

    def _lose_worker(self) -> None:
        killed = False
        while not killed:
            self._wait(lambda: bool(self._trial_processes()))
            pid = self.chance.choice(sorted(self._trial_processes()))
            self._remember(f"worker {pid}")
            with suppress(ProcessLookupError):  # it has just ended
                os.kill(pid, signal.SIGKILL)
                killed = True

    def _lose_node(self) -> None:
        self._cluster.settle()
        node = self.chance.choice(self._cluster.workers)
        self._remember(node.mark)
        self._cluster.lose_node(node)
        self._cluster.add_node()

    def _lose_driver(self) -> None:
        process, _ = self._launches[-1]
        self._remember("driver")
        os.killpg(process.pid, signal.SIGKILL)  # with the process that supervises it
        self._launch()

    def _lose_head(self) -> None:
        self._remember("head")
        self._cluster.lose_head()
        self._cluster.start()
        self._launch()

    def _launch(self) -> None:
        """Run the sweep's command; trial processes left by the previous launch are remembered as orphans."""
        if self._launches:
            self._launches[-1][0].wait()
        self._cluster.settle()
        self._orphans |= self._trial_processes()
        log = self._cluster.folder / f"launch-{len(self._launches):03d}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                self._command,
                cwd=ROOT,
                env=self._cluster.driver_environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self._launches.append((process, log))
        self._tell("launched")

    def _await_epochs(self, further: int) -> None:
        """Wait until one of the running trials has saved this many further epochs, or has ended."""
        self._wait(lambda: bool(self._running()))
        trial = self.chance.choice(self._running() or [""])
        wanted = len(self.saved(trial)) + further
        self._wait(lambda: len(self.saved(trial)) >= wanted or trial not in self._running())

    def _running(self) -> list[str]:
        """Return the folders of trials with a checkpoint but no result."""
        keys = set(self.store.list("demo/trials/"))
        folders = sorted(key.removesuffix("/checkpoint.pt") for key in keys if key.endswith("/checkpoint.pt"))
        return [folder for folder in folders if f"{folder}/result.json" not in keys]

    def _trial_processes(self) -> set[int]:
        processes = processes_of(self._cluster.mark)
        return {pid for pid, command in processes.items() if b"ImplicitFunc" in command} - self._orphans

    def _remember(self, victim: str) -> None:
        """Read the checkpoints before `victim` is killed; fail if the driver has ended."""
        folders = {"/".join(key.split("/")[:4]) for key in self.store.list("demo/trials/")}
        epochs = {folder: self.saved(folder) for folder in sorted(folders)}
        self.held += [(folder, times) for folder, times in epochs.items() if times]
        self._check_driver()
        self._tell(f"kills {victim} at {[len(times) for times in epochs.values()]} epochs")

    def _check_driver(self) -> None:
        code = self._launches[-1][0].poll()
        assert code != 0, "the sweep ended before all faults were injected"
        assert code is None, f"the driver ended by itself, with {code}"

    def _wait(self, condition: Callable[[], bool]) -> None:
        for _ in range(SECONDS_TO_WAIT * 10):
            if condition():
                return
            self._check_driver()
            time.sleep(0.1)
        raise AssertionError("it did not come to that")

    def _tell(self, what: str) -> None:
        self._story.append(f"{time.monotonic() - self._started:6.1f} s  {what}")


def draw_faults(chance: random.Random, count: int, least: int) -> list[Fault]:
    """Return `count` faults in random order, each kind at least `least` times."""
    faults = [*FAULTS * least, *chance.choices(FAULTS, k=count - least * len(FAULTS))]
    chance.shuffle(faults)
    return faults


def _value(mark: str) -> str:
    return mark.partition("=")[2]
