"""Reads image files as a viewer shows them; the only place of the product that opens one.

A file's content decides its format, not its name. Photos become RGB: turned as their EXIF orientation says,
transparency on white, 16-bit grey reduced to 8 bits. Animations give their first frame; colour profiles are ignored, as
in torchvision. Pixels without an agreed black and white (floating point, 32-bit integers) are refused. Trimaps keep
their values.
"""

import contextlib
import hashlib
import threading
import warnings
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import simplejpeg
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.ExifTags import Base as Tag

from catdog.data.datasets.base import Resize, UInt8Array
from catdog.errors import UserError, first_line
from catdog.formatting import shorten

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
"""What a camera, a browser or a drawing program writes. None of Pillow's other readers: EPS, for one, is a program that
Ghostscript would run."""
MAX_PIXELS = 100_000_000
"""Of one image, and of all images that are being decoded at the same time, in any number of threads."""
MAX_SIDE = 65_535
"""A JPEG's limit; resampling a longer side takes gigabytes."""

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What to do by EXIF orientation."""
_BLOCK = 1 << 20

Image.MAX_IMAGE_PIXELS = None  # Pillow would print a warning of its own; `_open` has the limit
warnings.filterwarnings("ignore", module=r"PIL\.")  # about damaged EXIF data, which viewers ignore


class PixelBudget:
    """Lets threads work on `total` pixels at a time, so that memory does not grow with the number of cores."""

    def __init__(self, total: int) -> None:
        self._free = total
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def take(self, count: int) -> Iterator[None]:
        """Wait until `count` pixels (at most the total) are free, and hold them during the block."""
        with self._changed:
            self._changed.wait_for(lambda: count <= self._free)
            self._free -= count
        try:
            yield
        finally:
            with self._changed:
                self._free += count
                self._changed.notify_all()


_budget = PixelBudget(MAX_PIXELS)


class Photo(NamedTuple):
    """A decoded photo."""

    pixels: UInt8Array
    """(side, side, 3)."""
    is_turned: bool
    """Whether its EXIF orientation differs from how its pixels are stored."""
    size: tuple[int, int]
    """Width and height of the stored pixels."""


def read_photo(path: str, side: int, resize: Resize = "squash") -> Photo:
    """Decode a photo and resize it to `side` × `side`, antialiased, in RGB; raise `UserError` if that cannot be done.

    simplejpeg gives the same pixels as Pillow (both use libjpeg-turbo) without copies that hold the GIL. Anything but
    an intact, upright colour JPEG of that size is left to Pillow, which also reports what is wrong with it.
    """
    with contextlib.suppress(OSError, ValueError):
        with open(path, "rb", buffering=0) as file:
            data = file.read(_BLOCK)
        if simplejpeg.decode_jpeg_header(data)[:3] == (side, side, "YCbCr") and not _may_be_turned(data):
            return Photo(simplejpeg.decode_jpeg(data, "RGB"), is_turned=False, size=(side, side))
    with _open(path) as image:
        return to_photo(image, path, side, resize)


def to_photo(image: Image.Image, name: str, side: int, resize: Resize) -> Photo:
    """Return an opened image as `read_photo` does; `name` is what a `UserError` calls it."""
    is_turned, size = _orientation(image) in _TURNS, image.size
    rgb = _turned(_square(_to_rgb(image, name), side, resize, Image.Resampling.BICUBIC), image)
    return Photo(np.asarray(rgb), is_turned, size)


def read_whole(path: str) -> Image.Image:
    """Return a photo in RGB, upright and at its own resolution; raise `UserError` if it cannot be read."""
    with _open(path) as image:
        return _turned(_to_rgb(image, path), image)


def _turned(rgb: Image.Image, opened: Image.Image) -> Image.Image:
    """Return what was made of an opened image's pixels as its EXIF orientation says."""
    turn = _TURNS.get(_orientation(opened))
    return rgb if turn is None or _turns_itself(opened) else rgb.transpose(turn)


def read_mask(path: str, photo: Photo, resize: Resize) -> UInt8Array:
    """Return the mask of an object as a trimap (1 object, 2 background) of its photo; raise `UserError` if it is none.

    A mask has two values, 0 for the background, and as many pixels as the photo.
    """
    side = photo.pixels.shape[0]
    with _open(path) as image:
        if image.size != photo.size:
            raise UserError(
                f"{path}: {image.width} × {image.height} pixels, its image has {photo.size[0]} × {photo.size[1]}: "
                "save the mask of the whole image"
            )
        opaque = image.convert(image.mode[:-1]) if image.mode in ("LA", "PA", "RGBA") else image
        values = np.asarray(opaque)
        if values.ndim == 3:
            values = values @ np.array([1, 1 << 8, 1 << 16])
        found = np.unique(values)
        if len(found) > 2 or (len(found) == 2 and found[0] != 0):
            raise UserError(
                f"{path}: a mask has two values, 0 for the background, found {shorten(', '.join(map(str, found)))}: "
                "save it as PNG with two values"
            )
        trimap = Image.fromarray(np.where(values != 0, 1, 2).astype(np.uint8))
        return np.asarray(_square(trimap, side, resize, Image.Resampling.NEAREST))


