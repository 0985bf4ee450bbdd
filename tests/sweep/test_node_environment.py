"""deploy/node_environment.py as cluster.yaml's nodes run it: real uv, tar and S3; no packages, so no package index."""

import dataclasses
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.project import ROOT
from tests.helpers.s3_servers import S3Server
from tests.helpers.uv import uv_program

pytest_plugins = ["tests.helpers.s3_servers"]
INSTALLS = "installing from the package index"
NO_PACKAGES = '[project]\nname = "none"\nversion = "1"\noptional-dependencies.lite0 = []\n'


@dataclasses.dataclass(frozen=True)
class Node:
    """A machine: a home folder with the files that cluster.yaml puts there."""

    home: Path
    server: S3Server
    store: str

    def set_up(self, *options: str, uv: str | None = None) -> str:
        """Run the script; returns what it says."""
        script = self.home / "environment" / "node_environment.py"
        environment = os.environ | self.server.variables(self.home / "cache")
        environment |= {"HOME": str(self.home), "UV": uv or uv_program(), "UV_OFFLINE": "1", "UV_NO_CACHE": "1"}
        done = subprocess.run(
            [sys.executable, script, self.store, *options], env=environment, check=True, capture_output=True, text=True
        )
        return done.stdout + done.stderr

    def python(self, code: str) -> str:
        """Return what the environment's Python prints."""
        program = self.home / "venv" / "bin" / "python"
        return subprocess.run([program, "-c", code], check=True, capture_output=True, text=True).stdout

    def install(self) -> None:
        """Add a module, and more bytes than one request carries."""
        (packages,) = (self.home / "venv" / "lib").glob("python*/site-packages")
        (packages / "installed.py").write_text("value = 1\n")
        (packages / "library.so").write_bytes(os.urandom(20 << 20))

    @property
    def bucket(self) -> str:
        return self.store.split("/")[2]

    def stored(self) -> list[str]:
        """Return the keys in the bucket."""
        found = self.server.client().list_objects_v2(Bucket=self.bucket)
        return [item["Key"] for item in found.get("Contents", [])]

    def get(self, key: str) -> bytes:
        content: bytes = self.server.client().get_object(Bucket=self.bucket, Key=key)["Body"].read()
        return content

    def put(self, key: str, content: bytes) -> None:
        self.server.client().put_object(Bucket=self.bucket, Key=key, Body=content)


def new_node(home: Path, server: S3Server) -> Node:
    """Return a machine with a bucket of its own."""
    files = home / "environment"
    files.mkdir()
    shutil.copy(ROOT / "deploy" / "node_environment.py", files)
    (files / "pyproject.toml").write_text(NO_PACKAGES)
    (files / "requirements.lock").write_text("")
    return Node(home, server, f"s3://{server.new_bucket()}/sweeps")


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory, moto_server: S3Server) -> Node:
    """A head that has installed its environment, and stored it for the workers."""
    node = new_node(tmp_path_factory.mktemp("head"), moto_server)
    assert INSTALLS in node.set_up()
    node.install()
    assert "packed for the workers" in node.set_up("--upload")
    return node


@pytest.fixture
def worker(tmp_path: Path, head: Node) -> Node:
    """A worker that has just started, with a copy of the head's bucket."""
    node = new_node(tmp_path, head.server)
    (key,) = head.stored()
    node.put(key, head.get(key))
    return node


def test_a_worker_unpacks_what_the_head_has_installed_and_a_second_run_does_nothing(head: Node, tmp_path: Path) -> None:
    worker = dataclasses.replace(new_node(tmp_path, head.server), store=head.store)
    (key,) = worker.stored()
    assert key.startswith("sweeps/environments/")  # below the prefix that the workers' role may read
    assert "unpacked" in worker.set_up()
    assert worker.python("import installed; print(installed.value)") == "1\n"
    assert worker.set_up() == ""
    assert worker.set_up("--upload") == ""


def test_a_changed_lock_never_meets_an_old_environment(worker: Node) -> None:
    worker.set_up()
    (worker.home / "environment" / "requirements.lock").write_text("numpy==2.4.6\n")
    assert INSTALLS in worker.set_up()
    with pytest.raises(subprocess.CalledProcessError):
        worker.python("import installed")
    worker.set_up("--upload")
    assert len(worker.stored()) == 2


@pytest.mark.parametrize("fault", ["damaged", "cut short"])
def test_without_a_whole_archive_a_worker_installs_from_the_package_index(worker: Node, fault: str) -> None:
    (key,) = worker.stored()
    content = worker.get(key)
    half = len(content) // 2
    worker.put(key, content[:half] + (bytes(64) + content[half + 64 :] if fault == "damaged" else b""))
    assert INSTALLS in worker.set_up()
    with pytest.raises(subprocess.CalledProcessError):
        worker.python("import installed")
    assert worker.python("print(6 * 7)") == "42\n"
    assert worker.set_up() == ""


def test_an_environment_whose_replacement_ended_halfway_does_not_pass_for_whole_once_the_lock_is_as_before(
    worker: Node,
) -> None:
    worker.set_up()
    (worker.home / "environment" / "requirements.lock").write_text("numpy==2.4.6\n")
    with pytest.raises(subprocess.CalledProcessError):
        worker.set_up(uv="false")
    (worker.home / "environment" / "requirements.lock").write_text("")
    assert "unpacked" in worker.set_up()


def test_without_a_bucket_nodes_start_all_the_same(worker: Node) -> None:
    node = dataclasses.replace(worker, store="s3://no-such-bucket/sweeps")
    assert INSTALLS in node.set_up()
    assert "workers will install from the package index" in node.set_up("--upload")
    assert node.python("print(6 * 7)") == "42\n"
