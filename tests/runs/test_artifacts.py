"""The arrays and history that a trial leaves: they round-trip, and damage gives one clear line."""

import io

import numpy as np
import pytest

from catdog.analysis.run_data import read_content
from catdog.errors import UserError
from catdog.runs.artifacts import (
    ProbeMasks,
    SplitPredictions,
    TrimapMasks,
    attention_npz,
    parse_artifact,
    predictions_npz,
    read_attention_npz,
    read_predictions_npz,
)
from catdog.runs.history import epoch_row, history_csv, read_history
from catdog.storage import MemoryStore
from tests.helpers.made_runs import make_run, put_trimaps

MASKS = ProbeMasks(
    images_PSSC=np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3),
    names=["a", "b"],
    labels_P=np.array([1, 0]),
    breeds=("one", "two"),
    masks_EPMHW=np.ones((3, 2, 1, 2, 2), dtype=np.float16),
    predicted_EP=np.zeros((3, 2), dtype=np.int64),
)
PREDICTIONS = SplitPredictions(np.array(["a", "b"]), np.array([1, 0], np.int16), np.eye(2, dtype=np.float16))
ATTENTION = TrimapMasks(["a"], np.ones((1, 1, 2, 2), np.float16))


def same(one: object, other: object) -> bool:
    """Return whether two dataclasses of arrays and lists are equal."""
    return all(np.array_equal(ours, vars(other)[name]) for name, ours in vars(one).items())


def test_arrays_survive_writing_and_reading() -> None:
    assert same(ProbeMasks.from_npz(MASKS.to_npz()), MASKS)
    breeds, found = read_predictions_npz(predictions_npz(["one", "two"], {"test": PREDICTIONS}), "test")
    assert breeds == ("one", "two")
    assert same(found, PREDICTIONS)
    assert same(read_attention_npz(attention_npz({"test": ATTENTION}), ["test"])["test"], ATTENTION)


def an_npz_of_something_else() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, other=np.ones(2))
    return buffer.getvalue()


def a_bare_array() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.ones(2))
    return buffer.getvalue()


PARSERS = {
    "masks": ProbeMasks.from_npz,
    "predictions": lambda data: read_predictions_npz(data, "test"),
    "attention": lambda data: read_attention_npz(data, ["test"]),
    "history": read_history,
}


@pytest.mark.parametrize("parse", PARSERS.values(), ids=PARSERS.keys())
@pytest.mark.parametrize(
    "data",
    [b"", b"no archive", MASKS.to_npz()[:-40], an_npz_of_something_else(), a_bare_array()],
    ids=["empty", "text", "cut", "other", "bare"],
)
def test_a_damaged_file_gives_one_line_that_names_it_and_the_remedy(parse: object, data: bytes) -> None:
    with pytest.raises(
        UserError,
        match=r"^run/trials/x: not readable \(.*\); delete its trial's result.json",
    ) as caught:
        parse_artifact("run/trials/x", data, parse)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_objects_in_an_archive_are_never_unpickled() -> None:
    buffer = io.BytesIO()
    np.savez(
        buffer, **dict.fromkeys(("images", "names", "labels", "breeds", "masks", "predicted"), np.array([object()]))
    )
    with pytest.raises(UserError, match="not readable"):
        parse_artifact("masks.npz", buffer.getvalue(), ProbeMasks.from_npz)


def test_a_history_without_epochs_has_no_rows() -> None:
    assert epoch_row(read_history(history_csv([])), 0) is None


@pytest.mark.parametrize("name", ["masks.npz", "attention.npz", "predictions.npz", "history.csv"])
def test_a_report_ends_with_one_line_where_a_file_cannot_be_read(name: str) -> None:
    store = MemoryStore()
    run_status = make_run(store, ["baseline", "multi-attention"], range(2))
    put_trimaps(store, run_status, np.eye(64, dtype=bool))
    key = next(key for key in store.list("made/trials/multi-attention") if key.endswith(name))
    store.put(key, b"not what it was")
    with pytest.raises(
        UserError,
        match=rf"^{key}: not readable \(.*\); delete its trial's result.json, then",
    ):
        read_content(store, run_status)


def test_a_history_that_lacks_the_chosen_epoch_is_one_line_too() -> None:
    store = MemoryStore()
    run_status = make_run(store, ["multi-attention"], range(1))
    put_trimaps(store, run_status, np.eye(64, dtype=bool))
    key = next(key for key in store.list("made/trials") if key.endswith("history.csv"))
    header = store.get(key).split(b"\n")[0]
    store.put(key, header + b"\n")
    with pytest.raises(UserError, match=rf"^{key}: has no epoch [0-9]+, which was chosen"):
        read_content(store, run_status)
