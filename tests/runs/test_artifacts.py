"""The arrays and the history that a trial leaves: what is read is what was written, and damage is one clear line."""

import io

import numpy as np
import pytest

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
    """Return whether two dataclasses of arrays and lists hold the same."""
    return all(np.array_equal(ours, vars(other)[name]) for name, ours in vars(one).items())


def test_what_is_read_is_what_was_written() -> None:
    assert same(ProbeMasks.from_npz(MASKS.to_npz()), MASKS)
    breeds, found = read_predictions_npz(predictions_npz(["one", "two"], {"test": PREDICTIONS}), "test")
    assert breeds == ("one", "two")
    assert same(found, PREDICTIONS)
    assert same(read_attention_npz(attention_npz({"test": ATTENTION}), ["test"])["test"], ATTENTION)


def test_the_same_arrays_give_the_same_bytes() -> None:
    assert MASKS.to_npz() == MASKS.to_npz()


def an_npz_of_something_else() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, other=np.ones(2))
    return buffer.getvalue()


@pytest.mark.parametrize("parse", [ProbeMasks.from_npz, read_history], ids=["masks", "history"])
@pytest.mark.parametrize(
    "data",
    [b"", b"no archive", MASKS.to_npz()[:-40], an_npz_of_something_else()],
    ids=["empty", "text", "cut", "other"],
)
def test_a_damaged_file_is_one_line_that_names_it_and_the_remedy(parse: object, data: bytes) -> None:
    with pytest.raises(
        UserError, match=r"^run/trials/x: not readable \(.*\); run the sweep's command again$"
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


def test_a_history_without_epochs_has_no_row_of_any() -> None:
    assert epoch_row(read_history(history_csv([])), 0) is None
