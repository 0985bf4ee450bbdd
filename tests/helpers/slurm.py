"""SLURM on this machine, for root: a controller and two nodes with an address and processes of their own.

Each node is a slurmd in its own namespaces of network, processes and mounts; of the file system, only `OWN`
is its own. A pair of virtual network cards joins them; no packet leaves the machine.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

NODES = {"node1": "10.77.0.1", "node2": "10.77.0.2"}
OWN = "/tmp/catdog-root"
SECONDS_TO_WAIT = 300
PROGRAMS = ("slurmctld", "slurmd", "munged", "ip", "nsenter", "unshare")
CONFIG = """\
ClusterName=catdog
SlurmctldHost=node1(10.77.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge-socket
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmdSpoolDir={folder}/spool-%n
StateSaveLocation={folder}/state
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
NodeName=node1 NodeAddr=10.77.0.1 CPUs=1
NodeName=node2 NodeAddr=10.77.0.2 CPUs=1
PartitionName=main Nodes=ALL Default=YES
"""


def slurm_is_here() -> bool:
    """Return whether this process can start a SLURM of its own."""
    has_cgroups = Path("/sys/fs/cgroup/freezer").is_dir()  # of version 1: those of version 2 need systemd
    if os.geteuid() != 0 or not has_cgroups or not all(map(shutil.which, PROGRAMS)):
        return False
    namespaces = ["unshare", "-n", "-m", "-p", "-u", "-f", "--mount-proc", "ip", "link", "add", "card", "type", "veth"]
    return subprocess.run(namespaces, capture_output=True, check=False).returncode == 0


class Slurm:
    """A controller on the first of two nodes; `folder` gets its configuration, its state and the daemons' output."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._networks = {node: f"catdog-{os.getpid()}-{node}" for node in NODES}
        self._daemons: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> "Slurm":
        for name in ("state", "spool-node1", "spool-node2"):
            (self._folder / name).mkdir()
        (self._folder / "slurm.conf").write_text(CONFIG.format(folder=self._folder))
        (self._folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        (self._folder / "munge-key-file").write_bytes(os.urandom(128))
        (self._folder / "munge-key-file").chmod(0o600)
        files = ("key-file", "socket", "pid-file", "log-file", "seed-file")
        try:
            self._connect_nodes()
            self._start(
                "munged", "--foreground", "--force", *(f"--{kind}={self._folder}/munge-{kind}" for kind in files)
            )
            self._start(*self._on("node1"), "slurmctld", "-D")
            for node in NODES:
                daemon = (
                    f"mkdir -p {OWN}; mount -t tmpfs none {OWN}; slurmd -D -N {node} & "
                    "while true; do wait -n || sleep 1; done"  # the first process of a node reaps the others
                )
                own = ("unshare", "-m", "-p", "-f", "--kill-child", "--mount-proc")
                self._start(*self._on(node), *own, "bash", "-c", daemon)
            self.wait_for(lambda: self.run("sinfo", "-h", "-t", "idle", "-o", "%D") == "2")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for daemon in reversed(self._daemons):
            daemon.kill()
            daemon.wait()
        for network in self._networks.values():
            subprocess.run(["ip", "netns", "delete", network], check=False, capture_output=True)

    def run(self, *command: str, cwd: Path | None = None, **variables: str) -> str:
        """Run a command as on a login node; returns its output, without what it says of errors."""
        process = subprocess.run(
            [*self._on("node1"), *command],
            cwd=cwd,
            env=self._environment | variables,
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        return process.stdout.strip()

    def end_of(self, job: str) -> str:
        """Wait until a job has ended; returns its state and its exit code."""
        self.wait_for(lambda: not self.run("squeue", "-h", "-j", job))
        fields = dict(word.partition("=")[::2] for word in self.run("scontrol", "show", "job", job).split())
        return f"{fields['JobState']} {fields['ExitCode']}"

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Wait until the condition holds."""
        for _ in range(SECONDS_TO_WAIT):
            if condition():
                return
            time.sleep(1)
        logs = [path.read_text(errors="replace")[-2000:] for path in sorted(self._folder.glob("daemon-*.log"))]
        raise AssertionError("it did not come to that:\n" + "\n".join(logs))

    @property
    def _environment(self) -> dict[str, str]:
        return os.environ | {"SLURM_CONF": str(self._folder / "slurm.conf"), "USER": "root"}

    def _on(self, node: str) -> list[str]:
        """Return what makes a command run with the node's network and name."""
        named = ("unshare", "-u", "sh", "-c", f'hostname {node}; exec "$@"', "-")
        return ["nsenter", f"--net=/run/netns/{self._networks[node]}", *named]

    def _connect_nodes(self) -> None:
        first, second = self._networks.values()
        for network in (first, second):
            _ip("netns", "add", network)
        _ip("-n", first, "link", "add", "card", "type", "veth", "peer", "name", "card", "netns", second)
        for node, network in self._networks.items():
            _ip("-n", network, "address", "add", f"{NODES[node]}/24", "dev", "card")
            for card in ("lo", "card"):
                _ip("-n", network, "link", "set", card, "up")

    def _start(self, *command: str) -> None:
        with (self._folder / f"daemon-{len(self._daemons)}.log").open("wb") as output:
            self._daemons.append(subprocess.Popen(command, env=self._environment, stdout=output, stderr=output))


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)
