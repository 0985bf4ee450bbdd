"""Arbitrary records and command lines either parse or raise the one documented exception."""

import contextlib
import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from catdog.cli import parse_sweep
from catdog.config.head_registry import VARIANTS
from catdog.config.presets import PRESETS
from catdog.config.recipe import Recipe
from catdog.config.sweep_options import SweepConfig
from catdog.errors import UserError
from catdog.runs.canary import Canary, CanaryStep
from catdog.runs.cost import Launch
from catdog.runs.manifest import Identity, Manifest
from catdog.runs.results import Failure, TrialResult
from catdog.storage.serialization import from_fields, read_json, to_json
from tests.helpers.project import ROOT

IDENTITY = Identity(dataclasses.replace(PRESETS["paper"].recipe, limit_images=24), "0123456789abcdef", "ab" * 32, 2)
LABELS = ("baseline", "multi-attention:num_masks=8")
RESULT = TrialResult(
    "baseline", 3, "complete", 92.5, 90.0, 4, 20, 61.5, "0123456789abcdef", val_loss=0.25, files={"history.csv": "ab"}
)
RECORDS: dict[str, Any] = {
    "result": RESULT,
    "failure": Failure("se", 1, "0123", "RuntimeError", "no", "Traceback", 2, "launch", "host:/log", "2026-07-01"),
    "launch": Launch("a", "2026-07-01", "GPU", 1.01, 3600.0, 2.0, {"baseline": 1.5}, True, "0123", {"torch": "2.14.1"}),
    "canary": Canary(IDENTITY, "H100", 10**11, (CanaryStep("se", None, 7000.0, 2e4, 10**9), CanaryStep("x", "no"))),
    "manifest": Manifest(
        run="demo",
        preset="paper",
        identity=IDENTITY,
        variants=LABELS,
        seeds={LABELS[0]: (0, 1), LABELS[1]: (0,)},
        created_at="2026-07-01",
        commands=(("python", "jobs/sweep.py"), ()),
        versions={"python": "3.11"},
        code=None,
    ),
    "identity": IDENTITY,
}  # fmt: skip
ONE_LINE = r"^[^\n]+\Z"
PUBLISHED = sorted((ROOT / "results" / "published").glob("*/manifest.json"))
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text()),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(), inner, max_size=4)),
    max_leaves=12,
)
WORDS = [
    *(f"--{field.name.replace('_', '-')}" for kind in (SweepConfig, Recipe) for field in dataclasses.fields(kind)),
    *VARIANTS,
    *("demo", "paper", "None", "True", "0", "-1", "3", "0.5", "1e999", "nan", "inf", "", "--", "-", "=", "--seeds=3"),
    *("--no-flip", "[red]", "[/]", "{}", "%s", "9" * 5000, "x" * 300, f"--{'x' * 300}", "🐈", "a\nb", "\x1b[0m"),
]


def read(name: str, data: bytes) -> Any:
    if name == "identity":
        return from_fields(Identity, read_json(data))
    return type(RECORDS[name]).from_json(data)


def signed(content: Any) -> bytes:
    """Return the JSON of a result with a valid sha256 of its content."""
    return to_json(content | {"sha256": hashlib.sha256(to_json(content)).hexdigest()})


def written(name: str, content: Any) -> bytes:
    return signed(content) if name == "result" and isinstance(content, dict) else json.dumps(content).encode()


def content_of(name: str) -> dict[str, Any]:
    content = json.loads(to_json(RECORDS[name]))
    assert isinstance(content, dict)
    return content


