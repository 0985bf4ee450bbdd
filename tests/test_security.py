"""Nothing in the store or in weights is executed, and keys stay below the store's prefix."""

import ast
import io
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from catdog.config.head_registry import VARIANTS
from catdog.config.recipe import Recipe
from catdog.config.variants import parse_variant
from catdog.errors import UserError
from catdog.models.backbones.weights import read_weights
from catdog.storage import LocalStore
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


@pytest.mark.parametrize("kind", ["plain", "new", "old"])
def test_hostile_weights_are_not_executed(kind: str, tmp_path: Path) -> None:
    trace, path = tmp_path / "trace", tmp_path / "weights.pth"
    path.write_bytes(hostile_files(trace)[kind])
    with pytest.raises(UserError, match=r"weights.pth"):
        read_weights(path)
    assert not trace.exists()


def test_a_trials_arrays_need_no_pickle(make_context: Callable[..., RunContext], recipe: Recipe) -> None:
    context, spec = make_context(recipe), parse_variant("multi-attention")
    run_trial(context, spec, 0)
    store, where = context.location.open(), context.trial_paths(spec, 0)
    for key in (where.masks, where.predictions, where.attention):
        with np.load(io.BytesIO(store.get(key)), allow_pickle=False) as arrays:
            assert all(arrays[name].dtype != object for name in arrays)


def calls(tree: ast.AST) -> list[ast.Call]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call)]


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_no_file_in_the_package_unpickles_untrusted_data(path: Path) -> None:
    tree = ast.parse(path.read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert not imported & {"pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    for call in calls(tree):
        name, options = ast.unparse(call.func), {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        if name == "torch.load":
            assert options.get("weights_only") == "True"
        assert options.get("allow_pickle", "False") == "False"
        assert name not in ("eval", "exec", "yaml.load")


@pytest.mark.parametrize("name", VARIANTS)
def test_the_folder_of_a_variant_is_a_single_path_component(name: str) -> None:
    folder = parse_variant(name).folder
    assert "/" not in folder
    assert not folder.startswith(".")


@pytest.mark.parametrize("key", ["../x", "run/../../x", "/etc/x"])
def test_a_key_does_not_leave_the_store(key: str, tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    for act in (lambda: store.put(key, b""), lambda: store.get(key), lambda: store.delete(key)):
        with pytest.raises(UserError, match="lies outside the store"):
            act()
    assert not list(tmp_path.rglob("x"))
