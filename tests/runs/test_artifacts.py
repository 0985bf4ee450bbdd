"""The arrays and history that a trial leaves: they round-trip, and anything else is refused in one line."""

import dataclasses
import io
import zipfile

import numpy as np
import numpy.typing as npt
import pytest

from catdog.errors import UserError
from catdog.runs.artifacts import (
    MOST_LOGITS,
    Deletion,
    Localization,
    ProbeMasks,
    SplitLogits,
    TrimapMasks,
    attention_npz,
    deletion_json,
    localization_json,
    predictions_npz,
    published_predictions_npz,
    read_attention_npz,
    read_deletion,
    read_localization,
    read_predictions_npz,
)
from catdog.runs.history import EpochRecord, MaskHealth, epoch_row, history_csv, read_history
from catdog.runs.places import HEAD
from catdog.runs.trial_files import read_files
from catdog.storage import MemoryStore
from catdog.storage.serialization import MOST_UNPACKED, npz_bytes, npz_names, read_npz
from tests.helpers.made_runs import make_run

MASKS = ProbeMasks(
    images_PSSC=np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3),
    names=["a", "b"],
    labels_P=np.array([1, 0]),
    classes=("one", "two"),
    masks={HEAD: np.ones((3, 2, 1, 2, 2), np.float16), "layer3": np.ones((3, 2, 4, 5, 6), np.float16)},
    predicted_EP=np.zeros((3, 2), dtype=np.int64),
)
LOGITS = SplitLogits(np.array(["a", "b"]), np.array([1, 0], np.int16), np.array([[0, 1], [3, 3]], np.float16))
ATTENTION = TrimapMasks(["a"], {HEAD: np.ones((1, 1, 2, 2), np.float16), "layer3": np.ones((1, 4, 5, 6), np.float16)})


def same(one: object, other: object) -> bool:
    """Return whether two dataclasses of arrays and lists are equal."""
    return all(
        np.array_equal(ours, vars(other)[name])
        if name != "masks"
        else list(ours) == list(vars(other)[name])
        and all(map(np.array_equal, ours.values(), vars(other)[name].values()))
        for name, ours in vars(one).items()
    )


def test_arrays_survive_writing_and_reading() -> None:
    assert same(ProbeMasks.from_npz(MASKS.to_npz()), MASKS)
    assert same(read_attention_npz(attention_npz({"validation": ATTENTION, "test": ATTENTION}))["test"], ATTENTION)


def test_a_network_may_have_masks_in_its_stages_alone() -> None:
    masks = dataclasses.replace(MASKS, masks={"layer3": MASKS.masks["layer3"]})
    assert same(ProbeMasks.from_npz(masks.to_npz()), masks)
    assert [name for name in npz_names(masks.to_npz()) if name.startswith("masks")] == ["masks@layer3"]
    attention = TrimapMasks(["a"], {"layer3": ATTENTION.masks["layer3"]})
    assert same(read_attention_npz(attention_npz({"validation": attention, "test": attention}))["test"], attention)


WRONG_PLACES: dict[str, tuple[dict[str, npt.NDArray[np.float16]], str]] = {
    "a path": ({"masks@../x": np.ones((3, 2, 1, 2, 2), np.float16)}, r"'\.\./x' is no name of a stage"),
    "no name": ({"masks@": np.ones((3, 2, 1, 2, 2), np.float16)}, "'' is no name of a stage"),
    "the head": ({"masks@head": np.ones((3, 2, 1, 2, 2), np.float16)}, "'head' is no name of a stage"),
    "65 places": ({f"masks@s{i}": np.ones((3, 2, 1, 1, 1), np.float16) for i in range(63)}, "masks of 65 places"),
    "fewer epochs": ({"masks@layer3": np.ones((2, 2, 1, 2, 2), np.float16)}, "masks@layer3 has shape"),
    "doubles": ({"masks@layer3": np.ones((3, 2, 1, 2, 2))}, "masks@layer3 has dtype"),
}


