"""Contact sheets: the probe images beside their attention masks, one PNG per epoch. Arrays in, bytes out; no I/O.

One row per probe image: the image, then its masks at their own resolution (one cell per position of the feature map),
by place; of several places with many masks, each has a line of its own. All masks of a place share one scale, which
starts at 0 and is printed: to 1 for sigmoid masks, further where a mask exceeds 1. The values that each mask takes are
printed below it, because a mask near 0.93 everywhere is one colour. The same arrays give the same bytes.
"""

import functools
import importlib.util
import io
import itertools
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from catdog.formatting import colour_map, readable
from catdog.runs.places import HEAD

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
CELL = 128
GAP = 8
CAPTION = 30
MOST_IN_LINE = 8
"""Masks of several places that share a line."""
TITLE = 26
_FONT = 12
_INK, _PAPER, _RIGHT, _WRONG = (25, 25, 25), (255, 255, 255), (0, 110, 40), (180, 30, 20)


@dataclass(frozen=True)
class Probes:
    """The images on all contact sheets of a trial. P images of side S, K classes."""

    images_PSSC: npt.NDArray[np.uint8]
    names: tuple[str, ...]
    labels_P: npt.NDArray[np.int64]
    classes: tuple[str, ...]


def colour_scale(masks: npt.NDArray[np.floating]) -> tuple[float, float]:
    """Return the values at the ends of the colour scale of all these masks: 0, and 1 or the largest value above it."""
    return 0.0, float(max(1.0, masks.max(where=np.isfinite(masks), initial=1.0)))


def paint_mask(mask_HW: npt.NDArray[np.floating], low: float, high: float) -> npt.NDArray[np.uint8]:
    """Return the mask as colours (H, W, 3); values outside [low, high] take the end colours, NaN the lowest."""
    with np.errstate(invalid="ignore"):  # masks of a diverging network hold NaN and infinity
        share = (mask_HW.astype(np.float64) - low) / max(high - low, 1e-9)
    return colour_map()[(np.nan_to_num(np.clip(share, 0, 1)) * 255).round().astype(np.uint8)]


def contact_sheet(
    probes: Probes,
    masks: Mapping[str, npt.NDArray[np.floating]],
    predicted_P: npt.NDArray[np.int64],
    title: str,
) -> bytes:
    """Return the sheet of one epoch as PNG bytes; `masks` are (P, M, H, W) by place.

    Its title makes a sheet of one mask wider, up to that of two; of one that is longer still, what stands before its
    first ` · ` is shortened.
    """
    lines, step, count = _lines(masks), CELL + GAP, len(predicted_P)
    font = ImageFont.load_default(_FONT)
    for_title = min(math.ceil(font.getlength(title)) + 2 * GAP, GAP + 3 * step)
    width = max(GAP + (1 + max(map(len, lines))) * step, for_title)
    sheet = Image.new("RGB", (width, TITLE + count * len(lines) * (step + CAPTION)), _PAPER)
    pen = ImageDraw.Draw(sheet)
    name, dot, rest = title.partition(" · ")
    room = width - 2 * GAP
    title = fitting(name, room - int(pen.textlength(dot + rest, font)), pen, font) + dot + rest
    pen.text((GAP, 6), fitting(title, room, pen, font), _INK, font)
    for row in range(count):
        top = TITLE + row * len(lines) * (step + CAPTION)
        _draw_image(sheet, pen, top, probes, row, int(predicted_P[row]))
        for line, tiles in enumerate(lines):
            for column, (place, mask) in enumerate(tiles, start=1):
                at = (GAP + column * step, top + line * (step + CAPTION))
                caption = _caption(masks, place, mask, pen) if row == count - 1 or list(masks) != [HEAD] else ""
                _draw_mask(sheet, pen, at, masks[place][row, mask], colour_scale(masks[place]), caption)
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG", compress_level=3, compress_type=zlib.Z_RLE)  # fast, and small for flat cells
    return buffer.getvalue()


def _lines(masks: Mapping[str, npt.NDArray[np.floating]]) -> list[list[tuple[str, int]]]:
    """Return the places and numbers of the masks on each line: all on one, or each place's on its own if many.

    Many places with one mask each share lines of equal length.
    """
    places = [[(place, mask) for mask in range(masks_PMHW.shape[1])] for place, masks_PMHW in masks.items()]
    tiles = list(itertools.chain(*places))
    if len(tiles) > max(MOST_IN_LINE, len(places)):
        return places
    length = math.ceil(len(tiles) / math.ceil(len(tiles) / MOST_IN_LINE))
    return [tiles[start : start + length] for start in range(0, len(tiles), length)]


