"""Nothing in the store or in weights is executed, keys stay below the store's prefix, and links that others planted
where a lock, a note or a temporary file will be are not followed."""

import ast
import io
import os
import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from catdog.config.head_registry import VARIANTS
from catdog.config.recipe import Recipe
from catdog.config.variants import parse_variant
from catdog.errors import UserError
from catdog.storage import LocalStore
from catdog.storage.local import scratch_beside
from catdog.storage.node_cache import fetch_or_make, matches_digest
from catdog.system.private_folders import node_cache
from catdog.trial.context import RunContext
from catdog.trial.run import run_trial
from tests.helpers.project import PACKAGE


class Hostile:
    """An object that creates a file when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.trace),)


def hostile_files(trace: Path) -> dict[str, bytes]:
    """A pickle in torch's old and new formats, and a plain one."""
    plain, new, old = pickle.dumps(Hostile(trace)), io.BytesIO(), io.BytesIO()
    torch.save({"state": Hostile(trace)}, new)
    torch.save({"state": Hostile(trace)}, old, _use_new_zipfile_serialization=False)
    return {"plain": plain, "new": new.getvalue(), "old": old.getvalue()}


@pytest.mark.parametrize("kind", ["plain", "new", "old"])
def test_a_hostile_checkpoint_is_not_executed(
    kind: str, make_context: Callable[..., RunContext], recipe: Recipe, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    context, spec, trace = make_context(recipe), parse_variant("baseline"), tmp_path / "trace"
    store, where = context.location.open(), context.trial_paths(spec, 0)
    store.put(where.checkpoint, hostile_files(trace)[kind])
    assert run_trial(context, spec, 0).status == "complete"
    assert "checkpoint.pt is damaged" in caplog.text
    assert not trace.exists()
    assert not store.exists(where.checkpoint)


def calls(tree: ast.AST) -> list[ast.Call]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call)]


HARMLESS = {"head_files.py": "exec", "head_contract.py": "torch.load"}
"""A file that the user names to be run, and a head's own copy."""


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_no_file_in_the_package_unpickles_untrusted_data(path: Path) -> None:
    tree = ast.parse(path.read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert not imported & {"pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    for call in calls(tree):
        name, options = ast.unparse(call.func), {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        if name == HARMLESS.get(path.name):
            continue
        if name == "torch.load":
            assert options.get("weights_only") == "True"
        assert options.get("allow_pickle", "False") == "False"
        assert name not in ("eval", "exec", "yaml.load")


@pytest.mark.parametrize("name", VARIANTS)
def test_the_folder_of_a_variant_is_a_single_path_component(name: str) -> None:
    folder = parse_variant(name).folder
    assert "/" not in folder
    assert not folder.startswith(".")


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A file of the user's that others want overwritten."""
    (tmp_path / "victim").write_bytes(b"precious")
    return tmp_path / "victim"


@pytest.fixture
def pack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stored object whose lock and note are in a cache of its own."""
    monkeypatch.setenv("CATDOG_CACHE", str(tmp_path / "cache"))
    return fetch_or_make(LocalStore(tmp_path / "store"), "x/pack", lambda path: path.write_bytes(b"content") and None)


def test_a_link_named_like_a_note_or_a_lock_is_not_written_through(pack: Path, victim: Path) -> None:
    (note,) = (node_cache() / "locks").glob("*.verified")
    digest = note.read_text().split()[0]
    (lock,) = (node_cache() / "locks").glob("*.lock")
    for path in (note, lock):
        path.unlink()
        path.symlink_to(victim)
    assert matches_digest(pack, digest)
    with pytest.raises(UserError, match=rf"^{lock}: cannot be locked"):
        fetch_or_make(LocalStore(pack.parent.parent), "x/pack")
    assert victim.read_bytes() == b"precious"


def test_a_link_named_like_a_temporary_file_is_not_written_through(pack: Path, victim: Path) -> None:
    store = LocalStore(pack.parent.parent)

    def plant(key: str) -> None:
        path = store.local_path(key)
        with scratch_beside(path) as scratch:
            name = scratch.name
        path.with_name(name).symlink_to(victim)

    for key, write in {
        "x/put": lambda: store.put("x/put", b"new"),
        "x/put_new": lambda: store.put_new("x/put_new", b"new"),
        "x/put_file": lambda: store.put_file("x/put_file", pack),
        "x/made": lambda: fetch_or_make(store, "x/made", lambda path: path.write_bytes(b"new") and None),
    }.items():
        plant(key)
        write()
        assert store.get(key) in (b"new", b"content")
    assert victim.read_bytes() == b"precious"


def test_a_note_forged_in_a_folder_that_all_users_share_does_not_let_a_damaged_pack_pass(
    pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (note,) = (node_cache() / "locks").glob("*.verified")
    digest = note.read_text().split()[0]
    pack.write_bytes(b"damaged")
    status = pack.stat()
    shared = tmp_path / "tmp" / f"catdog-locks-{os.getuid()}"
    shared.mkdir(parents=True)
    (shared / note.name).write_text(f"{digest} {status.st_size} {status.st_mtime_ns} {status.st_ino}")
    monkeypatch.setattr(tempfile, "tempdir", str(shared.parent))
    assert not matches_digest(pack, digest)
