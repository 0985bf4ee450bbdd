"""Oxford-IIIT Pet: a broken folder is rejected with a one-line reason, and every kind of image can be read."""

import hashlib
import os
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from PIL import Image

from catdog.data.datasets.base import Source
from catdog.data.datasets.oxford_pets import OFFICIAL_COUNTS, open_oxford
from catdog.data.pack import open_pack, write_pack
from catdog.errors import UserError

BREEDS = {"Abyssinian": "1", "american_bulldog": "2", "Bengal": "1"}  # species: 1 cat, 2 dog
LISTS = {"trainval": (1, 2, 3, 4, 5), "test": (6, 7)}
HEADER = "#Image CLASS-ID SPECIES BREED ID\n"


def list_lines(part: str) -> list[str]:
    """The lines of a list file: class ids are 1, 2, 3."""
    return [
        f"{breed}_{number} {class_id} {species} 1"
        for class_id, (breed, species) in enumerate(BREEDS.items(), start=1)
        for number in LISTS[part]
    ]


def write_list(pets: Path, part: str, lines: list[str]) -> None:
    (pets / "annotations" / f"{part}.txt").write_text(HEADER + "".join(f"{line}\n" for line in lines))


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """A tiny dataset: 21 images of 40 × 30 pixels, 3 breeds; the Bengals have trimaps."""
    folder = tmp_path / "oxford-iiit-pet"
    (folder / "images").mkdir(parents=True)
    (folder / "annotations" / "trimaps").mkdir(parents=True)
    generator = np.random.default_rng(0)
    for part in LISTS:
        write_list(folder, part, list_lines(part))
        for line in list_lines(part):
            name = line.split()[0]
            pixels = generator.integers(0, 256, (30, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "images" / f"{name}.jpg")
            if name.startswith("Bengal"):
                trimap = generator.integers(1, 4, (30, 40), dtype=np.uint8)
                Image.fromarray(trimap).save(folder / "annotations" / "trimaps" / f"{name}.png")
    return folder


def one_line(error: pytest.ExceptionInfo[UserError]) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


def index_of(source: Source, name: str) -> int:
    return source.names.index(name)


def test_a_valid_folder_opens_with_its_breeds_splits_and_labels(pets: Path) -> None:
    source = open_oxford(pets)
    assert source.classes == ("Abyssinian", "american_bulldog", "Bengal")
    assert source.names[3:6] == ("Abyssinian_4", "Abyssinian_5", "american_bulldog_1")
    assert source.labels.tolist() == [0] * 5 + [1] * 5 + [2] * 5 + [0, 0, 1, 1, 2, 2]
    assert source.is_test.tolist() == [False] * 15 + [True] * 6


def test_the_parent_folder_may_be_named_too(pets: Path) -> None:
    assert open_oxford(pets.parent).fingerprint == open_oxford(pets).fingerprint


def test_the_real_dataset_has_37_breeds_and_the_official_counts(pets_root: Path) -> None:
    source = open_oxford(pets_root)
    assert len(source.classes) == 37
    assert int((~source.is_test).sum()) == OFFICIAL_COUNTS["trainval"]
    assert int(source.is_test.sum()) == OFFICIAL_COUNTS["test"]
    assert source.fingerprint == "313b1ce5272c8ab2", "that of the published results"
    for index in (0, 3000, 7348):
        assert source.read(index)[0].shape == (256, 256, 3)


def remove_images(pets: Path) -> None:
    shutil.rmtree(pets / "images")


def remove_list(pets: Path) -> None:
    (pets / "annotations" / "test.txt").unlink()


def empty_list(pets: Path) -> None:
    write_list(pets, "trainval", [])


def remove_one_image(pets: Path) -> None:
    (pets / "images" / "Bengal_6.jpg").unlink()


def list_what_cannot_be(pets: Path) -> None:
    write_list(pets, "trainval", [*list_lines("trainval"), f"{'x' * 300} 1 1 1"])


def drop_a_field(pets: Path) -> None:
    write_list(pets, "trainval", [*list_lines("trainval")[:3], "american_bulldog_1 2"])


def unknown_species(pets: Path) -> None:
    write_list(pets, "trainval", ["Abyssinian_1 1 3 1"])


def path_as_name(pets: Path) -> None:
    write_list(pets, "trainval", ["Bengal/../../../secret 1 1 1"])


def hidden_file_as_name(pets: Path) -> None:
    write_list(pets, "trainval", ["._Bengal_1 1 1 1"])


def list_twice(pets: Path) -> None:
    write_list(pets, "trainval", [*list_lines("trainval"), "Bengal_2 3 1 1"])


def list_in_both_parts(pets: Path) -> None:
    write_list(pets, "test", [*list_lines("test"), "Bengal_2 3 1 1"])


def skip_a_class(pets: Path) -> None:
    for part in LISTS:
        write_list(pets, part, [line for line in list_lines(part) if "bulldog" not in line])


def one_of_a_breed(pets: Path) -> None:
    kept = ("Abyssinian", "Bengal", "american_bulldog_1")
    write_list(pets, "trainval", [line for line in list_lines("trainval") if line.startswith(kept)])


def class_of_test_only(pets: Path) -> None:
    write_list(pets, "trainval", [line for line in list_lines("trainval") if "Bengal" not in line])


def rename_all(folder: Path, new_name: Callable[[Path], str]) -> None:
    for path in list(folder.iterdir()):
        path.rename(folder / new_name(path))


def nest_images(pets: Path) -> None:
    """As Kaggle's copy has them."""
    (pets / "images").rename(pets / "inner")
    (pets / "images").mkdir()
    (pets / "inner").rename(pets / "images" / "images")


def one_folder_per_breed(pets: Path) -> None:
    for path in list((pets / "images").iterdir()):
        folder = pets / "images" / path.stem.rpartition("_")[0]
        folder.mkdir(exist_ok=True)
        path.rename(folder / path.name)


def nest_annotations(pets: Path) -> None:
    (pets / "annotations").rename(pets / "inner")
    (pets / "annotations").mkdir()
    (pets / "inner").rename(pets / "annotations" / "annotations")


def pack_up(pets: Path) -> None:
    shutil.rmtree(pets)
    pets.write_bytes(b"an archive")


def pipe_for_an_image(pets: Path) -> None:
    remove_one_image(pets)
    os.mkfifo(pets / "images" / "Bengal_6.jpg")


def other_trimaps(pets: Path) -> None:
    rename_all(pets / "annotations" / "trimaps", lambda path: f"{path.stem}_mask.png")


def replace_everywhere(pets: Path, old: str, new: str) -> None:
    """Replace a part of the names in the lists and of the files."""
    for part in LISTS:
        write_list(pets, part, [line.replace(old, new) for line in list_lines(part)])
    for folder in (pets / "images", pets / "annotations" / "trimaps"):
        rename_all(folder, lambda path: path.name.replace(old, new))


def names_without_a_breed(pets: Path) -> None:
    replace_everywhere(pets, "Bengal_", "Bengal-")


def one_name_for_two_breeds(pets: Path) -> None:
    replace_everywhere(pets, "Bengal_", "Abyssinian_1")


def one_breed(pets: Path) -> None:
    for part in LISTS:
        write_list(pets, part, [line for line in list_lines(part) if "Abyssinian" in line])


def encode_list(encoding: str) -> Callable[[Path], None]:
    def encode(pets: Path) -> None:
        lines = "".join(f"{line}\n" for line in list_lines("trainval")).replace("Abyssinian_1", "Épagneul_1")
        (pets / "annotations" / "trainval.txt").write_bytes(lines.encode(encoding))

    return encode


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (shutil.rmtree, ["--data-root {pets}: no such folder"]),
        (
            remove_images,
            ["--data-root {pets}: holds no images/ (found: 1 folder such as 'annotations'); give the folder"],
        ),
        (pack_up, ["--data-root {pets}: a file, not a folder", "give the folder that holds images/"]),
        (
            remove_list,
            ["{pets}/annotations/test.txt: no such file", "1 folder such as 'trimaps' and 1 file", "extract it again"],
        ),
        (nest_annotations, ["annotations/trainval.txt: no such file (found: 1 folder such as 'annotations')"]),
        (nest_images, ["{pets}/images: none of the 21 listed images is there", "found: 1 folder such as 'images'"]),
        (one_folder_per_breed, ["Abyssinian_1.jpg first", "found: 3 folders such as 'Abyssinian'"]),
        (pipe_for_an_image, ["1 of 21 listed images are missing (Bengal_6.jpg first)"]),
        (
            other_trimaps,
            ["{pets}/annotations/trimaps: no listed image has a trimap", "7 files such as 'Bengal_1_mask.png'"],
        ),
        (names_without_a_breed, ["{pets}/annotations: class ids 3: the name is ''", "rename the images"]),
        (one_name_for_two_breeds, ["{pets}/annotations: class ids 1, 3: the name is 'Abyssinian'"]),
        (one_breed, ["{pets}/annotations: there is only one class id"]),
        (
            encode_list("latin-1"),
            ["{pets}/annotations/trainval.txt:1: expected", "in UTF-8, found '\ufffdpagneul_1 1 1 1'"],
        ),
        (encode_list("utf-16"), ["{pets}/annotations/trainval.txt:1: expected", "in UTF-8"]),
        (empty_list, ["{pets}/annotations/trainval.txt: lists no images; both trainval.txt and test.txt must"]),
        (remove_one_image, ["1 of 21 listed images are missing", "Bengal_6.jpg", "half extracted: extract it again"]),
        (list_what_cannot_be, ["1 of 22 listed images are missing (xxx"]),
        (
            drop_a_field,
            ["{pets}/annotations/trainval.txt:5: expected 'NAME CLASS-ID SPECIES BREED-ID'", "american_bulldog_1 2"],
        ),
        (unknown_species, ["{pets}/annotations/trainval.txt:2:", "Abyssinian_1 1 3 1"]),
        (path_as_name, ["{pets}/annotations/trainval.txt:2:", "Bengal/../../../secret 1 1 1': correct the line"]),
        (hidden_file_as_name, ["{pets}/annotations/trainval.txt:2:", "._Bengal_1"]),
        (list_twice, ["Bengal_2 is listed twice"]),
        (list_in_both_parts, ["Bengal_2 is listed twice in trainval.txt and test.txt: keep one"]),
        (one_of_a_breed, ["{pets}/annotations/trainval.txt: american_bulldog has too few images (1)", "two or more"]),
        (skip_a_class, ["{pets}/annotations: the class ids have gaps (2 has no image): number the classes from 1"]),
        (class_of_test_only, ["{pets}/annotations: class id 3 is in test.txt but not in trainval.txt"]),
    ],
)
def test_a_broken_folder_is_rejected_with_one_line_that_names_the_problem(
    pets: Path, damage: Callable[[Path], None], said: list[str]
) -> None:
    damage(pets)
    with pytest.raises(UserError) as error:
        open_oxford(pets)
    for words in said:
        assert words.format(pets=pets) in one_line(error)


