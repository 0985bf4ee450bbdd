"""A folder as the store of several nodes: each must see what the others write, and only one can create a file."""

import errno
import os
import signal
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import ray

from catdog.errors import UserError
from catdog.formatting import now
from catdog.storage import LocalStore
from catdog.sweep import shared_folder
from catdog.sweep.shared_folder import DRIVER, Answer, check_folder, check_shared, read_others, write_claim
from tests.helpers.ray_nodes import RayNodes
from tests.helpers.sweeps import SMALL, small, start_job, times_computed, wait_for

HOSTS = {"1": "node1", "2": "node2", "3": "node3"}


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A function that checks one folder on three nodes at once; keywords give nodes another one."""
    monkeypatch.setattr(shared_folder, "VISIBLE_SECONDS", 0.3)

    def run(*, third: Path = tmp_path / "shared") -> None:
        def on_all_nodes(
            nodes: Mapping[str, str], work: Callable[..., Answer], folder: str, *more: Any
        ) -> dict[str, Answer]:
            seen = {node: str(third) if node == "3" else folder for node in nodes}
            with ThreadPoolExecutor(len(nodes)) as pool:
                return dict(zip(nodes, pool.map(lambda node: work(seen[node], node, *more), nodes), strict=True))

        check_folder("/shared", tmp_path / "shared", HOSTS, on_all_nodes)

    return run


def test_a_folder_that_all_nodes_see_is_accepted(check: Callable[..., None]) -> None:
    check()


def test_a_node_that_sees_another_folder_is_named_and_nothing_is_written_there(
    check: Callable[..., None], tmp_path: Path
) -> None:
    with pytest.raises(UserError) as refused:
        check(third=tmp_path / "other")
    assert str(refused.value) == (
        "--store /shared: not shared with node node3 (it does not see the driver's files there): choose a folder that "
        "all nodes share, or s3://bucket/prefix"
    )
    assert not (tmp_path / "other").exists()


def test_a_node_whose_writes_the_others_do_not_see_is_named(check: Callable[..., None], tmp_path: Path) -> None:
    """It sees the driver's file, as in a copy or behind a cache."""
    LocalStore(tmp_path / "copied").put(DRIVER, DRIVER.encode())
    with pytest.raises(UserError, match=r"node node3 \(the driver does not see what it wrote\)"):
        check(third=tmp_path / "copied")


def test_a_node_that_does_not_see_what_the_others_write_is_named(check: Callable[..., None], tmp_path: Path) -> None:
    """Its files reach the others, but only the driver's reaches it."""
    (tmp_path / "shared").mkdir()
    behind = tmp_path / "behind"
    LocalStore(behind).put(DRIVER, DRIVER.encode())
    (behind / "3").symlink_to(tmp_path / "shared" / "3")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", lambda source, target: Path(target).write_bytes(Path(source).read_bytes()))
        with pytest.raises(UserError, match=r"node node3 \(it does not see what the driver wrote\)"):
            check(third=behind)


@pytest.mark.parametrize("made_before", [True, False])
def test_a_check_removes_the_stores_folder_only_if_it_made_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made_before: bool
) -> None:
    """One that is there may have a group, a quota or stripes."""
    monkeypatch.setattr(ray, "nodes", list)
    monkeypatch.setattr(ray, "wait", lambda *_, **__: ([], []))
    store = tmp_path / "store"
    if made_before:
        store.mkdir(mode=0o770)
    check_shared(str(store))
    assert list(tmp_path.rglob("*")) == [store] * made_before


def without_links(monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "link", link)


def that_loses_renames(monkeypatch: pytest.MonkeyPatch) -> None:
    replace = os.replace

    def once(source: Path, target: Path) -> None:
        if not target.exists():
            replace(source, target)

    monkeypatch.setattr(os, "replace", once)


def where_all_can_create_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", os.replace)


@pytest.mark.parametrize(
    ("file_system", "reason"),
    [
        (without_links, "its file system has no hard links, without which two sweeps could own a run"),
        (that_loses_renames, "the driver does not see what it wrote"),
        (where_all_can_create_a_file, "3 nodes created the same file, instead of one"),
    ],
)
def test_a_file_system_without_what_the_lease_and_results_need_is_refused(
    check: Callable[..., None],
    file_system: Callable[[pytest.MonkeyPatch], None],
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file_system(monkeypatch)
    with pytest.raises(UserError, match=rf"not shared with node node1 \({reason}\)"):
        check()


def test_a_node_without_write_permission_says_so(tmp_path: Path) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    LocalStore(tmp_path).put(DRIVER, DRIVER.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", refused)
        answer = write_claim(str(tmp_path), "1")
    assert answer.fault == "cannot be written (permission denied)"


def test_a_node_that_cannot_list_the_folder_says_why(tmp_path: Path) -> None:
    LocalStore(tmp_path).put(DRIVER, DRIVER.encode())

    def broken(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "scandir", broken)
        for answer in (write_claim(str(tmp_path), "1"), read_others(str(tmp_path), "1", {DRIVER: "the driver"})):
            assert "input/output error" in answer.fault


def test_what_writers_on_other_machines_have_begun_is_kept_for_an_hour(tmp_path: Path) -> None:
    names = [".checkpoint.pt.00000000-1-1", ".checkpoint.pt.00000000-1-2"]
    for name in names:
        (tmp_path / name).write_bytes(b"half")
    os.utime(tmp_path / names[0], (0, 0))
    LocalStore(tmp_path).remove_leftovers("")
    assert [path.name for path in tmp_path.iterdir()] == names[1:]


@pytest.mark.slow
def test_a_sweep_of_two_nodes_on_a_folder_is_interrupted_and_the_same_command_completes_it(
    store_folder: Path,
) -> None:
    arguments = small("--seeds", "2", "--variants", "baseline", "attention", "--epochs", "40", "--cpus-per-trial", "1")
    trials = store_folder / "demo" / "trials"
    with RayNodes([]) as nodes:
        process = start_job(store_folder, *arguments, "--checkpoint-seconds", "0", environment=nodes.environment)
        wait_for(lambda: len(list(trials.glob("*/*/checkpoint.pt"))) == 2, process)
        process.send_signal(signal.SIGTERM)
        output = process.communicate()[0]
        assert process.returncode == 130, output
        assert "checking that 2 nodes share" in output
        saved, again = [path.parent for path in trials.glob("*/*/checkpoint.pt")], now()
        assert saved
        process = start_job(store_folder, *arguments, environment=nodes.environment)
        output = process.communicate()[0]
    assert process.returncode == 0, output
    assert "2 at once" in output
    assert len(list(trials.glob("*/*/result.json"))) == 4
    assert not [path for path in store_folder.rglob(".*") if path.is_file()]
    assert all(times_computed((trial / "history.csv").read_text())[0] < again for trial in saved)


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a process a mount of its own")
def test_a_node_with_another_folder_at_the_same_path_is_named_by_sweep_and_doctor(store_folder: Path) -> None:
    elsewhere = f'mount -t tmpfs none {store_folder} && hostname elsewhere && exec "$@"'
    with RayNodes(["unshare", "-m", "-u", "sh", "-c", elsewhere, "-"]) as nodes:
        for job in ("sweep", "doctor"):
            process = start_job(store_folder, *SMALL, environment=nodes.environment, job=job)
            output = process.communicate()[0]
            assert process.returncode == 2, output
            reason = "not shared with node elsewhere (it does not see the driver's files there): choose a folder"
            assert reason in output
