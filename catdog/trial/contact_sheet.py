"""Contact sheets: the probe images beside their attention masks, one PNG per epoch. Arrays in, bytes out; no I/O.

One row per probe image: the image, then its masks at their own resolution (one cell per position of the feature map).
All masks of a sheet share one scale, which starts at 0 and is printed: to 1 for sigmoid masks, further where a mask
exceeds 1. The values that each mask takes are printed below it, because a mask near 0.93 everywhere is one colour. The
same arrays give the same bytes.
"""

import functools
import importlib.util
import io
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw, ImageFont

from catdog.formatting import colour_map, readable

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
CELL = 128
GAP = 8
CAPTION = 30
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


@dataclass
class ProbeHistory:
    """Masks and predictions of the probe images in every epoch so far."""

    masks_PMHW: list[torch.Tensor] = field(default_factory=list)
    """float16, one tensor per epoch; empty for heads without masks."""
    predicted_P: list[torch.Tensor] = field(default_factory=list)


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
    masks_PMHW: npt.NDArray[np.floating],
    predicted_P: npt.NDArray[np.int64],
    title: str,
    caption: str = "mask {}",
) -> bytes:
    """Return the sheet of one epoch as PNG bytes; `caption` is written below each column of masks, with its number."""
    count, num_masks = masks_PMHW.shape[:2]
    step = CELL + GAP
    width = max(GAP + (1 + num_masks) * step, 2 * step + GAP)
    sheet = Image.new("RGB", (width, TITLE + count * (step + CAPTION)), _PAPER)
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(_FONT)
    low, high = colour_scale(masks_PMHW)
    pen.text((GAP, 6), _fitting(title, width - 2 * GAP, pen, font), _INK, font)
    for row in range(count):
        top = TITLE + row * (step + CAPTION)
        picture = Image.fromarray(probes.images_PSSC[row]).resize((CELL, CELL), Image.Resampling.BILINEAR)
        sheet.paste(picture, (GAP, top))
        true, predicted = probes.classes[probes.labels_P[row]], probes.classes[predicted_P[row]]
        caption_width = CELL if num_masks else width
        name, its_font = _drawable(true, int(probes.labels_P[row]))
        pen.text((GAP, top + CELL + 1), _fitting(name, caption_width, pen, its_font), _INK, its_font)
        verdict, colour = ("✓", _RIGHT) if predicted == true else ("→", _WRONG)
        text, its_font = ("predicted", font) if predicted == true else _drawable(predicted, int(predicted_P[row]))
        _mark(pen, (GAP, top + CELL + 15), verdict, colour)
        pen.text((GAP + 14, top + CELL + 15), _fitting(text, caption_width - 14, pen, its_font), colour, its_font)
        for column in range(num_masks):
            left = GAP + (1 + column) * step
            mask_HW = masks_PMHW[row, column]
            colours = Image.fromarray(paint_mask(mask_HW, low, high))
            sheet.paste(colours.resize((CELL, CELL), Image.Resampling.NEAREST), (left, top))
            pen.text((left, top + CELL + 1), f"{mask_HW.min():.3g} to {mask_HW.max():.3g}", _INK, font)
            if row == count - 1:
                pen.text((left, top + CELL + 15), f"{caption.format(column + 1)} ({low:g} to {high:.3g})", _INK, font)
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG", compress_level=3, compress_type=zlib.Z_RLE)  # fast, and small for flat cells
    return buffer.getvalue()


def _drawable(name: str, label: int) -> tuple[str, Font]:
    """Return a class's name and a font that has its letters; its number where none has them (Chinese, for one)."""
    text = readable(name)
    if text.isascii():
        return text, ImageFont.load_default(_FONT)
    font = _more_letters()
    missing = bytes(font.getmask("\U0010ffff"))
    if all(bytes(font.getmask(letter)) != missing for letter in text):
        return text, font
    return f"class {label + 1}", ImageFont.load_default(_FONT)


@functools.cache
def _more_letters() -> ImageFont.FreeTypeFont:
    """Return DejaVu Sans, which matplotlib brings (not imported for it): Pillow's own font has ASCII only."""
    matplotlib = importlib.util.find_spec("matplotlib")
    assert matplotlib is not None
    assert matplotlib.origin is not None
    return ImageFont.truetype(
        Path(matplotlib.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf", _FONT - 1
    )


def _fitting(text: str, width: int, pen: ImageDraw.ImageDraw, font: Font) -> str:
    """Shorten the text to fit in `width` pixels."""
    if pen.textlength(text, font) <= width:
        return text
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


def choose_probes(labels: torch.Tensor, count: int) -> list[int]:
    """Return positions of up to `count` images of different classes, spread evenly over the classes present."""
    classes = torch.unique(labels).tolist()
    chosen = np.unique(np.linspace(0, len(classes) - 1, min(count, len(classes))).round().astype(int))
    return [int((labels == classes[i]).nonzero()[0]) for i in chosen]
