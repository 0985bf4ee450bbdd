"""Image files: read as a viewer shows them or refused with one line; nothing hostile runs or fills the memory."""

import contextlib
import hashlib
import io
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from catdog.data.images import PixelBudget, photo_digest, read_photo, read_trimap, trimap_digest
from catdog.errors import UserError
from tests.helpers.project import PACKAGE, ROOT

SIDE = 256
RAMP = np.tile(np.arange(256, dtype=np.uint8), (256, 1))
GREY = np.repeat(RAMP[..., None], 3, axis=2)
COLOURS = np.stack([RAMP, RAMP.T, 255 - RAMP], axis=2)
ORIENTATION = 0x0112

UInt8Array = npt.NDArray[np.uint8]


def pixels(path: Path) -> UInt8Array:
    return read_photo(str(path), SIDE).pixels


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as error:
        read_photo(str(path), SIDE)
    message = str(error.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif


def test_one_module_opens_images_besides_the_pages_sheets_and_names_the_formats() -> None:
    opening = {path.name: re.findall(r"Image\.open\(.*", path.read_text()) for path in PACKAGE.rglob("*.py")}
    assert {name: calls for name, calls in opening.items() if calls} == {
        "images.py": ["Image.open(path, formats=FORMATS) as image:"],
        "mask_gallery.py": ['Image.open(io.BytesIO(png), formats=["PNG"]) as sheet:'],
    }


def test_a_file_that_the_system_refuses_is_named_with_its_reason(tmp_path: Path) -> None:
    assert "cannot be read as an image (No such file or directory): replace it or" in refusal(tmp_path / "photo.jpg")
    assert "cannot be read as an image (Is a directory): replace it or" in refusal(tmp_path)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "MPO"])
def test_the_content_decides_the_format_and_an_animation_gives_its_first_frame(
    file_format: str, tmp_path: Path
) -> None:
    path, image = tmp_path / "photo.jpg", Image.fromarray(COLOURS)
    more = {"save_all": True, "append_images": [Image.fromarray(255 - COLOURS)]}
    image.save(path, file_format, **(more if file_format not in ("JPEG", "BMP") else {}))
    assert np.abs(pixels(path).astype(int) - COLOURS).mean() < 5  # a GIF has 256 colours


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"


