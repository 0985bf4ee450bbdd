"""Scratch folders: gone after use, and after the next start where their process was killed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from catdog.errors import UserError
from catdog.system.scratch import scratch_folder
from tests.helpers.project import ROOT


def test_a_scratch_folder_is_private_and_removed(tmp_path: Path) -> None:
    with scratch_folder("some-", tmp_path) as folder:
        (folder / "file").touch()
        assert folder.parent == tmp_path
        assert folder.stat().st_mode & 0o777 == 0o700
    assert list(tmp_path.iterdir()) == []


def test_folders_of_killed_processes_are_removed_by_the_next_and_those_in_use_are_not(tmp_path: Path) -> None:
    script = (
        "import os, sys; from pathlib import Path\n"
        "from catdog.system.scratch import scratch_folder\n"
        "with scratch_folder('some-', Path(sys.argv[1])) as folder:\n"
        "    (folder / 'file').touch()\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    with scratch_folder("some-", tmp_path) as used:
        subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False)
        assert len(list(tmp_path.iterdir())) == 2
        (tmp_path / "other").mkdir()
        (tmp_path / "some-link").symlink_to(tmp_path / "other")
        with scratch_folder("some-", tmp_path) as folder:
            assert set(tmp_path.iterdir()) == {used, folder, tmp_path / "other", tmp_path / "some-link"}


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
def test_folders_of_other_users_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "some-other").mkdir()
    os.chown(tmp_path / "some-other", 12345, 12345)
    with scratch_folder("some-", tmp_path):
        pass
    assert (tmp_path / "some-other").exists()


def test_a_folder_that_cannot_be_made_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"^TMPDIR .*file: cannot be written"), scratch_folder("a-", tmp_path / "file"):
        pass