@pytest.mark.parametrize("start", ["\ufeff", "\ufeff#Image CLASS-ID SPECIES BREED ID\n", "  # a comment\n\n"])
def test_a_list_may_begin_with_a_byte_order_mark_or_a_comment(pets: Path, start: str) -> None:
    fingerprint = open_oxford(pets).fingerprint
    lines = "".join(f"{line}\n" for line in list_lines("trainval"))
    (pets / "annotations" / "trainval.txt").write_text(start + lines, encoding="utf-8")
    assert open_oxford(pets).fingerprint == fingerprint


@pytest.mark.parametrize(("photo", "trimap"), [(".JPG", ".PNG"), (".jpeg", ".png"), (".JPEG", ".png")])
def test_suffixes_are_read_in_any_case_and_do_not_change_the_fingerprint(pets: Path, photo: str, trimap: str) -> None:
    before = open_oxford(pets)
    pixels = before.read(0)[0]
    rename_all(pets / "images", lambda path: path.stem + photo)
    rename_all(pets / "annotations" / "trimaps", lambda path: path.stem + trimap)
    after = open_oxford(pets)
    assert after.fingerprint == before.fingerprint
    assert after.has_trimap.tolist() == before.has_trimap.tolist()
    assert np.array_equal(after.read(0)[0], pixels)


