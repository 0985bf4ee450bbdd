"""People's own images: folders and CSV files become datasets, or one line says why not."""

import dataclasses
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from catdog.cli import run_job
from catdog.config.presets import PRESETS
from catdog.config.sweep_options import SweepConfig
from catdog.data.datasets.base import Source, dataset_pointer, pack_key
from catdog.data.datasets.registry import check_dataset
from catdog.data.pack import open_pack
from catdog.data.prepare import DatasetInfo, find_dataset, prepare_dataset
from catdog.data.split import split_images
from catdog.data.trimaps import read_trimaps
from catdog.errors import UserError
from catdog.storage import LocalStore, MemoryStore
from catdog.storage.node_cache import fetch_or_make
from jobs import prepare, sweep
from tests.helpers.pets import make_images

COUNTS = {"Maine Coon": 10, "柴犬": 10, "chat-tigré": 5}


def config_of(dataset: str, **changes: object) -> SweepConfig:
    recipe = dataclasses.replace(PRESETS["demo"].recipe, dataset=dataset)
    return dataclasses.replace(PRESETS["demo"], recipe=recipe, **changes)  # type: ignore[arg-type]


def opened(dataset: str, **changes: object) -> Source:
    entry = check_dataset(config_of(dataset, **changes))
    entry.check()
    source = entry.open()
    assert source is not None
    return source


def refusal(dataset: str, **changes: object) -> str:
    with pytest.raises(UserError) as error:
        opened(dataset, **changes)
    assert "\n" not in str(error.value)
    return str(error.value)


def counts_of(source: Source, mask: np.ndarray) -> dict[str, int]:
    return dict(Counter(source.classes[label] for label in source.labels[mask]))


def write_csv(path: Path, *rows: str) -> Path:
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


def test_a_folder_with_one_folder_per_class_gets_a_stratified_test_split(tmp_path: Path) -> None:
    root = make_images(tmp_path / "my pets", COUNTS)
    source = opened(f"folder:{root}")
    assert source.classes == ("Maine Coon", "chat-tigré", "柴犬")
    assert len(source.names) == 25
    assert "Maine Coon/3.png" in source.names
    assert counts_of(source, source.is_test) == {"Maine Coon": 2, "chat-tigré": 1, "柴犬": 2}
    assert (source.is_validation, source.test_share, source.title) == (None, 0.2, "my pets")
    split = split_images(source.labels, source.is_test, split_seed=0)
    assert [len(part) for part in (split.train, split.validation, split.test)] == [16, 4, 5]
    assert opened(f"folder:{root}").fingerprint == source.fingerprint
    other = dataclasses.replace(PRESETS["demo"].recipe, dataset=f"folder:{root}", split_seed=1)
    again = check_dataset(dataclasses.replace(PRESETS["demo"], recipe=other)).open()
    assert again is not None
    assert again.fingerprint != source.fingerprint, "another test split is another dataset"
    assert opened(f"folder:{root}", test_share=0.5).is_test.sum() == 12


def test_the_folders_train_val_and_test_are_the_splits(tmp_path: Path) -> None:
    given = {"train/b": 3, "train/a": 2, "test/a": 1, "test/b": 1}
    source = opened(f"folder:{make_images(tmp_path / 'two', given)}")
    assert (source.is_test.sum(), source.is_validation, source.test_share) == (2, None, None)
    source = opened(f"folder:{make_images(tmp_path / 'three', given | {'Validation/b': 1})}")
    assert source.is_validation is not None
    split = split_images(source.labels, source.is_test, split_seed=0, is_validation=source.is_validation)
    assert [source.names[i] for i in split.validation] == ["Validation/b/0.png"]
    assert counts_of(source, ~source.is_test & ~source.is_validation) == {"b": 3, "a": 2}


