"""Files whose sha256 is right and whose content is not: named, left out of every table, and made again.

A store is shared: what it holds may be another version's, edited by hand, or hostile.
"""

import contextlib
import dataclasses
import io
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catdog.analysis.run_data import read_content
from catdog.analysis.tables import comparison_table
from catdog.config.recipe import Recipe
from catdog.errors import UserError
from catdog.runs.history import HEALTH
from catdog.runs.paths import RunPaths
from catdog.runs.results import TrialResult, best_run
from catdog.runs.status import missing_trials, open_run
from catdog.runs.trial_files import delete_outvoted
from catdog.storage import MemoryStore, sha256
from catdog.storage.serialization import npz_bytes, to_json
from tests.helpers.made_runs import make_run, put_trimaps

LABELS = ["baseline", "multi-attention"]
SEEDS = range(3)
WHERE = RunPaths("made").trial("multi-attention", 1)
FILES = ("history.csv", "masks.npz", "predictions.npz", "attention.npz")


@pytest.fixture(scope="module")
def made() -> dict[str, bytes]:
    """The objects of a small run."""
    store = MemoryStore()
    put_trimaps(store, make_run(store, LABELS, SEEDS, epochs=3, test_images=40, classes=5), np.eye(64, dtype=bool))
    return store.objects


def a_copy(objects: dict[str, bytes]) -> MemoryStore:
    store = MemoryStore()
    store.objects = dict(objects)
    return store


def put_sealed(store: MemoryStore, name: str, data: bytes) -> None:
    """Replace one of the trial's files and write its new sha256 into result.json, as an attacker would."""
    store.put(f"{WHERE.folder}/{name}", data)
    result = TrialResult.from_json(store.get(WHERE.result))
    store.put(WHERE.result, dataclasses.replace(result, files={**result.files, name: sha256(data)}).to_json())


def put_result(store: MemoryStore, **changes: Any) -> None:
    result = TrialResult.from_json(store.get(WHERE.result))
    store.put(WHERE.result, dataclasses.replace(result, **changes).to_json())


def arrays(store: MemoryStore, name: str) -> dict[str, Any]:
    with np.load(io.BytesIO(store.get(f"{WHERE.folder}/{name}"))) as content:
        return dict(content)


def with_array(name: str, array: str, change: Callable[[Any], Any]) -> Callable[[MemoryStore], None]:
    def attack(store: MemoryStore) -> None:
        content = arrays(store, name)
        put_sealed(store, name, npz_bytes(**{**content, array: change(content[array])}))

    return attack


def with_column(column: int, cell: bytes) -> Callable[[MemoryStore], None]:
    def change(data: bytes) -> bytes:
        cells = [line.split(b",") for line in data.splitlines()]
        for line in cells[1:]:
            line[column] = cell
        return b"\n".join(b",".join(line) for line in cells)

    return with_history(change)


def with_stage_health(cell: bytes) -> Callable[[MemoryStore], None]:
    def change(data: bytes) -> bytes:
        header, *rows = data.splitlines()
        names = b",".join(f"{name}@layer3".encode() for name in HEALTH)
        return b"\n".join([header + b"," + names, *(row + b"," + b",".join([cell] * len(HEALTH)) for row in rows)])

    return with_history(change)


def with_history(change: Callable[[bytes], bytes]) -> Callable[[MemoryStore], None]:
    return lambda store: put_sealed(store, "history.csv", change(store.get(WHERE.history)))


