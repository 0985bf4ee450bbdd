"""The code and the packages that a run is made with."""

import functools
import hashlib
import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path

from catdog.config.head_registry import Variant
from catdog.config.source_code import code_digest, read_with_imports
from catdog.runs.code_record import Code

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


COMPUTING_PACKAGES = ("torch", "torchvision", "timm", "numpy")
"""Of these, the ones that a trial's numbers come from."""
COMPUTING_ROOMS = ("data", "models", "training", "trial")
"""The folders of catdog/ with the code that a trial's numbers come from."""
PACKAGE = Path(__file__).parent.parent
"""The folder catdog/."""


def package_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that results depend on."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def variant_code(head: Variant, imported: Sequence[str] = ()) -> Code:
    """Return what trials with this head run: the package's code and the head's, and the packages that compute.

    `imported` are the digests of other imported files that may matter.
    """
    versions = package_versions()
    versions = {name: versions[name] for name in COMPUTING_PACKAGES if name in versions}
    sources = dict(_computing_code())
    if not head.code:
        module = Path(PACKAGE.name, "models", "heads", head.head.split(".")[0] + ".py")
        sources |= read_with_imports(PACKAGE.parent, str(module), _computes)
    return Code(code_digest([*sources.items(), ("head", f"code = {head.code!r}, {tuple(imported)!r}")]), versions)


@functools.cache
def _computing_code() -> tuple[tuple[str, str], ...]:
    return tuple(read_with_imports(PACKAGE.parent, str(Path(PACKAGE.name, "trial", "run.py")), _computes))


def _computes(inside: str) -> bool:
    return inside.split(os.sep)[1] in COMPUTING_ROOMS


def code_version() -> str:
    """Return the commit of the running code, with `+changes` if the code differs from it.

    Outside a checkout (a job gets no `.git`): `tree HASH`, git's hash of the folder catdog/, from which
    `git log -t --find-object=HASH` finds the commit.
    """
    try:
        _git("ls-files", "--error-unmatch", "--", "__init__.py")
        commit = _git("rev-parse", "HEAD")
        return commit + (
            "+changes" if _git("status", "--porcelain", "--untracked-files=no", "--", ".", "../jobs") else ""
        )
    except (OSError, subprocess.SubprocessError):
        return f"tree {code_tree()}"


def code_tree() -> str:
    """Return git's hash of the folder catdog/ as it is on disk, committed or not."""
    return tree_hash(PACKAGE).hex()


def tree_hash(folder: Path) -> bytes:
    """Return git's hash of a folder of plain files, in 20 bytes.

    Source: https://git-scm.com/book/en/v2/Git-Internals-Git-Objects
    """
    entries = []
    for path in folder.iterdir():
        if path.is_dir():
            if path.name != "__pycache__":
                entries.append((f"{path.name}/", b"40000 " + path.name.encode(), tree_hash(path)))
        else:
            entries.append((path.name, b"100644 " + path.name.encode(), _git_object("blob", path.read_bytes())))
    return _git_object("tree", b"".join(mode_and_name + b"\0" + name for _, mode_and_name, name in sorted(entries)))


def _git(*arguments: str) -> str:
    process = subprocess.run(["git", *arguments], cwd=PACKAGE, capture_output=True, text=True, timeout=10, check=True)
    return process.stdout.strip()


def _git_object(kind: str, content: bytes) -> bytes:
    return hashlib.sha1(f"{kind} {len(content)}\0".encode() + content, usedforsecurity=False).digest()