def test_images_may_lie_deep_and_other_files_beside_them(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = make_images(tmp_path, {"cat/outside/2025": 3, "dog": 3, ".hidden": 2})
    for name in ("README.txt", "dog/Thumbs.db", "dog/._0.png", "desktop.ini"):
        (root / name).write_text("no image")
    assert sorted(opened(f"folder:{root}").names)[0] == "cat/outside/2025/0.png"
    assert len(opened(f"folder:{root}").names) == 6
    assert not caplog.messages


@pytest.mark.parametrize("train", ["", "train/"])
def test_what_is_left_out_of_a_folder_is_said_once_for_each_kind(
    train: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    classes = {f"{train}cat": 3, f"{train}dog": 3} | ({"test/cat": 1} if train else {})
    root = make_images(tmp_path, classes | {"": 1, train: 2, f"{train}cow": 0, f"{train}emu/chick": 0})
    (root / train / "cat/IMG_1.HEIC").touch()
    assert len(opened(f"folder:{root}").names) == 6 + bool(train)
    assert caplog.messages == [
        f"--dataset folder:{root}: {said}"
        for said in (
            f"images beside the class folders are left out: {3 if train else 2} (0.png, for one)",
            f"class folders without an image are left out: 2 ({train}cow, for one)",
            f"files without an image's ending are left out: 1 ({train}cat/IMG_1.HEIC, for one)",
        )
    ]


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ({}, "holds no folders"),
        ({"cat": 0, "dog": 0}, "its folders hold no images"),
        ({"cat": 5}, "has only one class"),
        ({"cat": 5, "dog": 1}, "class 'dog' has 1 image, too few to draw a validation and a test split from: give 3"),
        ({"cat": 5, "dog": 2}, "class 'dog' has 2 images, too few"),
        ({"train/cat": 5, "train/dog": 1, "test/cat": 1}, "class 'dog' has 1 image to train and validate on: give 2"),
        ({"train/cat": 5, "test/dog": 2}, "class 'dog' has 0 images to train and validate on"),
        ({"train/cat": 2, "val/dog": 2, "test/dog": 2}, "class 'dog' has 0 images to train on: give 1"),
        (
            {"train/cat": 2, "test/cat": 2, "labels/x": 2},
            "holds folders of splits, and labels/ beside them: give a folder",
        ),
    ],
)
def test_a_folder_that_cannot_be_split_is_a_mistake(counts: dict[str, int], said: str, tmp_path: Path) -> None:
    root = make_images(tmp_path, counts)
    assert refusal(f"folder:{root}").startswith(f"--dataset folder:{root}: ")
    assert said in refusal(f"folder:{root}")


def test_a_folder_that_is_none_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "pets.zip").write_bytes(b"PK")
    assert "no such folder" in refusal(f"folder:{tmp_path / 'nowhere'}")
    assert "a file, not a folder (unpack an archive)" in refusal(f"folder:{tmp_path / 'pets.zip'}")


def test_a_store_among_the_images_is_a_mistake_since_it_would_become_a_class(tmp_path: Path) -> None:
    root = make_images(tmp_path / "pets", {"cat": 3, "dog": 3})
    for store in (root, root / "results", root / "cat/results"):
        assert refusal(f"folder:{root}", store=str(store)).startswith(
            f"--store {store}: lies among the images of folder:"
        )
    for store in (tmp_path / "results", root / ".catdog"):
        opened(f"folder:{root}", store=str(store))


@pytest.mark.parametrize("size", [(40, 30), (30, 40), (64, 64)])
def test_images_are_squashed_or_cropped_to_their_centre(size: tuple[int, int], tmp_path: Path) -> None:
    root = make_images(tmp_path, {"cat": 3, "dog": 3}, size)
    picture = Image.new("RGB", size, "black")
    middle = min(size)
    left, top = (size[0] - middle) // 2, (size[1] - middle) // 2
    picture.paste("white", (left, top, left + middle, top + middle))
    picture.save(root / "cat" / "0.png")
    squashed = opened(f"folder:{root}", pack_size=16).read(0)[0]
    cropped = opened(f"folder:{root}", pack_size=16, resize="crop").read(0)[0]
    assert squashed.shape == cropped.shape == (16, 16, 3)
    assert cropped.min() > 200, "black may bleed in by a pixel's filter"
    assert (squashed.min() < 50) == (size[0] != size[1])