def test_of_two_files_for_one_image_the_one_named_jpg_is_read(pets: Path) -> None:
    before = open_oxford(pets)
    for name in ("Abyssinian_1.JPG", "Abyssinian_1.jpeg"):
        shutil.copy(pets / "images" / "Bengal_1.jpg", pets / "images" / name)
    assert open_oxford(pets).fingerprint == before.fingerprint


@pytest.mark.parametrize(("listed", "stored"), [("NFC", "NFD"), ("NFD", "NFC"), ("NFC", "NFC")])
def test_names_with_accents_match_whether_composed_or_not(
    pets: Path, listed: Literal["NFC", "NFD"], stored: Literal["NFC", "NFD"]
) -> None:
    replace_everywhere(pets, "Bengal_", unicodedata.normalize(listed, "Épagneul_"))
    for folder in (pets / "images", pets / "annotations" / "trimaps"):
        rename_all(folder, lambda path: unicodedata.normalize(stored, path.name))
    source = open_oxford(pets)
    assert source.classes[2] == unicodedata.normalize(listed, "Épagneul")
    assert source.has_trimap.sum() == 7


def test_one_image_listed_composed_and_decomposed_is_listed_twice(pets: Path) -> None:
    lines = [f"{unicodedata.normalize(form, 'É_1')} 3 1 1" for form in ("NFC", "NFD")]
    write_list(pets, "trainval", [*list_lines("trainval"), *lines])
    with pytest.raises(UserError, match="is listed twice"):
        open_oxford(pets)