def test_a_program_named_like_an_image_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, trace, ghostscript = tmp_path / "photo.jpg", tmp_path / "trace", tmp_path / "gs"
    path.write_bytes(EPS)
    ghostscript.write_text(f"#!/bin/sh\ntouch {trace}\n")
    ghostscript.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert "its content is none of JPEG, PNG," in refusal(path)
    with pytest.raises(UserError):
        read_trimap(str(path), SIDE)
    photo_digest(str(path))
    assert not trace.exists()
    with Image.open(path) as image, contextlib.suppress(OSError):
        image.load()
    assert trace.exists(), "Pillow, left to choose, would have run it"


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_a_photo_is_turned_as_its_exif_orientation_says(file_format: str, orientation: int, tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    Image.fromarray(COLOURS).save(path, file_format, exif=turned(orientation))
    with Image.open(path) as image:
        shown = ImageOps.exif_transpose(image).convert("RGB")
    photo = read_photo(str(path), SIDE)
    assert np.array_equal(photo.pixels, np.asarray(shown))
    assert photo.is_turned == (orientation > 1), "its trimap may not be"


def test_a_turned_photo_of_another_shape_is_turned_whole(tmp_path: Path) -> None:
    path, stored = tmp_path / "photo.jpg", np.full((30, 90, 3), 200, dtype=np.uint8)
    stored[:, :45] = 20  # dark on the left; orientation 6 shows that at the top
    Image.fromarray(stored).save(path, "JPEG", exif=turned(6))
    shown = pixels(path).astype(int)
    assert np.abs(shown[:100] - 20).max() < 9
    assert np.abs(shown[156:] - 200).max() < 9


def test_an_orientation_in_xmp_counts_too(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="3"/></x:xmpmeta>'
    Image.fromarray(COLOURS).save(path, "JPEG", xmp=xmp)
    assert np.abs(pixels(path).astype(int) - COLOURS[::-1, ::-1]).mean() < 3


def test_damaged_exif_data_are_passed_over_without_a_word(tmp_path: Path) -> None:
    exif = turned(3)
    exif[0x010E] = "a description that is stored after the directory of the tags"
    for length in (8, 20, 40, 60):
        Image.fromarray(COLOURS).save(tmp_path / f"{length}.jpg", "JPEG", exif=exif.tobytes()[:length])
    script = "import sys; from catdog.data.images import read_photo; [read_photo(path, 256) for path in sys.argv[1:]]"
    command = [sys.executable, "-c", script, *map(str, tmp_path.iterdir())]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def big_endian() -> Image.Image:
    return Image.frombytes("I;16B", (256, 256), (RAMP.astype(">u2") * 257).tobytes())


@pytest.mark.parametrize(
    ("file_format", "image"),
    [
        ("PNG", Image.fromarray(RAMP.astype(np.uint16) * 257)),
        ("TIFF", Image.fromarray(RAMP.astype(np.uint16) * 257)),
        ("TIFF", big_endian()),
        ("PNG", Image.fromarray(RAMP)),
        ("TIFF", Image.fromarray(GREY).convert("CMYK")),
        ("PNG", Image.fromarray(RAMP).convert("LA")),
    ],
    ids=["16-bit PNG", "16-bit TIFF", "16-bit TIFF, big-endian", "8-bit PNG", "CMYK TIFF", "opaque PNG"],
)
def test_grey_keeps_its_levels(file_format: str, image: Image.Image, tmp_path: Path) -> None:
    image.save(tmp_path / "photo.jpg", file_format)
    assert np.array_equal(pixels(tmp_path / "photo.jpg"), GREY)


def test_one_bit_is_black_or_white(tmp_path: Path) -> None:
    Image.fromarray(RAMP > 127).save(tmp_path / "photo.jpg", "PNG")
    assert np.array_equal(pixels(tmp_path / "photo.jpg"), np.where(GREY > 127, 255, 0))


@pytest.mark.parametrize(
    ("image", "file_format", "options"),
    [
        (Image.fromarray(RAMP.astype(np.float32) / 255), "TIFF", {}),
        (Image.fromarray(RAMP.astype(np.int32) * 257), "TIFF", {}),
        (Image.fromarray(RAMP.astype(np.uint16) * 257), "TIFF", {"tiffinfo": {262: 0}}),
        (Image.fromarray(RAMP.astype(np.uint16) * 257), "PNG", {"transparency": 0}),
    ],
    ids=["floating point", "32-bit integers", "0 is white", "16-bit with a transparent level"],
)
def test_pixels_without_an_agreed_black_and_white_are_refused(
    image: Image.Image, file_format: str, options: dict[str, object], tmp_path: Path
) -> None:
    image.save(tmp_path / "photo.jpg", file_format, **options)
    assert "have no agreed black and white: save it with 8 bits a channel" in refusal(tmp_path / "photo.jpg")


def cut_out(alpha: int) -> Image.Image:
    """Half opaque colours, half `alpha` over black."""
    left = (RAMP < 128)[..., None]
    return Image.fromarray(np.where(left, np.dstack([COLOURS, np.full_like(RAMP, 255)]), np.uint8([0, 0, 0, alpha])))


def save_cut_palette(path: Path) -> None:
    """Two colours: opaque red on the left, transparent black on the right."""
    image = Image.fromarray((RAMP > 127).astype(np.uint8)).convert("P")
    image.putpalette([255, 0, 0, 0, 0, 0])
    image.save(path, "PNG", transparency=1)


@pytest.mark.parametrize(("alpha", "level"), [(0, 255), (51, 204), (255, 0)])
def test_transparency_is_shown_on_white(alpha: int, level: int, tmp_path: Path) -> None:
    cut_out(alpha).save(tmp_path / "photo.jpg", "PNG")
    assert np.array_equal(pixels(tmp_path / "photo.jpg"), np.where((RAMP < 128)[..., None], COLOURS, level))


def test_a_transparent_colour_of_a_palette_is_white(tmp_path: Path) -> None:
    save_cut_palette(tmp_path / "photo.jpg")
    assert np.array_equal(pixels(tmp_path / "photo.jpg"), np.where((RAMP < 128)[..., None], [255, 0, 0], 255))


@pytest.mark.parametrize("size", [(10_001, 10_000), (70_000, 1), (1, 70_000)])
def test_an_image_that_would_fill_the_memory_is_refused_from_its_header(size: tuple[int, int], tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    Image.new("1", size).save(path, "PNG")
    assert f"{size[0]} × {size[1]} pixels" in refusal(path)
    path.write_bytes(path.read_bytes()[:60])  # nothing to decode
    assert "save it smaller or leave it out" in refusal(path)


def test_threads_share_a_budget_of_pixels() -> None:
    budget, lock, held, peaks = PixelBudget(10), threading.Lock(), [0], []

    def work(count: int) -> None:
        with budget.take(count):
            with lock:
                held[0] += count
                peaks.append(held[0])
            with lock:
                held[0] -= count

    threads = [threading.Thread(target=work, args=(count,)) for count in (10, 3, 4, 7, 10, 1, 6, 5) * 5]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(peaks) == 40
    assert max(peaks) == 10


def test_a_budget_is_given_back_after_an_error() -> None:
    budget = PixelBudget(10)
    for _ in range(3):
        with pytest.raises(ValueError, match="damaged"), budget.take(10):
            raise ValueError("damaged")


TRIMAP = np.full((40, 60), 2, dtype=np.uint8)
TRIMAP[10:30, 20:40], TRIMAP[9, 20:40] = 1, 3


def with_palette(values: UInt8Array) -> Image.Image:
    image = Image.fromarray(values, "P")
    image.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 9, 9])
    return image


@pytest.mark.parametrize(
    "image",
    [Image.fromarray(TRIMAP), with_palette(TRIMAP), Image.fromarray(TRIMAP.astype(np.uint16))],
    ids=["grey", "palette", "16-bit"],
)
def test_a_trimap_keeps_its_values_whatever_its_colours(image: Image.Image, tmp_path: Path) -> None:
    image.save(tmp_path / "trimap.png")
    rows, columns = (np.arange(256) + 0.5) * 40 // 256, (np.arange(256) + 0.5) * 60 // 256
    expected = TRIMAP[rows.astype(int)][:, columns.astype(int)]
    assert np.array_equal(read_trimap(str(tmp_path / "trimap.png"), SIDE), expected)


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (Image.fromarray(TRIMAP * 85), "found 170"),
        (Image.fromarray(TRIMAP - 1), "found 0"),
        (Image.fromarray(TRIMAP + 1), "found 4"),
        (Image.fromarray(TRIMAP.astype(np.uint16) * 257), "found 514"),
        (with_palette(TRIMAP + 1), "found 4"),
        (Image.fromarray(np.repeat(TRIMAP[..., None], 3, axis=2)), "this image is RGB"),
        (Image.fromarray(TRIMAP).convert("LA"), "this image is LA"),
        (Image.fromarray(TRIMAP > 1), "this image is 1"),
    ],
    ids=["scaled", "from 0", "4", "16-bit scaled", "palette with 4", "RGB", "alpha", "1-bit"],
)
def test_a_trimap_of_other_values_is_refused(image: Image.Image, said: str, tmp_path: Path) -> None:
    path = tmp_path / "trimap.png"
    image.save(path)
    with pytest.raises(UserError, match=said) as error:
        read_trimap(str(path), SIDE)
    assert str(error.value).startswith(f"{path}: a trimap")
    assert "\n" not in str(error.value)