def test_how_images_are_packed_is_part_of_the_fingerprint(tmp_path: Path) -> None:
    root = make_images(tmp_path, {"cat": 3, "dog": 3})
    found = {opened(f"folder:{root}", **kind).fingerprint for kind in ({}, {"pack_size": 128}, {"resize": "crop"})}
    assert len(found) == 3
    Image.new("RGB", (40, 30), "red").save(root / "cat" / "0.png")
    assert opened(f"folder:{root}").fingerprint not in found


def test_a_csv_file_lists_images_splits_and_masks(tmp_path: Path) -> None:
    make_images(tmp_path / "images", {"": 8})
    mask = Image.new("1", (40, 30))
    mask.paste(1, (0, 0, 20, 30))
    mask.save(tmp_path / "mask.png")
    rows = [
        f'images/{i}.png,"{"cat, tabby" if i % 2 else "dog"}",{("train", "train", "Valid", "test")[i // 2]},'
        for i in range(8)
    ]
    rows[0] += "mask.png"
    listed = write_csv(tmp_path / "list.csv", "image,label,split,mask", *rows)
    source = opened(f"csv:{listed}", pack_size=32)
    assert source.classes == ("cat, tabby", "dog")
    assert (source.title, source.test_share) == ("list", None)
    assert source.is_test.tolist() == [False] * 6 + [True] * 2
    assert source.is_validation is not None
    assert source.is_validation.tolist() == [False] * 4 + [True] * 2 + [False] * 2
    assert source.has_trimap.tolist() == [True] + [False] * 7
    _, trimap = source.read(0)
    assert trimap is not None
    assert trimap.tolist() == [[1] * 16 + [2] * 16] * 32


def test_other_columns_are_named_after_the_file(tmp_path: Path) -> None:
    make_images(tmp_path, {"": 6})
    (tmp_path / "a,b").mkdir()
    listed = write_csv(tmp_path / "a,b" / "x.csv", "file,breed", *(f"{tmp_path}/{i}.png,{i % 2}" for i in range(6)))
    assert opened(f"csv:{listed},image=file,label=breed").classes == ("0", "1")
    assert refusal(f"csv:{listed}").endswith(
        f"has no column 'image' (found: file, breed): add it, or name another: csv:{listed},image=COLUMN,label=COLUMN"
    )
    assert "has no column 'kind'" in refusal(f"csv:{listed},image=file,label=kind")
    assert "has no column 'part'" in refusal(f"csv:{listed},image=file,label=breed,split=part")
    assert "image= is given twice" in refusal(f"csv:{listed},image=file,image=breed")


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "lists no images"),
        (["0.png,"], "line 2 has no label: complete the row"),
        (["0.png,cat", ",dog"], "line 3 has no path"),
        ([",", '0.png,"a', 'cat"', "", "9.png,dog"], "line 6: {folder}/9.png: no such file"),
        (["0.png,cat", "1.png,cat", "0.png,dog"], "line 4: 0.png is listed in line 2 too: keep one"),
        (
            ["0.png,cat,training", "1.png,dog,holdout"],
            "line 3: the split 'holdout' is none of train, val and test",
        ),
        (["0.png,cat,,a,b", "1.png,dog"], "line 2 has more fields than there are columns"),
        (["0.png,cat", '1.png,"dog', "2.png,cow"], "line 3: cannot be read as CSV in UTF-8 (unexpected end of data)"),
    ],
)
def test_a_csv_file_with_a_fault_is_a_mistake_that_names_the_line(rows: list[str], said: str, tmp_path: Path) -> None:
    make_images(tmp_path, {"": 3})
    listed = write_csv(tmp_path / "list.csv", "image,label,split", *rows)
    message = refusal(f"csv:{listed}")
    assert message.startswith(f"--dataset csv:{listed}: ")
    assert said.format(folder=tmp_path) in message


def test_a_label_as_long_as_a_page_is_a_mistake(tmp_path: Path) -> None:
    make_images(tmp_path, {"cat": 3, "dog": 3})
    label, images = "M" * 5000, [f"{name}/{number}.png" for name in ("cat", "dog") for number in range(3)]
    (tmp_path / "list.csv").write_text("\n".join(["image,label", *(f"{one},{label + one[0]}" for one in images)]))
    with pytest.raises(UserError, match="a label has 5,001 letters"):
        opened(f"csv:{tmp_path}/list.csv")