def test_a_turned_photo_with_a_trimap_is_refused(pets: Path) -> None:
    path, exif = pets / "images" / "Bengal_1.jpg", Image.Exif()
    exif[0x0112] = 6
    quarters().save(path, exif=exif)
    source = open_oxford(pets)
    with pytest.raises(UserError, match="save both upright") as error:
        source.read(index_of(source, "Bengal_1"))
    assert one_line(error).startswith(f"{path}: ")


def test_a_trimap_of_other_values_ends_the_packing(pets: Path, tmp_path: Path) -> None:
    path = pets / "annotations" / "trimaps" / "Bengal_1.png"
    Image.new("L", (40, 30), 85).save(path)
    with pytest.raises(UserError, match="found 85") as error:
        write_pack(open_oxford(pets), tmp_path / "pack.safetensors")
    assert one_line(error).startswith(f"{path}: ")


@pytest.mark.parametrize("damage", ["emptied", "truncated", "replaced by a web page"])
def test_a_corrupt_image_is_named_when_read_and_when_packed(pets: Path, tmp_path: Path, damage: str) -> None:
    path = pets / "images" / "american_bulldog_2.jpg"
    whole = path.read_bytes()
    contents = {
        "emptied": b"",
        "truncated": whole[: len(whole) // 2],
        "replaced by a web page": b"<html>404</html>",
    }
    path.write_bytes(contents[damage])
    source = open_oxford(pets)
    with pytest.raises(UserError) as error:
        source.read(index_of(source, "american_bulldog_2"))
    assert f"{path}: cannot be read as an image" in one_line(error)
    with pytest.raises(UserError) as error:
        write_pack(source, tmp_path / "pack.safetensors")
    assert f"{path}: cannot be read as an image" in one_line(error)
    assert not (tmp_path / "pack.safetensors").exists()


def test_a_corrupt_trimap_is_named(pets: Path) -> None:
    path = pets / "annotations" / "trimaps" / "Bengal_1.png"
    path.write_bytes(path.read_bytes()[:60])
    source = open_oxford(pets)
    with pytest.raises(UserError) as error:
        source.read(index_of(source, "Bengal_1"))
    assert str(path) in one_line(error)


def quarters() -> Image.Image:
    """An image of 120 × 60 pixels: red, green, blue and grey quarters."""
    pixels = np.empty((60, 120, 3), dtype=np.uint8)
    pixels[:30, :60], pixels[:30, 60:] = (200, 40, 40), (40, 180, 40)
    pixels[30:, :60], pixels[30:, 60:] = (40, 40, 200), (128, 128, 128)
    return Image.fromarray(pixels)


@pytest.mark.parametrize(
    ("mode", "file_format"),
    [("RGB", "JPEG"), ("L", "JPEG"), ("CMYK", "JPEG"), ("RGB", "PNG"), ("L", "PNG"), ("LA", "PNG"),
     ("RGBA", "PNG"), ("P", "PNG"), ("P", "GIF"), ("RGB", "BMP")],
)  # fmt: skip
def test_every_kind_of_image_becomes_rgb_of_the_packed_size(pets: Path, mode: str, file_format: str) -> None:
    """The real dataset has grey, CMYK and palette images, and PNG and GIF files whose names end in .jpg."""
    image = quarters().convert(mode, palette=Image.Palette.ADAPTIVE)
    image.save(pets / "images" / "Bengal_1.jpg", format=file_format)
    source = open_oxford(pets)
    pixels = source.read(index_of(source, "Bengal_1"))[0]
    assert pixels.shape == (256, 256, 3)
    assert pixels.dtype == np.uint8
    expected = np.asarray(image.convert("RGB")).astype(int)
    for y, x in ((0.25, 0.25), (0.25, 0.75), (0.75, 0.25), (0.75, 0.75)):  # squashed, not cropped
        seen = pixels[int(256 * y), int(256 * x)].astype(int)
        assert np.abs(seen - expected[int(60 * y), int(120 * x)]).max() <= 12


def test_an_image_of_the_packed_size_is_not_resampled(pets: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(pets / "images" / "Abyssinian_1.jpg", format="PNG")
    assert np.array_equal(open_oxford(pets).read(0)[0], pixels)


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_of_the_packed_size_decodes_as_in_pillow(
    pets: Path, mode: str, subsampling: str, progressive: bool
) -> None:
    path = pets / "images" / "Abyssinian_1.jpg"
    quarters().resize((256, 256)).convert(mode).save(path, subsampling=subsampling, progressive=progressive)
    with Image.open(path) as image:
        assert np.array_equal(open_oxford(pets).read(0)[0], np.asarray(image.convert("RGB")))


def test_a_truncated_jpeg_of_the_packed_size_is_named(pets: Path) -> None:
    path = pets / "images" / "Abyssinian_1.jpg"
    quarters().resize((256, 256)).save(path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UserError, match="cannot be read as an image") as error:
        open_oxford(pets).read(0)
    assert str(path) in one_line(error)


def test_trimaps_are_optional_and_keep_their_three_values_when_resized(pets: Path) -> None:
    (pets / "annotations" / "trimaps" / "Bengal_3.png").unlink()
    source = open_oxford(pets)
    known = [name for name, has in zip(source.names, source.has_trimap, strict=True) if has]
    assert known == ["Bengal_1", "Bengal_2", "Bengal_4", "Bengal_5", "Bengal_6", "Bengal_7"]
    for index, name in enumerate(source.names):
        trimap = source.read(index)[1]
        if name not in known:
            assert trimap is None
            continue
        assert trimap is not None
        assert trimap.shape == (256, 256)
        assert set(np.unique(trimap)) == {1, 2, 3}
        original = np.asarray(Image.open(pets / "annotations" / "trimaps" / f"{name}.png"))
        rows, columns = (np.arange(256) + 0.5) * 30 // 256, (np.arange(256) + 0.5) * 40 // 256
        assert np.array_equal(trimap, original[rows.astype(int)][:, columns.astype(int)])


def test_a_folder_without_trimaps_opens_and_packs(pets: Path, tmp_path: Path) -> None:
    shutil.rmtree(pets / "annotations" / "trimaps")
    source = open_oxford(pets)
    assert not source.has_trimap.any()
    write_pack(source, tmp_path / "pack.safetensors")
    assert open_pack(tmp_path / "pack.safetensors").trimaps_TSS.shape == (0, 256, 256)


def test_the_fingerprint_is_made_of_lists_names_and_bytes(pets: Path) -> None:
    """Written out: the stores of earlier versions have packs under such names."""
    lines = ["oxford-iiit-pet pack 1 256"]
    listed = [line.split() for part in LISTS for line in list_lines(part)]
    lines += [f"{name} {int(label) - 1} {'cat' if species == '1' else 'dog'}" for name, label, species, _ in listed]
    files = [pets / "images" / f"{fields[0]}.jpg" for fields in listed]
    files += [pets / "annotations" / "trimaps" / f"{fields[0]}.png" for fields in listed if "Bengal" in fields[0]]
    lines += [f"{file.parent.name}/{file.name} {hashlib.sha256(file.read_bytes()).hexdigest()}" for file in files]
    content = "".join(f"{line}\n" for line in lines).encode()
    assert open_oxford(pets).fingerprint == hashlib.sha256(content).hexdigest()[:16]


def test_the_fingerprint_does_not_depend_on_place_or_time(pets: Path, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere" / "pets"
    shutil.copytree(pets, copy)
    for number, path in enumerate(sorted(copy.rglob("*.*"))):
        os.utime(path, (number, number))
    (copy / "images" / "not_listed.mat").write_bytes(b"the real folder has such files")
    fingerprint = open_oxford(pets).fingerprint
    assert open_oxford(copy).fingerprint == fingerprint
    assert len(fingerprint) == 16
    assert set(fingerprint) <= set("0123456789abcdef")


def change_image(pets: Path) -> None:
    change_byte(pets / "images" / "Bengal_5.jpg")


def change_trimap(pets: Path) -> None:
    change_byte(pets / "annotations" / "trimaps" / "Bengal_5.png")


def remove_trimap(pets: Path) -> None:
    (pets / "annotations" / "trimaps" / "Bengal_5.png").unlink()


def shorten_list(pets: Path) -> None:
    write_list(pets, "test", list_lines("test")[:-1])


def reorder_list(pets: Path) -> None:
    write_list(pets, "trainval", list_lines("trainval")[::-1])


def change_label(pets: Path) -> None:
    lines = [line.replace("Bengal_2 3", "Bengal_2 1") for line in list_lines("trainval")]
    write_list(pets, "trainval", lines)


def change_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "change", [change_image, change_trimap, remove_trimap, shorten_list, reorder_list, change_label]
)
def test_the_fingerprint_changes_with_the_content(pets: Path, change: Callable[[Path], None]) -> None:
    before = open_oxford(pets).fingerprint
    change(pets)
    assert open_oxford(pets).fingerprint != before