@pytest.mark.parametrize("wrong", WRONG_PLACES)
def test_masks_of_places_that_no_network_has_are_refused(wrong: str) -> None:
    changed, words = WRONG_PLACES[wrong]
    with np.load(io.BytesIO(MASKS.to_npz())) as content:
        arrays = {**content, **changed}
    with pytest.raises(ValueError, match=words):
        ProbeMasks.from_npz(npz_bytes(**arrays))


@pytest.mark.parametrize(
    ("places", "words"),
    [
        ({"layer1": np.ones((1, 1, 29, 2), np.float16)}, "finer than 28 × 28"),
        ({HEAD: ATTENTION.masks[HEAD]}, "at different places"),
        ({}, "it has no test_masks"),
    ],
)
def test_attention_of_places_that_no_trial_measures_is_refused(
    places: dict[str, npt.NDArray[np.float16]], words: str
) -> None:
    data = attention_npz({"validation": ATTENTION, "test": TrimapMasks(["a"], places)})
    with pytest.raises(ValueError, match=words):
        read_attention_npz(data)


def test_predictions_are_the_highest_logits_and_the_true_class_has_its_log_probability() -> None:
    found = read_predictions_npz(predictions_npz(["one", "two"], {"test": LOGITS}), "test")
    assert found.classes == ("one", "two")
    assert found.images_N.tolist() == ["a", "b"]
    assert found.labels_N.tolist() == [1, 0]
    assert found.predicted_N.tolist() == [1, 0]
    assert found.accuracy == 100
    np.testing.assert_allclose(np.exp(found.log_probability_N), [np.e / (1 + np.e), 0.5], rtol=1e-6)


def test_the_published_form_of_predictions_reads_alike_and_is_smaller() -> None:
    names = np.array([f"image_{i}" for i in range(500)])
    logits = np.random.default_rng(0).normal(size=(500, 2)).astype(np.float16)
    whole_npz = predictions_npz(["one", "two"], {"test": SplitLogits(names, np.zeros(500, np.int16), logits)})
    whole = read_predictions_npz(whole_npz, "test")
    small_npz = published_predictions_npz({"test": whole})
    small = read_predictions_npz(small_npz, "test")
    np.testing.assert_allclose(small.log_probability_N, whole.log_probability_N, rtol=1e-3, atol=1e-6)
    assert same(dataclasses.replace(small, log_probability_N=whole.log_probability_N), whole)
    assert len(small_npz) < len(whole_npz)
    assert published_predictions_npz({"test": small}) == small_npz


def test_the_log_loss_is_the_same_of_all_forms_and_of_clipped_logits_there_is_none() -> None:
    names, labels = np.array([f"image_{i}" for i in range(50)]), np.ones(50, np.int16)
    logits = np.random.default_rng(0).normal(size=(50, 2)).astype(np.float16)
    for clipped in (None, (np.inf, 0), (np.inf, -np.inf), (0, -np.inf), (60_000, 0)):
        if clipped is not None:
            logits[7] = clipped
        whole = read_predictions_npz(
            predictions_npz(["one", "two"], {"test": SplitLogits(names, labels, logits)}), "test"
        )
        small = read_predictions_npz(published_predictions_npz({"test": whole}), "test")
        assert whole.log_loss == small.log_loss
        if clipped is None:
            assert whole.log_loss == pytest.approx(np.log1p(np.exp(-np.diff(logits.astype(float)))).mean(), abs=1e-4)
        else:
            assert whole.log_loss is None
    sure = np.full((50, 2), (0, 100), np.float16)
    data = predictions_npz(["one", "two"], {"test": SplitLogits(names, labels, sure)})
    assert str(read_predictions_npz(data, "test").log_loss) == "0.0", "zero has no sign"