def test_a_csv_file_that_is_none_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "bytes.csv").write_bytes(b"\xef\xbb\xbfimage,label\n\xff\xfe,a\n")
    assert "no such file" in refusal(f"csv:{tmp_path / 'nowhere.csv'}")
    assert "a folder, not a file (folder:DIR takes one)" in refusal(f"csv:{tmp_path}")
    assert "line 2: cannot be read as CSV in UTF-8" in refusal(f"csv:{tmp_path / 'bytes.csv'}")


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("Image, LABEL ", "has no column 'image' (found: Image, LABEL): perhaps {csv},image=Image,label=LABEL"),
        (
            "file,Label",
            "has no column 'image' (found: file, Label): add it, or name another: {csv},image=COLUMN,label=Label",
        ),
        ("image,breed", "has no column 'label' (found: image, breed): add it, or name another: {csv},label=COLUMN"),
        ("image;label", "(found: image;label): its columns are separated by semicolons: save it with commas"),
        ('"image";"label"', "its columns are separated by semicolons: save it with commas"),
        ("image\tlabel", "its columns are separated by tabs: save it with commas"),
    ],
)
def test_a_missing_column_is_looked_for_under_other_names_and_separators(
    header: str, said: str, tmp_path: Path
) -> None:
    listed = write_csv(tmp_path / "list.csv", header, "0.png")
    assert refusal(f"csv:{listed}").endswith(said.format(csv=f"csv:{listed}"))


def test_an_optional_column_of_nearly_the_same_name_is_pointed_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_images(tmp_path, {"": 6})
    listed = write_csv(tmp_path / "list.csv", "image,label,Split", *(f"{i}.png,{i % 2}," for i in range(6)))
    opened(f"csv:{listed}")
    assert caplog.messages == [
        f"--dataset csv:{listed}: column 'Split' is not read, since it is not called 'split': "
        f"perhaps csv:{listed},split=Split"
    ]
    opened(f"csv:{listed}")
    assert len(caplog.messages) == 1, "a job opens its images several times"


MASKS = {
    "1": Image.new("1", (40, 30), 1),
    "L": Image.new("L", (40, 30), 255),
    "P": Image.new("P", (40, 30), 7),
    "RGB": Image.new("RGB", (40, 30), "red"),
    "RGBA": Image.new("RGBA", (40, 30), (255, 0, 0, 10)),
    "I;16": Image.fromarray(np.full((30, 40), 65535, np.uint16)),
}


@pytest.mark.parametrize("mode", MASKS)
def test_a_mask_is_any_image_of_two_values(mode: str, tmp_path: Path) -> None:
    make_images(tmp_path, {"": 6})
    mask = MASKS[mode].copy()
    mask.paste(Image.new(mask.mode, (20, 30)), (20, 0))
    mask.save(tmp_path / "mask.png")
    rows = [f"{i}.png,{i % 2},{'mask.png' * (i == 0)}" for i in range(6)]
    source = opened(f"csv:{write_csv(tmp_path / 'list.csv', 'image,label,mask', *rows)}", pack_size=16)
    _, trimap = source.read(0)
    assert trimap is not None
    assert trimap.tolist() == [[1] * 8 + [2] * 8] * 16


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        (Image.fromarray(np.arange(1200, dtype=np.uint8).reshape(30, 40)), "a mask has two values, 0 for the backgr"),
        (Image.fromarray(np.where(np.arange(1200) < 600, 1, 2).astype(np.uint8).reshape(30, 40)), "found 1, 2"),
        (Image.new("L", (30, 40)), "30 × 40 pixels, its image has 40 × 30: save the mask of the whole image"),
    ],
)
def test_a_mask_of_other_values_or_another_size_is_refused(mask: Image.Image, said: str, tmp_path: Path) -> None:
    make_images(tmp_path, {"": 6})
    mask.save(tmp_path / "mask.png")
    rows = [f"{i}.png,{i % 2},{'mask.png' * (i == 0)}" for i in range(6)]
    source = opened(f"csv:{write_csv(tmp_path / 'list.csv', 'image,label,mask', *rows)}")
    with pytest.raises(UserError, match=r"mask\.png: ") as error:
        source.read(0)
    assert said in str(error.value)


