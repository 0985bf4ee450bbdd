"""Which Ray a sweep uses, and where a local one keeps its files, by what the environment says."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from catdog.errors import UserError
from catdog.sweep.local_ray import LONGEST_FOLDER, LONGEST_SOCKET, ray_folder
from catdog.sweep.ray_address import ray_address, require_answer
from tests.helpers.project import ROOT
from tests.helpers.uv import uv_program


@pytest.mark.parametrize(
    ("variable", "address"),
    [
        (None, None), ("", None), ("local", None), ("auto", "auto"), ("10.0.0.1:6379", "10.0.0.1:6379"),
        ("head.svc:6379/", "head.svc:6379"), (" [::1]:6379 ", "[::1]:6379"),
    ],
)  # fmt: skip
def test_an_address_is_host_and_port_or_one_of_rays_words(
    variable: str | None, address: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if variable is not None:
        monkeypatch.setenv("RAY_ADDRESS", variable)
    assert ray_address() == address


@pytest.mark.parametrize(
    ("variable", "reason"),
    [
        ("http://127.0.0.1:8265", "a dashboard takes jobs there: use ray job submit"),
        ("https://ray.example.org/", "a dashboard takes jobs there: use ray job submit"),
        ("ray://127.0.0.1:10001", "a sweep does not run through Ray Client"),
        *((bad, "not HOST:PORT") for bad in ("127.0.0.1", "::1:6379", "h:99999", "h:0", "h:6379x", ":6379", "tcp://h:1")),
    ],
)  # fmt: skip
def test_an_address_of_another_kind_is_refused(variable: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", variable)
    with pytest.raises(UserError) as refused:
        ray_address()
    assert f"RAY_ADDRESS {variable.rstrip('/')}: {reason}" in str(refused.value)
    assert "unset RAY_ADDRESS" in str(refused.value)


def test_an_ipv6_address_is_tried_without_its_brackets() -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as server:
        require_answer(f"[::1]:{server.getsockname()[1]}")
    with pytest.raises(UserError, match="no Ray answers there"):
        require_answer("[::1]:9")


def test_ray_keeps_its_own_choice_where_that_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", "/tmp")
    with ray_folder() as folder:
        assert folder is None


@pytest.mark.parametrize("fault", ["long", "file"])
def test_a_tmpdir_that_ray_cannot_use_is_replaced_by_a_private_short_folder(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", str(_unusable(fault, tmp_path)))
    with ray_folder() as folder:
        assert folder is not None
        folder.mkdir(mode=0o777)  # as Ray does
        assert folder.parent.stat().st_mode & 0o777 == 0o700
        assert len(str(folder)) <= LONGEST_FOLDER < LONGEST_SOCKET
    assert not folder.exists()


@pytest.mark.parametrize(("fault", "reason"), [("long", "too long for Ray's sockets"), ("file", "cannot be written")])
def test_a_ray_tmpdir_that_ray_cannot_use_is_a_mistake(
    fault: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(_unusable(fault, tmp_path)))
    with (
        pytest.raises(UserError, match=rf"^RAY_TMPDIR .*: {reason}.*: choose another folder, or unset it"),
        ray_folder(),
    ):
        pass


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system binds no process to cores")
def test_ray_has_the_cores_that_the_process_may_use() -> None:
    code = (
        "import os, ray; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])\n"
        "from catdog.sweep.local_ray import start_local_ray\n"
        "start_local_ray(None, [], log_to_driver=False)\n"
        "print(ray.cluster_resources()['CPU']); ray.shutdown()"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["1.0"]


def _unusable(fault: str, folder: Path) -> Path:
    return folder / ("long" * 20) if fault == "long" else Path("/dev/null")


def test_under_uv_run_ray_sends_workers_no_working_directory_and_starts_them_without_uv() -> None:
    code = "from catdog.sweep.local_ray import ray; print(ray._private.worker._maybe_modify_runtime_env({}, False))"
    command = [uv_program(), "run", "--active", "--no-sync", "--offline", "python", "-c", code]
    environment = os.environ | {"VIRTUAL_ENV": sys.prefix, "PYTHONPATH": str(ROOT)}
    for switch, shown in ({}, "{}\n"), ({"RAY_ENABLE_UV_RUN_RUNTIME_ENV": "1"}, str(ROOT)):
        done = subprocess.run(command, cwd=ROOT, env=environment | switch, check=True, capture_output=True, text=True)
        assert shown in done.stdout