@pytest.mark.parametrize("more", [0, 1])
def test_of_a_split_with_more_than_four_million_logits_a_trial_keeps_none(more: int) -> None:
    images, classes = 64, MOST_LOGITS // 64 + more
    names, labels = np.array([f"image_{i}" for i in range(images)]), np.arange(images, dtype=np.int16)
    logits = np.zeros((images, classes), np.float16)
    logits[np.arange(0, images, 2), labels[::2]] = 20
    large, classes_names = SplitLogits(names, labels, logits), [str(i) for i in range(classes)]
    few = SplitLogits(names, labels, logits[:, :100])
    data = predictions_npz(classes_names, {"validation": few, "test": large})
    assert ("test_logits" in npz_names(data)) == (not more)
    assert {"validation_images", "validation_labels", "validation_logits"} < set(npz_names(data))
    found = read_predictions_npz(data, "test")
    assert found.predicted_N.tolist() == logits.argmax(axis=1).tolist()
    assert found.accuracy == 50
    assert found.labels_N.tolist() == labels.tolist()
    log_softmax = logits - np.log(np.exp(logits.astype(float)).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(found.log_probability_N, log_softmax[np.arange(images), labels], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("predicted_N", [0, 2], "test_predicted has a class that is none of the 2 classes"),
        ("predicted_N", [0, 1, 1], "has shape"),
        ("log_probability_N", [-1, 0.5], "test_log_probability is above 0"),
        ("log_probability_N", [-1, np.nan], "test_log_probability is empty or has NaN"),
    ],
)
def test_published_predictions_that_no_trial_makes_are_refused(field: str, value: list[float], words: str) -> None:
    found = read_predictions_npz(predictions_npz(["one", "two"], {"test": LOGITS}), "test")
    wrong = dataclasses.replace(found, **{field: np.array(value, vars(found)[field].dtype)})
    with pytest.raises(ValueError, match=words):
        read_predictions_npz(published_predictions_npz({"test": wrong}), "test")


LOOKS = Localization(20, 3, 75.0, 30.0, -17.5, 43.0, 2.0, -15.0)


def test_localization_survives_writing_and_reading() -> None:
    with_pxap = dataclasses.replace(LOOKS, pxap=60.0, pxap_lift_uniform=9.0, pxap_lift_gaussian=-1.0)
    for splits in ({"test": LOOKS}, {"test": with_pxap}, {"test": LOOKS, "test@layer3": with_pxap}):
        assert read_localization(localization_json(splits)) == splits
    assert b"pxap" not in localization_json({"test": LOOKS}), "as earlier versions published it"


def test_deletion_survives_writing_and_reading() -> None:
    falls = Deletion(335, masks=2.0, random=0.7, centre=1.9)
    assert read_deletion(deletion_json({"validation": falls, "test": falls})) == {"validation": falls, "test": falls}
    with pytest.raises(ValueError, match="nothing was measured"):
        read_deletion(deletion_json({"test": dataclasses.replace(falls, images=0)}))
    with pytest.raises(ValueError, match="masks is None, not a number"):
        read_deletion(deletion_json({"test": dataclasses.replace(falls, masks=float("inf"))}))
    with pytest.raises(ValueError, match="about other splits"):
        read_deletion(deletion_json({"test@layer3": falls}))


@pytest.mark.parametrize(
    "wrong",
    [
        {"train": LOOKS},
        {"train@layer3": LOOKS},
        {"test@a b": LOOKS},
        {"test": dataclasses.replace(LOOKS, energy=101.0)},
        {"test": dataclasses.replace(LOOKS, pxap=101.0)},
        {"test": dataclasses.replace(LOOKS, breeds=0)},
    ],
)
def test_localization_that_nobody_measured_is_refused(wrong: dict[str, Localization]) -> None:
    with pytest.raises(ValueError, match=r"^[^\n]+$"):
        read_localization(localization_json(wrong))


def test_logits_that_overflowed_float16_still_name_a_class() -> None:
    logits = SplitLogits(LOGITS.images_N, LOGITS.labels_N, np.array([[np.inf, 1], [-np.inf, 5]], np.float16))
    found = read_predictions_npz(predictions_npz(["one", "two"], {"test": logits}), "test")
    assert found.predicted_N.tolist() == [0, 1]
    assert np.isfinite(found.log_probability_N).all()


def an_npz_of_something_else() -> bytes:
    return npz_bytes(other=np.ones(2))


def a_bare_array() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.ones(2))
    return buffer.getvalue()


PARSERS = {
    "masks": ProbeMasks.from_npz,
    "predictions": lambda data: read_predictions_npz(data, "test"),
    "attention": read_attention_npz,
    "localization": read_localization,
    "deletion": read_deletion,
    "history": read_history,
}