def test_one_dataset_has_one_fingerprint_however_it_is_listed(tmp_path: Path) -> None:
    root = make_images(tmp_path / "pets", {"train/cat": 2, "train/dog": 2, "test/cat": 1, "test/dog": 1})
    by_folder = opened(f"folder:{root}")
    rows = [f"{name},{name.split('/')[1]},{name.split('/')[0]}" for name in by_folder.names]
    assert (
        opened(f"csv:{write_csv(root / 'list.csv', 'image,label,split', *rows)}").fingerprint == by_folder.fingerprint
    )


@pytest.mark.parametrize(
    ("dataset", "changes", "said"),
    [
        ("drawn", {"pack_size": 128}, "--pack-size 128: the drawn pets are made in code; leave the option out"),
        ("oxford-iiit-pet", {"test_share": 0.3}, "--test-share 0.3: Oxford-IIIT Pet has a test split of its own"),
        ("folder:x", {"data_root": "y"}, "--data-root y: folder:x names its folder itself; leave the option out"),
        ("store:x", {"resize": "crop"}, "--resize crop: store:x is packed already; leave the option out"),
        (
            "folder:",
            {},
            "--dataset folder:: choose from drawn, oxford-iiit-pet, folder:DIR, csv:FILE, torchvision:NAME",
        ),
        ("drawn:x", {}, "--dataset drawn:x: choose from drawn"),
        ("folders:x", {}, "--dataset folders:x: choose from drawn"),
        ("store:../../etc", {}, "--dataset store:../../etc: no name of a dataset"),
        ("torchvision:Nothing", {}, "torchvision has no such dataset"),
        ("torchvision:ImageFolder", {}, "torchvision has no such dataset"),
    ],
)
def test_a_dataset_or_an_option_that_makes_no_sense_is_refused(
    dataset: str, changes: dict[str, object], said: str
) -> None:
    assert said in refusal(dataset, **changes)


def test_a_test_share_for_a_dataset_with_a_test_split_is_refused(tmp_path: Path) -> None:
    root = make_images(tmp_path, {"train/cat": 2, "train/dog": 2, "test/cat": 1})
    assert "has a test split of its own; leave it out" in refusal(f"folder:{root}", test_share=0.3)


