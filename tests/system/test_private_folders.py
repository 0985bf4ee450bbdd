"""Folders for locks and temporary files: nobody but the user can write them, and every process finds the same one."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from catdog.errors import UserError
from catdog.system.private_folders import node_cache, private_folder

ANOTHER_USER = 54321
"""A uid without an entry in /etc/passwd."""


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def folder_of_another_user(tmp_path: Path) -> Path:
    if os.geteuid():
        return Path("/usr")
    folder = tmp_path / "theirs"
    folder.mkdir()
    os.chown(folder, ANOTHER_USER, ANOTHER_USER)
    return folder


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty home, without variables that name caches."""
    monkeypatch.delenv("CATDOG_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_a_new_folder_and_its_new_parents_are_closed_to_others(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        folder = private_folder(tmp_path / "cache" / "catdog" / "locks")
    finally:
        os.umask(before)
    assert {mode(path) for path in (folder, folder.parent, folder.parent.parent)} == {0o700}
    assert private_folder(folder) == folder


@pytest.mark.parametrize(("before", "after"), [(0o755, 0o755), (0o775, 0o755), (0o777, 0o755), (0o700, 0o700)])
def test_a_folder_of_ones_own_stays_and_is_closed_to_writers(before: int, after: int, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine").chmod(before)
    (tmp_path / "mine" / "pack").write_bytes(b"kept")
    assert mode(private_folder(tmp_path / "mine")) == after
    assert (tmp_path / "mine" / "pack").read_bytes() == b"kept"


def test_a_folder_of_another_user_is_a_mistake(folder_of_another_user: Path) -> None:
    with pytest.raises(UserError, match=rf"^{folder_of_another_user}: belongs to another user \(uid \d+\): set CATDOG"):
        private_folder(folder_of_another_user)


def test_a_link_is_followed_only_if_it_is_the_users_own(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "disk")
    assert private_folder(link) == link
    if os.geteuid() == 0:
        os.chown(link, ANOTHER_USER, ANOTHER_USER, follow_symlinks=False)
        with pytest.raises(UserError, match=f"^{link}: "):
            private_folder(link)


def test_what_is_no_folder_or_cannot_be_made_is_a_mistake_with_its_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for path in (tmp_path / "file", tmp_path / "file" / "x", Path("/proc/x"), tmp_path / ("x" * 300)):
        with pytest.raises(UserError, match=rf"^{path}: .+: set CATDOG_CACHE to a folder of your own$"):
            private_folder(path)
    assert (tmp_path / "file").read_bytes() == b""


def test_the_cache_is_where_the_variables_say_else_in_the_home(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert node_cache() == home / ".cache" / "catdog"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative/paths/do/not/count")
    assert node_cache() == home / ".cache" / "catdog"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert node_cache() == tmp_path / "xdg" / "catdog"
    monkeypatch.setenv("CATDOG_CACHE", "~/mine")
    assert node_cache() == home / "mine"
    assert mode(home / "mine") == 0o700


def test_a_relative_cache_is_a_mistake_since_workers_run_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CATDOG_CACHE", "cache")
    with pytest.raises(UserError, match=r"^CATDOG_CACHE cache: a relative path; give an absolute one"):
        node_cache()


def test_a_cache_that_is_named_and_cannot_be_used_is_a_mistake(
    folder_of_another_user: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CATDOG_CACHE", str(folder_of_another_user))
    with pytest.raises(UserError, match="belongs to another user"):
        node_cache()


@pytest.mark.parametrize("unusable", ["/", "/proc/home", "relative", None])
def test_without_a_usable_home_the_cache_is_a_private_folder_beside_other_temporary_files(
    unusable: str | None,
) -> None:
    environment = {**os.environ, "HOME": unusable} if unusable else {k: v for k, v in os.environ.items() if k != "HOME"}
    if unusable is None and os.geteuid():
        pytest.skip("only root can become a user without an entry in /etc/passwd")
    become = f"os.setgid({ANOTHER_USER}); os.setuid({ANOTHER_USER})" if unusable is None else ""
    script = f"""
import os, pwd
from catdog.system.private_folders import node_cache
{become}
print(node_cache(), oct(node_cache().stat().st_mode), node_cache().stat().st_uid == os.geteuid())
if not os.listdir(node_cache()):
    node_cache().rmdir()
"""
    output = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert output.stdout.split() == [
        f"/tmp/catdog-{ANOTHER_USER if unusable is None else os.geteuid()}", "0o40700", "True"
    ]  # fmt: skip