@pytest.mark.parametrize("parse", PARSERS.values(), ids=PARSERS.keys())
@pytest.mark.parametrize(
    "data",
    [b"", b"no archive", b"\xff\xfe\x00", MASKS.to_npz()[:-40], an_npz_of_something_else(), a_bare_array()],
    ids=["empty", "text", "binary", "cut", "other", "bare"],
)
def test_a_damaged_file_is_a_value_error(parse: object, data: bytes) -> None:
    with pytest.raises(ValueError, match=r"^[^\n]+$"):
        parse(data)  # type: ignore[operator]


def test_objects_in_an_archive_are_never_unpickled() -> None:
    buffer = io.BytesIO()
    np.savez(buffer, names=np.array([object()]))
    with pytest.raises(ValueError, match=r"^names\.npy is no array of numbers or text$"):
        read_npz(buffer.getvalue(), {"names": "U P"})


def test_a_small_archive_that_unpacks_to_gigabytes_is_refused_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    assert MOST_UNPACKED == 2**30
    monkeypatch.setattr("catdog.storage.serialization.MOST_UNPACKED", 2**20)
    bomb = npz_bytes(masks=np.zeros(2**19, np.uint8), others=np.zeros(2**19, np.uint8))
    assert len(bomb) < 2000
    with pytest.raises(ValueError, match=r"^it unpacks to 1,048,832 bytes; the limit is 1,048,576$"):
        read_npz(bomb, {"masks": "u N"})


def test_an_array_that_announces_more_than_it_holds_is_refused() -> None:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f8", "fortran_order": False, "shape": (2**50,)})
    archive = npz_bytes(masks=np.frombuffer(buffer.getvalue(), np.uint8))
    with pytest.raises(ValueError, match="masks has dtype uint8"):
        read_npz(archive, {"masks": "f N"})
    lying = io.BytesIO()
    with zipfile.ZipFile(lying, "w") as file:
        file.writestr("masks.npy", buffer.getvalue())
    with pytest.raises(ValueError, match=r"masks\.npy is no array of numbers or text"):
        read_npz(lying.getvalue(), {"masks": "f N"})


WRONG_LAYOUTS: dict[str, tuple[dict[str, npt.NDArray[np.generic]], str]] = {
    "another rank": ({"masks": np.ones((3, 2, 2, 2), np.float16)}, "masks has shape"),
    "fewer rows": ({"masks": np.ones((3, 1, 1, 2, 2), np.float16)}, "masks has shape"),
    "no positions": ({"masks": np.ones((3, 2, 1, 0, 2), np.float16)}, "masks has shape"),
    "grey images": ({"images": np.ones((2, 4, 4, 1), np.uint8)}, "images has shape"),
    "oblong images": ({"images": np.ones((2, 4, 5, 3), np.uint8)}, "images has shape"),
    "text as masks": ({"masks": np.full((3, 2, 1, 2, 2), "x")}, "masks has dtype"),
    "labels beyond the breeds": ({"labels": np.array([1, 1000])}, "labels has a class that is none of the 2 classes"),
    "negative predictions": ({"predicted": np.full((3, 2), -1)}, "predicted has a class"),
}


@pytest.mark.parametrize("wrong", WRONG_LAYOUTS)
def test_arrays_that_no_trial_writes_are_refused(wrong: str) -> None:
    changed, words = WRONG_LAYOUTS[wrong]
    with np.load(io.BytesIO(MASKS.to_npz())) as content:
        arrays = {**content, **changed}
    with pytest.raises(ValueError, match=words):
        ProbeMasks.from_npz(npz_bytes(**arrays))


def test_predictions_with_nan_or_an_image_twice_are_refused() -> None:
    nan = SplitLogits(LOGITS.images_N, LOGITS.labels_N, np.full((2, 2), np.nan, np.float16))
    with pytest.raises(ValueError, match="is empty or has NaN"):
        read_predictions_npz(predictions_npz(["one", "two"], {"test": nan}), "test")
    twice = SplitLogits(np.array(["a", "a"]), LOGITS.labels_N, LOGITS.logits_NK)
    with pytest.raises(ValueError, match="names an image twice"):
        read_predictions_npz(predictions_npz(["one", "two"], {"test": twice}), "test")


