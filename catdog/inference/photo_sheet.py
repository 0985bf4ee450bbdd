"""A photo beside the masks of a network, at the photo's own resolution, as a JPEG.

Masks lie over the photo in grey, as colours of the scale that is printed below them, with bilinear transitions between
the cells of the feature map. Of photos that were cropped to a square, the rest has no colours.
"""

import io
import itertools
import math

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from catdog.data.datasets.base import Resize
from catdog.data.images import read_whole
from catdog.inference.network import Prediction
from catdog.runs.places import HEAD
from catdog.trial.contact_sheet import colour_scale, drawable, fitting, paint_mask

MOST_PIXELS = 100_000_000
"""Of a sheet; photos on larger ones are drawn smaller."""
MOST_SIDE = 16_000
"""Of a photo on a sheet, in pixels: a JPEG has at most 65,535."""
GREY = 0.5
"""The share of the photo under a mask."""
MOST_IN_ROW = 5
LEAST_WIDTH = 264
"""Of the text below a picture, in pixels; the pictures of small photos are narrower."""
MOST_CLASSES = 2
"""Named below the photo."""
Line = tuple[str, str]
"""What stands there, and what does where no font has its letters."""
_INK, _PAPER = (25, 25, 25), (255, 255, 255)


def photo_sheet(prediction: Prediction, resize: Resize) -> bytes:
    """Return the photo with its likeliest classes, and beside it the masks of the first network, as JPEG bytes."""
    tiles = [(place, mask) for place, masks in prediction.maps.items() for mask in range(len(masks))]
    rows = math.ceil((1 + len(tiles)) / MOST_IN_ROW)
    columns = math.ceil((1 + len(tiles)) / rows)
    photo = _small_enough(read_whole(prediction.photo), rows * columns)
    width = max(photo.width, LEAST_WIDTH)
    size = width // 22
    said = _said(prediction)
    step = width + size, photo.height + (len(said) + 1) * size * 3 // 2
    sheet = Image.new("RGB", (columns * step[0] + size, rows * step[1] + size), _PAPER)
    places = itertools.product(range(rows), range(columns))
    pictures = [(photo, said), *((_overlay(prediction, photo, resize, *tile)) for tile in tiles)]
    pen = ImageDraw.Draw(sheet)
    for (row, column), (picture, lines) in zip(places, pictures, strict=False):
        left, top = size + column * step[0], size + row * step[1]
        sheet.paste(picture, (left, top))
        for number, line in enumerate(lines):
            text, font = drawable(*line, size)
            at = (left, top + photo.height + number * size * 3 // 2)
            pen.text(at, fitting(text, width, pen, font), _INK, font)
    buffer = io.BytesIO()
    sheet.save(buffer, format="JPEG", quality=90)
    return buffer.getvalue()


def _small_enough(photo: Image.Image, tiles: int) -> Image.Image:
    scale = min(math.sqrt(MOST_PIXELS / (tiles * photo.width * photo.height)), MOST_SIDE / max(photo.size))
    return photo if scale >= 1 else photo.resize((max(1, int(photo.width * scale)), max(1, int(photo.height * scale))))


def _said(prediction: Prediction) -> list[Line]:
    shown = [(label, f" {100 * prediction.mean_K[label]:.1f} %") for label in prediction.top(MOST_CLASSES)]
    lines = [(prediction.classes[label] + share, f"class {label + 1}{share}") for label, share in shown]
    if (second := prediction.second) is not None:
        name, share = second.likeliest
        lines.append((f"{second.task}: {name} {100 * share:.1f} %", f"{second.task}: {100 * share:.1f} %"))
    return lines


def _overlay(
    prediction: Prediction, photo: Image.Image, resize: Resize, place: str, mask: int
) -> tuple[Image.Image, list[Line]]:
    """Return a mask over the photo, and what stands below it."""
    masks_MHW = prediction.maps[place]
    low, high = colour_scale(masks_MHW)
    mask_HW = masks_MHW[mask]
    grey = np.repeat(np.asarray(photo.convert("L"))[:, :, None], 3, axis=2).astype(np.float32)
    top, left, height, width = _square_of(photo) if resize == "crop" else (0, 0, photo.height, photo.width)
    colours = paint_mask(_enlarged(mask_HW, height, width), low, high).astype(np.float32)
    inside = grey[top : top + height, left : left + width]
    inside[:] = GREY * inside + (1 - GREY) * colours
    name = f"mask {mask + 1}" if place == HEAD else place if len(masks_MHW) == 1 else f"{place}, mask {mask + 1}"
    said = f"{name}: {mask_HW.min():.3g} to {mask_HW.max():.3g}", f"colours: {low:g} to {high:.3g}"
    return Image.fromarray(grey.round().astype(np.uint8)), [(line, line) for line in said]


def _square_of(photo: Image.Image) -> tuple[int, int, int, int]:
    """Return top, left, height and width of the centre that `crop` keeps."""
    side = min(photo.size)
    return (photo.height - side) // 2, (photo.width - side) // 2, side, side


def _enlarged(mask_HW: npt.NDArray[np.floating], height: int, width: int) -> npt.NDArray[np.float32]:
    mask = Image.fromarray(np.nan_to_num(mask_HW).astype(np.float32))
    return np.asarray(mask.resize((width, height), Image.Resampling.BILINEAR))