ATTACKS: dict[str, tuple[Callable[[MemoryStore], None], str]] = {
    "history empty": (with_history(lambda data: b""), "history.csv is damaged: No columns to parse"),
    "history binary": (with_history(lambda data: b"\x89PNG\xff"), "history.csv is damaged"),
    "an epoch twice": (with_history(lambda data: data + data.splitlines()[-1]), "epochs are not 0, 1, 2"),
    "an epoch less": (with_history(lambda data: b"\n".join(data.splitlines()[:-1])), "it has 2 epochs, not the 3"),
    "an infinite loss": (with_column(1, b"inf"), "a loss, a learning rate or a time is not finite"),
    "an infinite overlap in the chosen epoch": (with_column(11, b"inf"), "is not that of result.json"),
    "a chosen epoch that was not the best": (lambda store: put_result(store, best_epoch=0), "epoch 0 is not its best"),
    "an accuracy that history does not have": (lambda store: put_result(store, val_accuracy=99.5), "is not that of"),
    "more epochs than planned": (lambda store: put_result(store, epochs=500), "a trial of 3 epochs is not complete"),
    "a seed that is lost quietly": (lambda store: put_result(store, status="diverged"), "or of a diverged trial"),
    "1e300 seconds": (lambda store: put_result(store, seconds=1e300), "seconds is 1e+300"),
    "masks in double precision": (with_array("masks.npz", "masks", lambda x: x.astype(float) + 1e300), "has dtype"),
    "masks of another rank": (with_array("masks.npz", "masks", lambda masks: masks[0]), "masks has shape"),
    "masks of fewer epochs": (
        lambda store: put_sealed(
            store,
            "masks.npz",
            npz_bytes(**{k: v[:2] if len(v) == 3 else v for k, v in arrays(store, "masks.npz").items()}),
        ),
        "it has 2 epochs, not the 3",
    ),
    "masks of a place that is a path": (
        lambda store: put_sealed(
            store,
            "masks.npz",
            npz_bytes(**{name.replace("masks", "masks@../x"): one for name, one in arrays(store, "masks.npz").items()}),
        ),
        "'../x' is no name of a stage",
    ),
    "an infinite overlap in a stage": (with_stage_health(b"inf"), "is not that of result.json"),
    "other probe images": (with_array("masks.npz", "images", lambda images: 255 - images), "about other images"),
    "predictions of fewer images": (with_array("predictions.npz", "test_logits", lambda x: x[:-1]), "has shape"),
    "NaN as logits": (with_array("predictions.npz", "test_logits", lambda x: x * np.float16("nan")), "has NaN"),
    "labels + 1000": (with_array("predictions.npz", "test_labels", lambda x: x + 1000), "none of the 5 classes"),
    "labels shifted": (with_array("predictions.npz", "test_labels", lambda x: (x + 1) % 5), "its accuracy is"),
    "images renamed": (with_array("predictions.npz", "test_images", lambda x: x[::-1]), "about other images"),
    "attention on other images": (with_array("attention.npz", "test_images", lambda x: x[::-1]), "about other images"),
    "attention without rows": (with_array("attention.npz", "test_masks", lambda x: x[:0]), "has shape"),
    "a result of another seed": (lambda store: put_result(store, seed=99), "it is about multi-attention seed 99"),
    "a result of another variant": (lambda store: put_result(store, variant="se"), "it is about se seed 1"),
    "10**40 parameters": (lambda store: put_result(store, head_parameters=10**40), "head_parameters is 1000"),
    "a device that moves the cursor": (lambda store: put_result(store, device="\x1b[2J"), "device holds control char"),
    "a host that is no text": (lambda store: put_result(store, worker_host="\ud800"), "worker_host holds control char"),
    "no predictions named": (lambda store: put_result(store, files={}), "history.csv is missing"),
    "a file outside the trial": (lambda store: put_result(store, files={"../../../x": "ab"}), "files names '../.."),
}  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS)
def test_hostile_content_is_named_and_left_out(attack: str, made: dict[str, bytes]) -> None:
    store = a_copy(made)
    act, words = ATTACKS[attack]
    act(store)
    run_status = open_run(store, "made")
    (line,) = missing_trials(run_status)
    assert words in line
    assert "made/trials/multi-attention/seed-01" in line
    assert comparison_table(run_status)["n"].tolist() == [3, 2]
    assert len(read_content(store, run_status).histories) == 5


MANIFESTS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "another run's": (lambda content: content.update(run="victim"), "it is about the run 'victim'"),
    "a seed twice": (
        lambda content: content["seeds"].update(baseline=[0] * 50),
        "seeds of baseline are none, too many, listed twice",
    ),
    "no variants": (lambda content: content.update(variants=[], seeds={}), "no variants"),
    "nothing": (lambda content: content.clear(), "it lacks code, commands"),
    "an unknown variant": (
        lambda content: content.update(variants=["new"], seeds={"new": [0]}),
        "unknown variant 'new': choose from",
    ),
}


@pytest.mark.parametrize("attack", MANIFESTS)
def test_a_manifest_that_cannot_be_used_is_one_line(attack: str, made: dict[str, bytes]) -> None:
    store, key = a_copy(made), RunPaths("made").manifest
    content = json.loads(store.get(key))
    act, words = MANIFESTS[attack]
    act(content)
    store.put(key, to_json(content))
    with pytest.raises(UserError, match=rf"^{key} cannot be used \([^\n]*{words}[^\n]*restore it"):
        open_run(store, "made")