def saved(image: Image.Image, file_format: str, **options: object) -> bytes:
    content = io.BytesIO()
    image.save(content, file_format, **options)
    return content.getvalue()


RGB = Image.fromarray(COLOURS)
AS_STORED = {
    "JPEG": saved(RGB, "JPEG"),
    "JPEG with EXIF": saved(RGB, "JPEG", exif=turned(1)),
    "JPEG that is cut": saved(RGB, "JPEG", exif=turned(3))[:300],
    "palette": saved(RGB.quantize(), "PNG"),
    "opaque alpha": saved(cut_out(255), "PNG"),
    "turned TIFF": saved(RGB, "TIFF", exif=turned(3)),  # Pillow has always turned these
    "no image": b"<html>",
    "nothing": b"",
}
AS_SHOWN = {
    "turned JPEG": saved(RGB, "JPEG", exif=turned(3)),
    "16-bit": saved(Image.fromarray(RAMP.astype(np.uint16) * 257), "PNG"),
    "transparent": saved(cut_out(254), "PNG"),
}


@pytest.mark.parametrize("kind", AS_STORED | AS_SHOWN)
def test_the_digest_of_a_photo_is_marked_where_the_first_version_packed_other_pixels(kind: str, tmp_path: Path) -> None:
    content = (AS_STORED | AS_SHOWN)[kind]
    (tmp_path / "photo.jpg").write_bytes(content)
    plain = hashlib.sha256(content).hexdigest()
    assert photo_digest(str(tmp_path / "photo.jpg")) == (plain if kind in AS_STORED else f"{plain} as shown")


