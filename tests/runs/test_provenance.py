"""The code version of a run can be named, in a checkout and outside one; so can the packages."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

from catdog.runs.provenance import package_versions
from tests.helpers.project import ROOT


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the code, outside any checkout."""
    for name in ("catdog", "jobs"):
        shutil.copytree(ROOT / name, tmp_path / name)
    return tmp_path


def version_of(project: Path) -> str:
    command = [sys.executable, "-c", "from catdog.runs.provenance import code_version; print(code_version())"]
    return subprocess.run(command, cwd=project, capture_output=True, text=True, check=True).stdout.strip()


def git(project: Path, *arguments: str) -> str:
    command = ["git", "-c", "user.name=test", "-c", "user.email=test@localhost", *arguments]
    return subprocess.run(command, cwd=project, capture_output=True, text=True, check=True).stdout.strip()


def commit_all(project: Path) -> str:
    (project / ".gitignore").write_text("__pycache__/\n")
    git(project, "init")
    git(project, "add", ".")
    git(project, "commit", "-m", "all")
    return git(project, "rev-parse", "HEAD")


def test_in_a_checkout_the_version_is_the_commit_and_marks_changed_code(project: Path) -> None:
    commit = commit_all(project)
    assert version_of(project) == commit
    (project / "README").write_text("not code")
    assert version_of(project) == commit
    with (project / "jobs" / "sweep.py").open("a") as file:
        file.write("\n")
    assert version_of(project) == f"{commit}+changes"


def test_without_git_the_version_is_the_folders_git_tree_hash(project: Path) -> None:
    version = version_of(project)
    commit_all(project)
    assert version == f"tree {git(project, 'rev-parse', 'HEAD:catdog')}"


def test_a_copy_inside_an_unrelated_checkout_does_not_take_its_commit(project: Path) -> None:
    (project / ".gitignore").write_text("catdog/\njobs/\n")
    git(project, "init")
    git(project, "add", ".")
    git(project, "commit", "-m", "without catdog")
    assert version_of(project).startswith("tree ")


def test_the_recorded_packages_are_ours_and_those_that_it_requires_by_the_same_names() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    required = {re.split(r"[\[><=]", requirement)[0] for requirement in project["dependencies"]}
    versions = package_versions()
    assert versions.keys() <= {"python", project["name"], *required}
    assert versions.keys() >= {"python", "torch", "torchvision", "timm", "ray", "numpy", "scipy", "pandas"}
    assert versions["numpy"] == np.__version__
    assert versions["python"] == sys.version.split()[0]