def _caption(masks: Mapping[str, npt.NDArray[np.floating]], place: str, mask: int, pen: ImageDraw.ImageDraw) -> str:
    """Return a mask's number and scale, after the name of its place unless all are the head's; a long name, alone."""
    low, high = colour_scale(masks[place])
    if list(masks) == [HEAD]:
        return f"mask {mask + 1} ({low:g} to {high:.3g})"
    number, font = f" #{mask + 1}" if masks[place].shape[1] > 1 else "", ImageFont.load_default(_FONT)
    whole = f"{place}{number} ({low:g} to {high:.3g})"
    if pen.textlength(whole, font) <= CELL:
        return whole
    return fitting(place, CELL - int(pen.textlength(number, font)), pen, font) + number


def _draw_image(
    sheet: Image.Image, pen: ImageDraw.ImageDraw, top: int, probes: Probes, row: int, predicted: int
) -> None:
    """Draw a probe image, with its class and the predicted one below it."""
    picture = Image.fromarray(probes.images_PSSC[row]).resize((CELL, CELL), Image.Resampling.BILINEAR)
    sheet.paste(picture, (GAP, top))
    label = int(probes.labels_P[row])
    name, font = drawable(probes.classes[label], f"class {label + 1}")
    pen.text((GAP, top + CELL + 1), fitting(name, CELL, pen, font), _INK, font)
    right = predicted == label
    verdict, colour = ("✓", _RIGHT) if right else ("→", _WRONG)
    text, font = drawable("predicted" if right else probes.classes[predicted], f"class {predicted + 1}")
    _mark(pen, (GAP, top + CELL + 15), verdict, colour)
    pen.text((GAP + 14, top + CELL + 15), fitting(text, CELL - 14, pen, font), colour, font)


def _draw_mask(
    sheet: Image.Image,
    pen: ImageDraw.ImageDraw,
    at: tuple[int, int],
    mask_HW: npt.NDArray[np.floating],
    scale: tuple[float, float],
    caption: str,
) -> None:
    """Draw a mask, with its range and the caption below it."""
    font, (left, top) = ImageFont.load_default(_FONT), at
    colours = Image.fromarray(paint_mask(mask_HW, *scale))
    sheet.paste(colours.resize((CELL, CELL), Image.Resampling.NEAREST), at)
    pen.text((left, top + CELL + 1), f"{mask_HW.min():.3g} to {mask_HW.max():.3g}", _INK, font)
    pen.text((left, top + CELL + 15), caption, _INK, font)


def drawable(name: str, instead: str, size: int = _FONT) -> tuple[str, Font]:
    """Return a name and a font that has its letters; `instead` where none has them (Chinese, for one)."""
    text = readable(name)
    if text.isascii():
        return text, ImageFont.load_default(size)
    font = _more_letters(size - 1)
    missing = bytes(font.getmask("\U0010ffff"))
    if all(bytes(font.getmask(letter)) != missing for letter in text):
        return text, font
    return instead, ImageFont.load_default(size)


@functools.lru_cache(maxsize=8)
def _more_letters(size: int) -> ImageFont.FreeTypeFont:
    """Return DejaVu Sans, which matplotlib brings (not imported for it): Pillow's own font has ASCII only."""
    matplotlib = importlib.util.find_spec("matplotlib")
    assert matplotlib is not None
    assert matplotlib.origin is not None
    return ImageFont.truetype(Path(matplotlib.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf", size)


def fitting(text: str, width: int, pen: ImageDraw.ImageDraw, font: Font) -> str:
    """Shorten the text to fit in `width` pixels."""
    if len(text) <= width and pen.textlength(text, font) <= width:
        return text
    text = text[:width]  # a name from a store may be very long
    while text and pen.textlength(text + "…", font) > width:
        text = text[:-1]
    return text + "…"


def _mark(pen: ImageDraw.ImageDraw, at: tuple[int, int], verdict: str, colour: tuple[int, int, int]) -> None:
    """Draw a tick or an arrow: the bundled font has neither."""
    x, y = at
    if verdict == "✓":
        pen.line([(x, y + 8), (x + 3, y + 11), (x + 9, y + 4)], fill=colour, width=2)
    else:
        pen.line([(x, y + 7), (x + 9, y + 7)], fill=colour, width=1)
        pen.line([(x + 6, y + 4), (x + 9, y + 7), (x + 6, y + 10)], fill=colour, width=1)