@pytest.mark.parametrize("palette", [False, True])
def test_the_digest_of_a_trimap_is_marked_if_it_has_a_palette(palette: bool, tmp_path: Path) -> None:
    content = saved(with_palette(TRIMAP) if palette else Image.fromarray(TRIMAP), "PNG")
    (tmp_path / "trimap.png").write_bytes(content)
    plain = hashlib.sha256(content).hexdigest()
    assert trimap_digest(str(tmp_path / "trimap.png")) == (f"{plain} by index" if palette else plain)


def test_a_file_larger_than_a_block_is_hashed_whole(tmp_path: Path) -> None:
    content = AS_STORED["JPEG"] + os.urandom(3 << 20)
    (tmp_path / "photo.jpg").write_bytes(content)
    assert photo_digest(str(tmp_path / "photo.jpg")) == hashlib.sha256(content).hexdigest()


SMALL = Image.fromarray(COLOURS[:16, ::16].copy())
WHOLE = [
    *(saved(SMALL, file_format, exif=turned(6)) for file_format in ("JPEG", "PNG", "WEBP", "TIFF", "AVIF")),
    *(saved(SMALL, file_format) for file_format in ("GIF", "BMP")),
    saved(SMALL.quantize(7), "PNG", transparency=bytes(range(7))),
    saved(Image.fromarray(RAMP[:16, :16].astype(np.uint16)), "PNG"),
]


@given(
    whole=st.sampled_from(WHOLE),
    changes=st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=8),
    kept=st.floats(0.5, 1),
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_file_gives_pixels_or_one_line(
    tmp_path: Path, whole: bytes, changes: list[tuple[int, int]], kept: float
) -> None:
    content = bytearray(whole)
    for at, value in changes:
        content[at % len(content)] = value
    path = tmp_path / "photo.jpg"
    path.write_bytes(content[: round(kept * len(content))])
    photo_digest(str(path))
    try:
        said, shape = f"{path}", pixels(path).shape
    except UserError as error:
        said, shape = str(error), (SIDE, SIDE, 3)
    assert shape == (SIDE, SIDE, 3)
    assert str(path) in said
    assert "\n" not in said