def places(content: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths of all values within parsed JSON."""
    if not isinstance(content, dict | list):
        return []
    items: Any = content.items() if isinstance(content, dict) else enumerate(content)
    return [place for key, value in items for place in ((*path, key), *places(value, (*path, key)))]


def replaced(content: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    copy = dict(content) if isinstance(content, dict) else list(content)
    copy[path[0]] = replaced(content[path[0]], path[1:], value)
    return copy


@st.composite
def nearly_right(draw: st.DrawFn, name: str) -> Any:
    """A record's content with one value replaced by an arbitrary one, or with a field added or removed."""
    content = content_of(name)
    change = draw(st.sampled_from(["value", "value", "value", "less", "more"]))
    if change == "value":
        return replaced(content, draw(st.sampled_from(places(content))), draw(JSON))
    if change == "less":
        del content[draw(st.sampled_from(list(content)))]
        return content
    return content | {draw(st.text()): draw(JSON)}


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_survives_json(name: str) -> None:
    record = RECORDS[name]
    data = record.to_json() if hasattr(record, "to_json") else to_json(record)
    assert read(name, data) == record


@pytest.mark.parametrize("name", RECORDS)
@given(st.data())
def test_any_json_is_a_record_or_is_rejected(name: str, data: st.DataObject) -> None:
    content = data.draw(st.one_of(JSON, nearly_right(name)))
    with contextlib.suppress(ValueError):
        record = read(name, written(name, content))
        assert type(record) is type(RECORDS[name])


@pytest.mark.parametrize("name", [name for name in RECORDS if name != "identity"])
@given(st.binary())
@example(b"[" * 100_000)
@example(b'{"seed": ' * 100_000)
@example(b"\xff")
@example(b"9" * 5000)
def test_any_bytes_are_a_record_or_are_rejected(name: str, data: bytes) -> None:
    with pytest.raises(ValueError, match=ONE_LINE):
        read(name, data)


@pytest.mark.parametrize("name", [name for name in RECORDS if name != "identity"])
@given(st.data())
def test_a_truncated_record_is_rejected(name: str, data: st.DataObject) -> None:
    whole = written(name, content_of(name))
    end = data.draw(st.integers(0, len(whole.rstrip()) - 1))
    with pytest.raises(ValueError, match=ONE_LINE):
        read(name, whole[:end])


WRONG_TYPES: list[tuple[str, tuple[Any, ...], Any]] = [
    *(("result", ("seed",), value) for value in (True, 3.0, "3", None, [3])),
    *(("result", ("val_accuracy",), value) for value in ("x", True, [92.5], {})),
    *(("result", ("seconds",), value) for value in (None, "1")),
    *(("result", ("status",), value) for value in ("done", None, 1, ["complete"])),
    *(("result", ("files",), value) for value in (None, [], {"history.csv": 1})),
    ("result", ("variant",), 5),
    ("result", ("best_epoch",), 4.5),
    *(("result", ("epochs",), value) for value in (None, -1, 10**40)),
    *(("result", ("head_parameters",), value) for value in (-1, 10**40)),
    *(("result", ("test_accuracy",), value) for value in (-0.1, 100.1, None)),
    *(("result", ("status",), value) for value in ("failed", "missing")),
    *(("result", ("files",), {name: "ab"}) for name in ("../../x.csv", "/etc/passwd.x", "a/b.csv", "", "x")),
    *(("failure", ("attempts",), value) for value in ("2", True, None, 1.5)),
    ("failure", ("message",), None),
    *(("launch", ("unit",), value) for value in ("TPU", None, ["GPU"])),
    *(("launch", ("busy_hours",), value) for value in (None, [], {"se": "1"})),
    *(("launch", (name,), -1.0) for name in ("seconds", "unit_hours", "hourly_price")),
    ("launch", ("busy_hours", "baseline"), 1e300),
    ("launch", ("closed",), 1),
    ("launch", ("hourly_price",), "1.01"),
    *(("launch", ("seconds",), value) for value in (float("nan"), float("inf"), 10**400)),
    *(("canary", ("steps",), value) for value in (None, {}, [None], [{"variant": "se"}])),
    ("canary", ("steps", 0, "peak_memory_bytes"), "much"),
    *(("canary", ("steps", 0, "train_images_per_second"), value) for value in (None, 0.0, -5.0, 1e-320)),
    ("canary", ("identity", "recipe", "epochs"), "many"),
    *(("manifest", ("seeds",), value) for value in ([], {}, {"baseline": [0]}, {LABELS[0]: "01", LABELS[1]: [0]})),
    *(("manifest", ("seeds", "baseline"), value) for value in ([], [0] * 50, [-1], [2**63])),
    *(("manifest", ("variants",), value) for value in ([], [LABELS[0]] * 2, [LABELS[0]], [*LABELS, "se"])),
    *(("manifest", ("seeds", "baseline", 0), value) for value in ("0", True, None, 0.0)),
    *(("manifest", ("variants",), value) for value in ("baseline", None, ["unknown"], [1])),
    ("manifest", ("run",), None),
    ("manifest", ("commands",), "python"),
    ("manifest", ("commands", 0), "python"),
    ("manifest", ("identity", "threads"), "2"),
    *(("manifest", ("identity", "recipe", "epochs"), value) for value in (0, "many")),
    ("manifest", ("identity", "recipe", "precision"), "auto"),
    *(("identity", ("recipe",), value) for value in (None, [], {"epochs": 0}, {"colour": "red"})),
    *(("identity", ("recipe", "epochs"), value) for value in (0, "3", True, 3.0, None)),
    *(("identity", ("recipe", "precision"), value) for value in ("auto", "float8", None)),
    *(("identity", ("recipe", "freeze"), value) for value in (0, "no", None)),
    *(("identity", ("recipe", "learning_rate"), value) for value in ("fast", None, float("nan"), True)),
    ("identity", ("fingerprint",), None),
]


@pytest.mark.parametrize(("name", "path", "value"), WRONG_TYPES, ids=lambda value: str(value)[:30])
def test_a_field_of_the_wrong_type_is_rejected(name: str, path: tuple[Any, ...], value: Any) -> None:
    with pytest.raises(ValueError, match=ONE_LINE) as error:
        read(name, written(name, replaced(content_of(name), path, value)))
    assert len(str(error.value)) < 400


@pytest.mark.parametrize("value", ["x", True, float("inf")])
def test_a_rejection_names_the_field(value: object) -> None:
    content = content_of("result") | {"val_accuracy": value, "sha256": ""}
    with pytest.raises(ValueError, match=r"val_accuracy is .*, not a number or null"):
        read("result", json.dumps(content).encode())


def test_an_integer_may_stand_in_for_a_float_and_stays_an_integer() -> None:
    """Config hashes cover the digits: 1 must not become 1.0."""
    content = replaced(content_of("identity"), ("recipe", "crop_scale"), 1)
    assert str(read("identity", json.dumps(content).encode()).recipe.crop_scale) == "1"


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.parent.name)
def test_a_published_manifest_can_be_read(path: Path) -> None:
    assert Manifest.from_json(path.read_bytes()).planned()


