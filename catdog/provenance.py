"""Which code, packages and machine a run was made with."""

import importlib.metadata
import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path

PACKAGES = (
    "catdog-sweep",
    "torch",
    "torchvision",
    "timm",
    "ray",
    "numpy",
    "pandas",
    "Pillow",
    "boto3",
    "scipy",
)


def package_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that results depend on."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def code_version() -> str | None:
    """Return the commit of the code that is running, with `+changes` where it differs; None outside a checkout."""
    folder = Path(__file__).parent
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        return commit + (
            "+changes" if _git(folder, "status", "--porcelain", "--untracked-files=no", "--", ".", "../jobs") else ""
        )
    except (OSError, subprocess.SubprocessError):
        return os.environ.get("CATDOG_CODE_VERSION")


def now() -> str:
    """Return the time in UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _git(folder: Path, *arguments: str) -> str:
    process = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=10, check=True)
    return process.stdout.strip()