ROW = b"0,1.5,50,1.6,40,0.001,2,1,2026-01-01T00:00:00.000+00:00,,,,,\n"
HEADER = history_csv([])
WRONG_HISTORIES = {
    "another column": (HEADER.replace(b"val_accuracy", b"accuracy") + ROW, "has no column val_accuracy"),
    "an epoch twice": (HEADER + ROW + ROW, "epochs are not 0, 1, 2"),
    "text for a number": (HEADER + ROW.replace(b"1.5", b"=cmd|x"), "has something else"),
    "an accuracy of 4000": (HEADER + ROW.replace(b"40,", b"4000,"), "not from 0 to 100"),
    "no accuracy": (HEADER + ROW.replace(b"40,", b","), "not from 0 to 100"),
}


@pytest.mark.parametrize("wrong", WRONG_HISTORIES)
def test_histories_that_no_trial_writes_are_refused(wrong: str) -> None:
    data, words = WRONG_HISTORIES[wrong]
    with pytest.raises(ValueError, match=words):
        read_history(data)


HEALTH = MaskHealth(0.1, 0.2, 0.3, 0.4, 0.0)
RECORD = EpochRecord(0, 1.5, 50.0, 1.6, 40.0, 0.001, 2.0, 1.0, "2026-01-01T00:00:00.000+00:00")


def test_the_health_of_masks_in_stages_follows_that_of_the_head_and_comes_back() -> None:
    plain = history_csv([dataclasses.replace(RECORD, mask_health={HEAD: HEALTH})])
    staged = {HEAD: HEALTH, "layer3": dataclasses.replace(HEALTH, mask_dead=0.5)}
    for health in (staged, {"layer3": HEALTH}, {HEAD: HEALTH}, {}):
        record = dataclasses.replace(RECORD, mask_health=health)
        assert EpochRecord.from_row(record.row()) == record
    history = read_history(history_csv([RECORD, dataclasses.replace(RECORD, epoch=1, mask_health=staged)]))
    assert history["mask_dead@layer3"].tolist() == pytest.approx([np.nan, 0.5], nan_ok=True)
    (header, row), (more, longer) = (one.decode().split() for one in (plain, history_csv([
        dataclasses.replace(RECORD, mask_health=staged)])))  # fmt: skip
    assert longer.startswith(row + ",")
    added = more.removeprefix(header).split(",")
    assert added[1:] == [f"mask_{name}@layer3" for name in ("mean", "entropy", "overlap", "corner_mass", "dead")]
    assert dataclasses.replace(RECORD, mask_health=staged).collapse() == {"dead masks": ["layer3"]}


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ("mask_mean@layer3", "has no column mask_entropy@layer3"),
        ("loss@layer3", "no trial writes a column loss@layer3"),
        ("mask_mean@=x", "'=x' is no name of a stage"),
    ],
)
def test_columns_of_places_that_no_trial_writes_are_refused(columns: str, words: str) -> None:
    lines = (HEADER + ROW).decode().splitlines()
    with pytest.raises(ValueError, match=words):
        read_history(f"{lines[0]},{columns}\n{lines[1]},0.5\n".encode())


def test_a_history_may_have_no_epochs_and_no_masks() -> None:
    assert epoch_row(read_history(HEADER), 0) is None
    assert len(read_history(HEADER + ROW)) == 1


@pytest.mark.parametrize("change", ["vanished", "changed"])
def test_a_file_that_goes_while_a_report_is_made_is_one_line(change: str) -> None:
    store = MemoryStore()
    run_status = make_run(store, ["baseline"], range(2))
    key = "made/trials/baseline/seed-01/history.csv"
    if change == "vanished":
        store.delete(key)
    else:
        store.put(key, b"not what it was")
    with pytest.raises(UserError, match=rf"^{key} has {change}.*: run the same command again$"):
        list(read_files(store, run_status.finished, "history.csv", read_history))
