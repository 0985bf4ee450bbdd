"""Files of heads: run once, with the modules beside them, and carried as text; a mistake in one is one line."""

import dataclasses
import importlib
import os
import pickle
import sys
from pathlib import Path

import pytest

from catdog.cli import parse_sweep
from catdog.config.head_files import HeadFile, load_head_files, read_head_file
from catdog.config.head_registry import EXTERNAL
from catdog.config.presets import PRESETS
from catdog.config.recipe_file import named_config
from catdog.config.variants import parse_variant
from catdog.errors import UserError
from catdog.runs.manifest import Identity, Manifest
from catdog.storage import StoreLocation
from catdog.sweep.plan import extend_manifest, whole_run_yaml
from catdog.trial.context import RunContext

HEAD = """
from catdog.models import Parameter, register_head

@register_head("{name}", Parameter("reduction", {default}, minimum=1))
class Head:
    def __init__(self, in_channels, num_classes, reduction):
        self.made_with = reduction
"""


IDENTITY = Identity(dataclasses.replace(PRESETS["demo"].recipe, precision="float32"), "0" * 16, None, 1)

pytestmark = pytest.mark.usefixtures("no_external_heads")


@pytest.fixture(autouse=True)
def path_of_this_test(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))


def write(path: Path, text: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return str(path)


def refusal(path: str) -> str:
    with pytest.raises(UserError) as error:
        load_head_files([path])
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_head_is_a_variant_once_its_file_is_loaded(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.py", HEAD.format(name="mine", default=16))
    config = parse_sweep(["demo", "--import", path, "--variants", "baseline", "mine:reduction=4", "mine"], "sweep.py")
    assert [spec.label for spec in config.variant_specs] == ["baseline", "mine:reduction=4", "mine"]
    assert config.variant_specs[1].arguments == {"reduction": 4}
    for text, said in (
        ("mine:reduction=0", r"reduction=0 is outside \[1, ∞\)"),
        ("mine:kernel=1", "mine has reduction"),
    ):
        with pytest.raises(UserError, match=said):
            parse_variant(text)
    with pytest.raises(UserError, match=r"unknown variant 'other': choose from baseline, .*, mine$"):
        parse_variant("other")


def test_what_a_heads_docstring_says_first_goes_into_the_runs_plan(tmp_path: Path) -> None:
    text = HEAD.format(name="mine", default=16).replace(
        ":\n    def", ':\n    """One mask.\n\n    Mine."""\n\n    def', 1
    )
    config = parse_sweep(
        ["demo", "--import", write(tmp_path / "mine.py", text), "--variants", "mine", "se"], "sweep.py"
    )
    manifest = extend_manifest(None, config, IDENTITY, ())
    assert manifest.about("mine") == "One mask."
    EXTERNAL.clear()
    assert Manifest.from_json(manifest.to_json()).about("mine") == "One mask."
    assert manifest.about("se") == "weights for channels, no mask"
    assert manifest.about("attention:masks=flat") == "control: each mask replaced by its mean"


def test_several_files_may_be_named_and_a_name_is_taken_once(tmp_path: Path) -> None:
    one = write(tmp_path / "one.py", HEAD.format(name="one", default=1))
    two = write(tmp_path / "two.py", HEAD.format(name="two", default=2))
    config = parse_sweep(["demo", "--import", one, "--import", two, "--variants", "one", "two"], "sweep.py")
    assert [spec.arguments["reduction"] for spec in config.variant_specs] == [1, 2]
    load_head_files([two])
    assert list(EXTERNAL) == ["two"]
    load_head_files([])
    assert list(EXTERNAL) == ["two"], "a sweep without files of its own changes nothing"
    again = write(tmp_path / "again.py", HEAD.format(name="two", default=3))
    with pytest.raises(UserError, match=r"again\.py: head 'two': there is a variant of this name"):
        load_head_files([two, again])
    load_head_files([again])
    with pytest.raises(UserError, match=r"again\.py: head 'two' is in another file too: rename one"):
        load_head_files([two, again])


def test_the_same_file_twice_is_one_and_its_name_and_mark_do_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "heads.txt"
    path.write_bytes(b"\xef\xbb\xbf" + HEAD.format(name="marked", default=1).encode())
    (file,) = load_head_files([str(path), f"{tmp_path}/./heads.txt"])
    assert EXTERNAL["marked"].code == file.digest
    commented = HeadFile(file.name, ((file.name, '"""Heads."""\n# mine\n' + file.sources[0][1]),))
    assert commented.digest == file.digest


def test_modules_of_one_name_in_two_folders_are_a_mistake(tmp_path: Path) -> None:
    paths = []
    for name in ("one", "two"):
        write(tmp_path / name / "sizes.py", f"SIZE = '{name}'\n")
        paths.append(
            write(tmp_path / name / f"{name}.py", "from sizes import SIZE\n" + HEAD.format(name=name, default=1))
        )
    with pytest.raises(UserError, match=r"two\.py: imports sizes\.py, and so does .*one\.py, with other code"):
        load_head_files(paths)


def test_a_copy_that_somebody_changed_is_replaced_and_none_lies_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CATDOG_CACHE", str(tmp_path / "cache"))
    file = read_head_file(write(tmp_path / "mine.py", HEAD.format(name="mine", default=1)))
    copy = tmp_path / "cache" / "heads" / file.digest / "mine.py"
    write(copy, "raise SystemExit('changed')\n")
    recipe = dataclasses.replace(PRESETS["demo"].recipe, precision="float32")
    identity = Identity(recipe, "0" * 16, None, 1)
    RunContext("x", StoreLocation(str(tmp_path)), identity, "none", head_files=(file,)).load_heads()
    assert copy.read_text() == file.sources[0][1]
    assert EXTERNAL["mine"].code == file.digest
    for name in ("../mine.py", "/tmp/mine.py", "a/../../mine.py"):
        with pytest.raises(ValueError, match="is no path below the file's folder"):
            HeadFile("mine.py", ((name, ""),))


def test_an_edited_file_is_run_again_with_what_it_imports(tmp_path: Path) -> None:
    path = write(
        tmp_path / "heads" / "edited.py", "from edited_size import SIZE\n" + HEAD.format(name="edited", default="SIZE")
    )
    write(tmp_path / "heads" / "edited_size.py", "SIZE = 3\n")
    (first,) = load_head_files([path])
    assert parse_variant("edited").arguments == {"reduction": 3}
    write(tmp_path / "heads" / "edited_size.py", "SIZE = 55\n")
    (second,) = load_head_files([path])
    assert parse_variant("edited").arguments == {"reduction": 55}
    assert first.digest != second.digest


@pytest.mark.parametrize("module", ["timed_size.py", "timed_package/__init__.py", "timed_folder/inner.py"])
def test_bytecode_that_is_older_than_an_edit_is_not_run(
    module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    name = module.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    text = f"from {name} import SIZE\n" + HEAD.format(name="timed", default="SIZE")
    path, edited = write(tmp_path / "timed.py", text), tmp_path / module
    for size in (3, 5):  # within a second, and without another number of bytes
        write(edited, f"SIZE = {size}\n")
        os.utime(edited, (1, 1))
        load_head_files([path])
        assert parse_variant("timed").arguments == {"reduction": size}


def test_two_files_may_import_one_module_here_and_on_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "shared_size.py", "SIZE = 3\n")
    text = "from shared_size import SIZE\n"
    paths = [write(tmp_path / f"{name}.py", text + HEAD.format(name=name, default="SIZE")) for name in ("one", "two")]
    files = load_head_files(paths)
    monkeypatch.setenv("CATDOG_CACHE", str(tmp_path / "cache"))
    RunContext("x", StoreLocation(""), IDENTITY, "none", head_files=files).load_heads()
    assert list(EXTERNAL) == ["one", "two"]


def test_a_file_gets_the_modules_beside_it_whatever_was_loaded_before(tmp_path: Path) -> None:
    text = "from local_size import SIZE\n" + HEAD.format(name="local", default="SIZE")
    folders = {"a": 3, "b": 5}
    for folder, size in folders.items():
        write(tmp_path / folder / "local.py", text + f"# {folder}\n")
        write(tmp_path / folder / "local_size.py", f"SIZE = {size}\n")
    for folder, edit in (("a", ""), ("b", ""), ("a", "EDITED = 1\n")):
        with (tmp_path / folder / "local.py").open("a") as file:
            file.write(edit)
        load_head_files([file.name])
        assert parse_variant("local").arguments == {"reduction": folders[folder]}


def test_the_modules_beside_a_file_travel_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "import json\nimport travel_a\nfrom travel_pack.deep import inner\n" + HEAD.format(
        name="travels", default="inner.SIZE"
    )
    path = write(tmp_path / "home" / "travels.py", text)
    write(tmp_path / "home" / "travel_a.py", "from travel_pack import deep\n")
    write(tmp_path / "home" / "travel_pack" / "__init__.py", "")
    write(tmp_path / "home" / "travel_pack" / "deep" / "__init__.py", "from . import inner\n")
    write(tmp_path / "home" / "travel_pack" / "deep" / "inner.py", "SIZE = 9\n")
    write(tmp_path / "home" / "json.py", "")
    write(tmp_path / "home" / "not_imported.py", "raise SystemExit\n")
    file = read_head_file(path)
    names = {name for name, _ in file.sources}
    assert names == {
        "travels.py", "travel_a.py", "json.py",
        "travel_pack/__init__.py", "travel_pack/deep/__init__.py", "travel_pack/deep/inner.py",
    }  # fmt: skip
    monkeypatch.setenv("CATDOG_CACHE", str(tmp_path / "cache"))
    recipe = dataclasses.replace(PRESETS["demo"].recipe, precision="float32")
    context = RunContext(
        "x", StoreLocation(str(tmp_path)), Identity(recipe, "0" * 16, None, 1), "none", head_files=(file,)
    )
    assert isinstance(hash(context), int)
    (tmp_path / "home").rename(tmp_path / "gone")
    there: RunContext = pickle.loads(pickle.dumps(context))
    there.load_heads()
    assert parse_variant("travels").arguments == {"reduction": 9}
    assert sys.modules["travel_pack.deep.inner"].__file__ == str(
        tmp_path / "cache" / "heads" / file.digest / "travel_pack" / "deep" / "inner.py"
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def f(:\n", "cannot be read as Python (invalid syntax"),
        ("import torch\n\nraise ValueError('no\\nway')\n", "ValueError: no, line 3"),
        ("import nothing_of_this_name\n", "ModuleNotFoundError: No module named 'nothing_of_this_name', line 1"),
        ("raise SystemExit(3)\n", "SystemExit: 3, line 1"),
        (HEAD.format(name="baseline", default=1), "head 'baseline': there is a variant of this name: choose another"),
        (HEAD.format(name="x", default=0), "reduction=0 is outside [1, ∞)"),
        (
            HEAD.format(name="x", default="()"),
            "head 'x': reduction: not a parameter with a number or text as its default",
        ),
        (HEAD.format(name="My Head", default=1), "head 'My Head': use small letters, digits and '-'"),
        (
            HEAD.format(name="x", default=1).replace("num_classes, red", "classes, red"),
            "must take in_channels, num_classes, reduction",
        ),
        (HEAD.format(name="x", default=1).replace("reduction", "stages"), "stages: names places of the backbone: give"),
        (
            HEAD.format(name="x", default="'all'").replace("reduction", "stages").replace(", minimum=1", ""),
            "must take in_channels, num_classes, stages, places by keyword",
        ),
    ],
)
def test_a_file_with_a_fault_is_one_line(text: str, said: str, tmp_path: Path) -> None:
    path = write(tmp_path / "faulty.py", text)
    assert refusal(path).startswith(f"--import {path}: ")
    assert said in refusal(path)
    assert not EXTERNAL


def test_a_file_that_is_none_is_a_mistake(tmp_path: Path) -> None:
    assert "no such file; give a Python file (of a submitted job: in its working directory)" in refusal("nowhere.py")
    assert "a folder; give a Python file" in refusal(str(tmp_path))
    (tmp_path / "latin.py").write_bytes(b"x = '\xff'\n")
    assert "cannot be read as Python" in refusal(str(tmp_path / "latin.py"))
    assert "more than 1000 kB of code" in refusal(write(tmp_path / "long.py", "#" * 1_000_001))


def test_a_run_is_read_without_the_code_of_its_heads(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.py", HEAD.format(name="mine", default=16))
    recipe = dataclasses.replace(PRESETS["demo"].recipe, precision="float32")
    config = dataclasses.replace(PRESETS["demo"], imports=(path,), variants=("baseline", "mine:reduction=8"), seeds="2")
    manifest = extend_manifest(None, config, Identity(recipe, "0" * 16, None, 1), ())
    load_head_files([write(tmp_path / "other.py", HEAD.format(name="other", default=1))])
    assert "mine" not in EXTERNAL
    read = Manifest.from_json(manifest.to_json())
    assert read == manifest
    assert read.spec("mine:reduction=8").arguments == {"reduction": 8}
    write(tmp_path / "mine.py", HEAD.format(name="mine", default=4))
    changed = dataclasses.replace(PRESETS["demo"], imports=(path,), variants=("mine",))
    with pytest.raises(UserError, match="run 'demo' has a head 'mine' with other parameters"):
        extend_manifest(manifest, changed, manifest.identity, ())


@pytest.mark.parametrize("edited", [HEAD.format(name="mine", default=4), HEAD.format(name="other", default=1), "1 +"])
def test_a_file_that_is_edited_while_a_command_runs_is_not_read_again(edited: str, tmp_path: Path) -> None:
    path = write(tmp_path / "mine.py", HEAD.format(name="mine", default=16))
    config = parse_sweep(["demo", "--import", path, "--variants", "baseline", "mine"], "sweep.py")
    (before,) = config.head_files
    write(tmp_path / "mine.py", edited)
    later = dataclasses.replace(config, variants=("mine:reduction=8",))  # as the next round of a tuning
    assert later.head_files == (before,)
    assert later.variant_specs[0].arguments == {"reduction": 8}
    assert extend_manifest(extend_manifest(None, config, IDENTITY, ()), later, IDENTITY, ()).imports == {
        before.digest: path
    }


@pytest.mark.parametrize("moved", [False, True])
def test_the_recipe_of_a_run_names_its_files_of_heads_also_after_a_launch_without_them(
    moved: bool, tmp_path: Path
) -> None:
    path = write(tmp_path / "mine.py", HEAD.format(name="mine", default=16))
    config = dataclasses.replace(PRESETS["demo"], imports=(path,), variants=("baseline", "mine"))
    manifest = extend_manifest(None, config, IDENTITY, ())
    if moved:
        os.remove(path)
        path = write(tmp_path / "heads.py", HEAD.format(name="mine", default=16) + "SIZE = 3\n")
        manifest = extend_manifest(manifest, dataclasses.replace(config, imports=(path,)), IDENTITY, ())
    config = dataclasses.replace(PRESETS["demo"], variants=("baseline",), seeds="5")
    manifest = extend_manifest(Manifest.from_json(manifest.to_json()), config, IDENTITY, ())
    EXTERNAL.clear()
    whole = named_config(write(tmp_path / "recipe.yaml", whole_run_yaml(config, manifest)))
    assert (whole.imports, whole.variants, whole.seeds) == ((path,), ("baseline", "mine"), "5")


def test_an_installed_package_offers_heads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "offered_heads.py", HEAD.format(name="offered", default=2))
    write(tmp_path / "offered-1.0.dist-info" / "METADATA", "Metadata-Version: 2.1\nName: offered\nVersion: 1.0\n")
    write(
        tmp_path / "offered-1.0.dist-info" / "entry_points.txt",
        "[catdog.heads]\noffered = offered_heads\nlost = no_such\n",
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    assert parse_variant("offered").arguments == {"reduction": 2}
    load_head_files([write(tmp_path / "one.py", HEAD.format(name="one", default=1))])
    assert parse_variant("offered:reduction=5").label == "offered:reduction=5"
    with pytest.raises(UserError, match=r"variant 'lost': no_such cannot be imported \(No module named 'no_such'\)"):
        parse_variant("lost")