def read_trimap(path: str, side: int, resize: Resize = "squash") -> UInt8Array:
    """Return a trimap (1 animal, 2 background, 3 border), resized to (side, side); raise `UserError` for other values.

    A palette only colours the values for viewing.
    """
    with _open(path) as image:
        if image.mode not in ("L", "P", "I") and not image.mode.startswith("I;16"):
            raise UserError(
                f"{path}: a trimap has one channel with the values 1, 2 and 3, this image is {image.mode}: "
                "save it as 8-bit grey"
            )
        values = np.asarray(image)
        wrong = values[(values < 1) | (values > 3)]
        if wrong.size:
            raise UserError(
                f"{path}: a trimap's values are 1 (animal), 2 (background) and 3 (border), found {wrong[0]}: "
                "correct the file or remove it"
            )
        trimap = Image.fromarray(values.astype(np.uint8))
        return np.asarray(_square(trimap, side, resize, Image.Resampling.NEAREST))


def photo_digest(path: str) -> str:
    """Return the sha256 of a photo's file, marked if the first version packed other pixels from the same bytes."""
    digest, start = _sha256(path)
    if start.startswith(b"\xff\xd8") and not _may_be_turned(start):
        return digest  # an upright JPEG: no need to have it parsed
    with contextlib.suppress(UserError), _open(path) as image:
        is_turned = _orientation(image) in _TURNS and not _turns_itself(image)
        if is_turned or _is_deep(image) or _is_see_through(image):
            return f"{digest} as shown"
    return digest


def trimap_digest(path: str) -> str:
    """Return the sha256 of a trimap's file, marked if the first version packed other values from the same bytes."""
    digest, _ = _sha256(path)
    with contextlib.suppress(UserError), _open(path) as image:
        if image.mode == "P":
            return f"{digest} by index"
    return digest


@contextlib.contextmanager
def _open(path: str) -> Iterator[Image.Image]:
    """Open an image file to be decoded in the block; any error there becomes a `UserError` that names the file."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS or max(image.size) > MAX_SIDE:
                raise UserError(
                    f"{path}: {image.width} × {image.height} pixels, more than {MAX_PIXELS // 10**6} million or "
                    f"{MAX_SIDE} on a side: save it smaller or leave it out"
                )
            with _budget.take(image.width * image.height):
                yield image
    except UserError:
        raise
    except Exception as error:  # decoders raise errors of many classes for damaged files
        reason = getattr(error, "strerror", None) or first_line(error)
        if isinstance(error, UnidentifiedImageError):
            reason = f"its content is none of {', '.join(FORMATS)}"
        raise UserError(f"{path}: cannot be read as an image ({reason}): replace it or leave it out") from None


def _may_be_turned(start: bytes) -> bool:
    """Return whether a JPEG that starts so must be parsed to know its orientation."""
    return b"Exif\0\0" in start or b"tiff:Orientation" in start


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation; 1 (as stored) if there is none, or if the EXIF data are damaged."""
    try:
        return int(image.getexif().get(Tag.Orientation, 1))
    except Exception:  # of many classes, as in `_open`
        return 1


def _turns_itself(image: Image.Image) -> bool:
    """Return whether Pillow turns an image as it decodes it."""
    return image.format == "TIFF"


def _square(image: Image.Image, side: int, resize: Resize, resampling: Image.Resampling) -> Image.Image:
    if image.size == (side, side):
        return image
    if resize == "crop":
        return ImageOps.fit(image, (side, side), resampling)
    return image.resize((side, side), resampling)


def _to_rgb(image: Image.Image, path: str) -> Image.Image:
    if _is_deep(image):
        if not _is_16_bit(image):
            raise UserError(
                f"{path}: its pixels ({image.mode}) have no agreed black and white: save it with 8 bits a channel"
            )
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        rgba, image = image.convert("RGBA"), Image.new("RGB", image.size, "white")
        image.paste(rgba, mask=rgba)
    return image.convert("RGB")


def _is_deep(image: Image.Image) -> bool:
    """Return whether a grey pixel has more than 8 bits (Pillow reduces 16-bit colour by itself)."""
    return image.mode.startswith(("I", "F"))


def _is_16_bit(image: Image.Image) -> bool:
    """Return whether a deep image is opaque and runs from 0, black, to 65,535, white."""
    tags = getattr(image, "tag_v2", {})  # of a TIFF: its bits, and whether 0 is black
    whole_range = (tags.get(Tag.BitsPerSample, (16,)), tags.get(Tag.PhotometricInterpretation, 1)) == ((16,), 1)
    return image.mode.startswith("I;16") and whole_range and not image.has_transparency_data


def _is_see_through(image: Image.Image) -> bool:
    return image.has_transparency_data and bool(np.asarray(image.convert("RGBA").getchannel("A")).min() < 255)


def _sha256(path: str) -> tuple[str, bytes]:
    """Return the sha256 of a file, and its first mebibyte."""
    try:
        with open(path, "rb", buffering=0) as file:
            start = file.read(_BLOCK)
            digest = hashlib.sha256(start)
            while block := file.read(_BLOCK):
                digest.update(block)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror or error}): check its permissions, or replace it"
        ) from None
    return digest.hexdigest(), start