def test_a_fingerprint_that_leads_out_of_the_store_is_one_line(made: dict[str, bytes]) -> None:
    store, key = a_copy(made), RunPaths("made").manifest
    content = json.loads(store.get(key))
    content["identity"]["fingerprint"] = "../../etc"
    store.put(key, to_json(content))
    with pytest.raises(UserError, match="lies outside the store"):
        read_content(store, open_run(store, "made"))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=5), children, max_size=3),
    max_leaves=5,
)
DTYPES = ("f2", "f8", "u1", "i8", "?", "U3", "S2", "c8", "M8[s]")


@st.composite
def strange_arrays(draw: st.DrawFn) -> Any:
    shape, dtype = draw(st.lists(st.integers(0, 4), max_size=5)), draw(st.sampled_from(DTYPES))
    return draw(st.sampled_from([np.zeros, np.ones]))(shape, dtype)


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_whatever_a_store_holds_a_report_is_built_or_one_line_says_why(
    made: dict[str, bytes], data: st.DataObject
) -> None:
    store = a_copy(made)
    name = data.draw(st.sampled_from([*FILES, "result.json", "manifest.json", "launches", "claim"]))
    if name.endswith(".npz"):
        content = arrays(store, name)
        changed = data.draw(st.dictionaries(st.sampled_from(list(content)), strange_arrays(), min_size=1))
        put_sealed(store, name, npz_bytes(**{**content, **changed}))
    elif name == "history.csv":
        cells = [line.split(b",") for line in store.get(WHERE.history).splitlines()]
        row, column = data.draw(st.integers(0, 3)), data.draw(st.integers(0, 13))
        cells[row][column] = data.draw(st.binary(max_size=6))
        put_sealed(store, name, b"\n".join(b",".join(line) for line in cells))
    elif name == "result.json":
        field = data.draw(st.sampled_from([field.name for field in dataclasses.fields(TrialResult)]))
        put_result(store, **{field: data.draw(JSON)})
    else:
        key = RunPaths("made").manifest if name == "manifest.json" else RunPaths("made").launch("first")
        content = json.loads(store.get(key))
        content[data.draw(st.sampled_from(list(content)))] = data.draw(JSON)
        store.put(key, to_json(content))
    with contextlib.suppress(UserError):
        run_status = open_run(store, "made")
        table = comparison_table(run_status)
        assert (table["n"] <= len(SEEDS)).all()
        assert len(read_content(store, run_status).contrasts) == 1


def damaged(store: MemoryStore, label: str, seed: int) -> str:
    """Return what is wrong with a trial of the run."""
    trials = open_run(store, "made").trials
    (trial,) = (one for one in trials if (one.planned.variant.label, one.planned.seed) == (label, seed))
    assert trial.damage is not None
    return trial.damage


def test_of_two_trials_about_other_images_neither_is_believed() -> None:
    store, recipe = MemoryStore(), Recipe(precision="float32", resample_split=True)
    make_run(store, ["attention", "multi-attention"], range(2), recipe=recipe, epochs=1, test_images=40, classes=5)
    content = arrays(store, "predictions.npz")
    images = np.array([f"another_{i}" for i in range(len(content["validation_images"]))])
    put_sealed(store, "predictions.npz", npz_bytes(**{**content, "validation_images": images}))
    missing = {
        (one.planned.variant.label, one.planned.seed) for one in open_run(store, "made").trials if not one.result
    }
    assert missing == {("attention", 1), ("multi-attention", 1)}
    run = RunPaths("made")
    damage = {run.trial(label, 1): damaged(store, label, 1) for label in ("attention", "multi-attention")}
    with pytest.raises(UserError, match=r"attention seed 1 against multi-attention seed 1: delete result.json of the"):
        delete_outvoted(store, damage)
    assert all(store.exists(where.result) for where in damage)


def test_a_contact_sheet_that_is_no_png_is_left_out_of_the_report(
    made: dict[str, bytes], caplog: pytest.LogCaptureFixture
) -> None:
    store = a_copy(made)
    run_status = open_run(store, "made")
    best = best_run(run_status.results("multi-attention"))
    assert best is not None
    assert best.best_epoch is not None
    where = RunPaths("made").trial("multi-attention", best.seed)
    name, program = f"snapshots/epoch-{best.best_epoch:03d}.png", b"%!PS-Adobe-3.0 EPSF-3.0"
    store.put(f"{where.folder}/{name}", program)
    store.put(where.result, dataclasses.replace(best, files={**best.files, name: sha256(program)}).to_json())
    assert not read_content(store, open_run(store, "made")).contact_sheets
    assert f"{where.folder}/{name} is damaged" in caplog.text