def test_copies_of_an_image_in_several_classes_or_splits_are_warned_about(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = make_images(tmp_path, {"train/cat": 3, "train/dog": 3, "test/cat": 1, "test/dog": 1})
    assert opened(f"folder:{root}") is not None
    assert not caplog.messages
    (root / "test/cat/0.png").write_bytes((root / "train/cat/0.png").read_bytes())
    opened(f"folder:{root}")
    assert caplog.messages == [
        f"--dataset folder:{root}: images that lie in several classes or splits: 1 (test/cat/0.png and "
        "train/cat/0.png, for one)"
    ]


def test_a_share_that_leaves_nothing_to_train_on_is_a_mistake(tmp_path: Path) -> None:
    root = make_images(tmp_path, {"cat": 5, "dog": 5})
    assert "to train and validate on: give 2 or more, or a smaller --test-share" in refusal(
        f"folder:{root}", test_share=0.9
    )


def test_a_column_that_is_there_twice_is_a_mistake(tmp_path: Path) -> None:
    listed = write_csv(tmp_path / "list.csv", "image, label ,label", "0.png,cat,dog")
    assert "two columns have one name (image, label, label)" in refusal(f"csv:{listed}")


@pytest.mark.parametrize(
    "change",
    [
        {"fingerprint": "../../../../etc"},
        {"fingerprint": "ABCDEF0123456789"},
        {"trainval_images": -5},
        {"validation_images": 10**6},
        {"test_share": 99.0},
        {"class_noun": "<script>"},
        {"class_noun": "x" * 300},
        {"title": "x" * 300},
    ],
)
def test_a_pointer_that_no_dataset_has_is_damaged(change: dict[str, object]) -> None:
    store = MemoryStore()
    info = {"name": "images", "fingerprint": "0" * 16, "trainval_images": 8, "validation_images": 2}
    store.put(dataset_pointer("mine"), json.dumps(info | change).encode())
    with pytest.raises(UserError, match=r"^datasets/mine\.json is damaged \(.*\): delete it, then run prepare\.py$"):
        find_dataset(config_of("store:mine"), store)


def test_a_named_dataset_is_found_in_the_store_and_keeps_its_name(tmp_path: Path) -> None:
    store, root = MemoryStore(), make_images(tmp_path / "pets", {"cat": 5, "dog": 5})
    here, there = config_of(f"folder:{root}"), config_of("store:mine")
    info = prepare_dataset(here, store, lambda message: None, "mine")
    assert info == DatasetInfo("images", info.fingerprint, 8, 2, "pets", "class", 0.2, classes=2)
    assert find_dataset(there, store) == (info, None)
    assert prepare_dataset(there, store, lambda message: None) == info
    prepare_dataset(here, store, lambda message: None, "mine")
    prepare_dataset(here, store, lambda message: None, "also-mine")
    make_images(root, {"cow": 5})
    said: list[str] = []
    with pytest.raises(UserError, match="--name mine: the store has another dataset of this name"):
        prepare_dataset(here, store, said.append, "mine")
    assert not said, "nothing is packed"
    assert find_dataset(there, store)[0] == info
    with pytest.raises(UserError, match="--dataset store:yours: the store has no dataset of this name: put it there"):
        prepare_dataset(config_of("store:yours"), store, lambda message: None)


@pytest.mark.parametrize("name", ["drawn", "oxford-iiit-pet", "a/b", "", "..", "folder:x"])
def test_names_that_others_have_or_that_are_paths_are_refused(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--dataset", "drawn", "--name", name, "--store", str(tmp_path)]
    assert run_job(prepare.main, arguments) == 2
    assert f"--name {name}: use 1 to 100 letters" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_pack_holds_the_validation_split_and_the_masks(tmp_path: Path) -> None:
    make_images(tmp_path, {"": 6})
    Image.new("L", (40, 30), 255).save(tmp_path / "mask.png")
    rows = [f"{i}.png,{i % 2},{('train', 'val', 'test')[i // 2]},{'mask.png' * (i == 4)}" for i in range(6)]
    listed = write_csv(tmp_path / "list.csv", "image,label,split,mask", *rows)
    store = LocalStore(tmp_path / "store")
    info = prepare_dataset(config_of(f"csv:{listed}"), store, lambda message: None)
    pack = open_pack(fetch_or_make(store, pack_key(info.fingerprint)))
    assert pack.is_validation_N is not None
    assert pack.is_validation_N.tolist() == [False, False, True, True, False, False]
    assert (info.trainval_images, info.train_images) == (4, 2)
    outlines = read_trimaps(store, info.fingerprint)
    assert outlines is not None
    assert (outlines.names, outlines.animals_TSS.all()) == (["4.png"], True)
    assert not store.exists(dataset_pointer("images"))


def test_the_jobs_take_a_folder_from_its_pack_to_a_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, store = make_images(tmp_path / "pets", {"cat": 10, "dog": 10}), str(tmp_path / "store")
    assert run_job(prepare.main, ["--dataset", f"folder:{root}", "--name", "mine", "--store", store]) == 0
    assert f"sweeps find it with --store {store} --dataset store:mine" in capsys.readouterr().out
    for dataset in (f"folder:{root}", "store:mine"):
        arguments = ["demo", "--dataset", dataset, "--store", store, "--image-size", "32", "--dry-run"]
        assert run_job(sweep.main, arguments) == 0
        said = capsys.readouterr().out
        assert f"data  {dataset} " in said
        assert "9 trials × 12 epochs × 13 images" in said
    assert run_job(sweep.main, ["demo", "--dataset", "store:yours", "--store", store, "--dry-run"]) == 2
    assert run_job(prepare.main, ["--name", "mine"]) == 2
    assert "name the images: a preset, or --dataset folder:DIR" in capsys.readouterr().err
    assert json.loads((Path(store) / dataset_pointer("mine")).read_text())["name"] == "images"
