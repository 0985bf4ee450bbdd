"""The architecture's rules: data flows one way between rooms, heavy libraries stay in theirs, readers load no torch."""

import ast
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.project import PACKAGE, ROOT

MAY_IMPORT = {
    "errors": "",
    "formatting": "",
    "system": "",
    "config": "",
    "cli": "system config",
    "storage": "system",
    "runs": "config storage",
    "data": "system config storage",
    "models": "config",
    "training": "config runs.history runs.places data.batches models",
    "trial": "system config storage runs data models training",
    "sweep": "system config storage runs data models training trial",
    "inference": "system config storage runs data models trial",
    "analysis": "config.presets storage runs data.trimaps",
    "report": "storage runs analysis",
    "api": "config storage runs analysis report cli sweep inference",
}
"""By room, besides errors and formatting. Rooms that write runs (up to sweep) and rooms that read them never meet."""
ONLY_IN = {
    "ray": "sweep",
    "boto3": "storage",
    "botocore": "storage",
    "matplotlib": "report",
    "jinja2": "report",
    "tyro": "cli config",
    "optuna": "sweep",
    "torch": "data models training trial sweep inference",
    "xarray": "api",
    "onnx": "inference",
}
PRIVATE_RAY = ("ray._private", "ray.tune.execution")


def modules() -> list[Path]:
    return [path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"]


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports_of(path: Path) -> set[str]:
    """Return all imported names, `from a import b` as a.b."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def is_below(name: str, place: str) -> bool:
    return f"{name}.".startswith(f"{place}.")


@pytest.mark.parametrize("path", modules(), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_a_file_imports_only_what_its_room_may(path: Path) -> None:
    room = room_of(path)
    allowed = [room, "errors", "formatting", *MAY_IMPORT[room].split()]
    for name in imports_of(path):
        library, _, inside = name.partition(".")
        if library == "catdog" and inside:
            assert any(is_below(inside, place) for place in allowed), f"{room} imports {name}"
        assert room in ONLY_IN.get(library, room).split(), f"{room} imports {library}"
        if any(is_below(name, private) for private in PRIVATE_RAY):
            assert path.name == "ray_internals.py", f"{path.name} imports {name}"


def test_every_room_has_a_rule_and_few_files_lie_outside_the_rooms() -> None:
    rooms = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert rooms | {"errors", "formatting", "cli", "api"} == MAY_IMPORT.keys()
    assert len([path for path in PACKAGE.iterdir() if path.is_file()]) <= 6


FLOW = (
    "config | storage → runs | data | models → training → trial → sweep",
    "config | storage → runs | data.trimaps  → analysis → report",
    "config | storage → runs | data | models → training → trial → inference",
)


@pytest.mark.parametrize("page", ["README.md", "catdog/__init__.py"])
def test_the_order_of_the_rooms_is_told_everywhere_alike(page: str) -> None:
    text = (ROOT / page).read_text()
    assert all(line in text for line in FLOW)


@pytest.mark.parametrize("line", FLOW)
def test_a_room_may_import_only_what_the_order_has_to_its_left(line: str) -> None:
    stages = [stage.split(" | ") for stage in re.split(" +→ ", line)]
    for number, stage in enumerate(stages):
        left = {room for earlier in stages[:number] for room in earlier} | {"system"}
        for room in stage:
            for place in MAY_IMPORT.get(room, "").split():
                assert any(is_below(place, other) for other in left), f"{room} may import {place}"


def test_the_picture_of_the_rooms_is_drawn_from_these_imports() -> None:
    draw_rooms = runpy.run_path(str(ROOT / "docs" / "draw_rooms.py"))
    assert draw_rooms["draw"]() == (ROOT / "docs" / "rooms.svg").read_text(), "python docs/draw_rooms.py draws it"
    assert all(
        draw_rooms["PLACES"][low][0] < draw_rooms["PLACES"][high][0]
        for low, high in draw_rooms["direct"](draw_rooms["imports"]())
    ), "an arrow leads to the left"


def test_no_test_imports_from_another() -> None:
    for path in (ROOT / "tests").rglob("*.py"):
        wrong = [name for name in imports_of(path) if is_below(name, "tests") and not is_below(name, "tests.helpers")]
        assert not wrong, f"{path} imports {wrong}"


@pytest.mark.parametrize(
    ("job", "arguments", "absent"),
    [
        ("sweep", ["demo", "--variants", "nonsense"], {"torch", "ray", "pandas", "boto3"}),
        ("sweep", ["demo", "--dry-run"], {"torch", "ray", "matplotlib"}),
        ("status", ["--run", "nothing-there"], {"torch", "ray", "matplotlib"}),
        ("aggregate", ["--run", "nothing-there"], {"torch", "ray"}),
        ("compare", ["nothing-there"], {"torch", "ray"}),
        ("publish", ["--run", "nothing-there"], {"torch", "ray"}),
        ("predict", ["--run", "nothing-there", "--variant", "baseline", "photo.jpg"], {"torch", "ray"}),
        ("export", ["--run", "nothing-there", "--variant", "baseline"], {"torch", "ray"}),
    ],
)
def test_a_job_answers_without_loading_libraries_it_does_not_need(
    job: str, arguments: list[str], absent: set[str], tmp_path: Path
) -> None:
    script = (
        "import runpy, sys\n"
        f"sys.argv = ['{job}.py', *{arguments!r}, '--store', {str(tmp_path)!r}]\n"
        "try:\n"
        f"    runpy.run_path({str(ROOT / 'jobs' / f'{job}.py')!r}, run_name='__main__')\n"
        "except SystemExit:\n"
        "    pass\n"
        f"print(sorted({absent!r} & set(sys.modules)))\n"
    )
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert output.splitlines()[-1] == "[]"