TEXT = st.text().filter(lambda word: word not in ("-h", "--help"))


@given(st.sampled_from(list(PRESETS)), st.lists(st.one_of(st.sampled_from(WORDS), TEXT), max_size=6))
@example("demo", ["--epochs", "[/red]"])
@example("demo", ["--vary", "[/red]"])
@example("demo", ["--seeds", "9" * 5000])
@example("demo", ["--epochs", "9" * 5000])
@example("demo", ["--variants", "[/x]", "\x1b[31m"])
def test_any_arguments_give_a_sweep_or_a_user_error(preset: str, arguments: list[str]) -> None:
    with contextlib.suppress(UserError):
        config = parse_sweep([preset, *arguments], "sweep.py")
        assert isinstance(config, SweepConfig)
        assert config.seed_list
        assert config.variant_specs


@given(st.lists(TEXT, max_size=3))
def test_any_text_instead_of_a_preset_is_a_mistake_that_lists_the_presets(arguments: list[str]) -> None:
    if arguments and arguments[0] in PRESETS:
        return
    with pytest.raises(UserError, match="demo, pets-frozen, pets-cpu, paper"):
        parse_sweep(arguments, "sweep.py")


VALUES: dict[str, st.SearchStrategy[Any]] = {
    "epochs": st.integers(1, 100_000),
    "batch_size": st.integers(1, 65_536),
    "learning_rate": st.floats(1e-9, 99),
    "crop_scale": st.floats(1e-6, 1),
    "label_smoothing": st.floats(0, 0.999),
    "split_seed": st.integers(0, 2**32 - 1),
    "vary": st.sampled_from(["all", "init", "order", "augment", "dropout", "split"]),
    "limit_images": st.one_of(st.none(), st.integers(1, 10_000)),
}


@given(st.fixed_dictionaries({}, optional=VALUES))
def test_every_legal_setting_is_parsed_unchanged(settings: dict[str, Any]) -> None:
    arguments = [word for name, value in settings.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    recipe = parse_sweep(["demo", *arguments], "sweep.py").recipe
    assert {name: getattr(recipe, name) for name in settings} == settings
