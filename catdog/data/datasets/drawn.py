"""Drawn pets: images drawn in code, so that a whole run needs no download.

Species (cat, dog) × ears (two shapes each) × coat (plain, striped, spotted) make 12 breeds. Position, size, pose and
colours are random, and the background is cluttered with the same stripes and spots, so that a model that looks at the
animal has an advantage. The outline is known exactly, so attention can be checked against it. Image i depends on i
alone.
"""

import hashlib
import itertools
import math

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from catdog.data.datasets.base import Source, UInt8Array, group_columns

DATASET = "drawn"
SIZE = 96
IMAGES_PER_BREED = {"trainval": 100, "test": 50}
_SCALE = 2  # draw at twice the size, then average down for smooth edges
_VERSION = 3  # raise when the drawing changes

EARS = {"cat": ("pointed", "folded"), "dog": ("erect", "floppy")}
COATS = ("plain", "striped", "spotted")
BREEDS = tuple(
    (species, ears, coat) for species in ("cat", "dog") for ears, coat in itertools.product(EARS[species], COATS)
)

PINK = (235, 150, 165)

Point = tuple[float, float]
Colour = tuple[int, int, int]


def open_drawn() -> Source:
    """Return the drawn pets: 1,200 trainval and 600 test images at 96 px, each with its trimap."""
    is_test = np.repeat([False, True], [len(BREEDS) * count for count in IMAGES_PER_BREED.values()])
    labels = np.arange(len(is_test), dtype=np.int64) % len(BREEDS)
    description = f"{DATASET} pack {_VERSION} {SIZE} {BREEDS} {IMAGES_PER_BREED}"

    def read(index: int) -> tuple[UInt8Array, UInt8Array]:
        return draw_pet(BREEDS[labels[index]], np.random.default_rng([_VERSION, index]))

    return Source(
        dataset=DATASET,
        fingerprint=hashlib.sha256(description.encode()).hexdigest()[:16],
        size=SIZE,
        classes=tuple(f"{coat} {ears} {species}" for species, ears, coat in BREEDS),
        names=tuple(f"drawn_{index:04d}" for index in range(len(is_test))),
        labels=labels,
        is_test=is_test,
        has_trimap=np.ones(len(is_test), dtype=bool),
        read=read,
        title="drawn pets",
        class_noun="breed",
        groups=group_columns({"species": [BREEDS[label][0] for label in labels]}),
    )


def draw_pet(breed: tuple[str, str, str], generator: np.random.Generator) -> tuple[UInt8Array, UInt8Array]:
    """Draw one animal; return the image (96, 96, 3) and its trimap (96, 96; 1 animal, 2 background, 3 border)."""
    species, ears, coat = breed
    side = SIZE * _SCALE
    image = _background(side, generator)
    unit = side * generator.uniform(0.15, 0.23)  # radius of the head
    head = (side * generator.uniform(0.3, 0.7), side * generator.uniform(0.36, 0.52))
    tilt = generator.uniform(-0.25, 0.25)
    body = (head[0] + unit * generator.uniform(-0.7, 0.7), head[1] + unit * 1.75)
    outline = Image.new("L", (side, side))
    pen = ImageDraw.Draw(outline)
    _ellipse(pen, body, unit * 1.05, unit * 1.25, 255)
    tail = unit * generator.choice([-1.0, 1.0])
    tail_joints = [(0.0, 1.0), (1.5, 0.7), (1.8, -0.4)]
    tail_line = [(body[0] + x * tail, body[1] + y * unit) for x, y in tail_joints]
    pen.line(tail_line, fill=255, width=max(2, int(unit * 0.28)), joint="curve")
    _ellipse(pen, head, unit, unit * (0.92 if species == "cat" else 1.08), 255)
    ear_shapes = [_ear(ears, sign) for sign in (-1, 1)]
    for shape in ear_shapes:
        pen.polygon([_place(point, head, unit, tilt) for point in shape], fill=255)

    fur, mark = _two_colours(generator)
    animal = Image.new("RGB", (side, side), fur)
    fur_pen = ImageDraw.Draw(animal)
    if coat == "striped":
        _stripes(fur_pen, side, unit * 0.34, mark, generator)
    elif coat == "spotted":
        _spots(fur_pen, side, unit * 0.17, mark, generator)
    image.paste(animal, mask=outline)
    pen = ImageDraw.Draw(image)
    inner = PINK if ears in ("pointed", "erect") else tuple(int(channel * 0.4) for channel in fur)
    for shape in ear_shapes:
        centre = np.mean(shape, axis=0)
        pen.polygon(
            [_place(tuple(centre + 0.65 * (np.array(point) - centre)), head, unit, tilt) for point in shape],
            fill=inner,
        )
    _face(pen, species, head, unit, tilt)

    inside = np.asarray(outline.resize((SIZE, SIZE), Image.Resampling.BOX)) >= 128
    filled = Image.fromarray(inside.astype(np.uint8) * 255)
    border = ImageChops.difference(filled.filter(ImageFilter.MaxFilter(3)), filled.filter(ImageFilter.MinFilter(3)))
    trimap = np.where(inside, 1, 2).astype(np.uint8)
    trimap[np.asarray(border) > 0] = 3
    pixels = np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BOX), dtype=np.int16)
    noise = generator.integers(-12, 13, size=pixels.shape)
    return np.clip(pixels + noise, 0, 255).astype(np.uint8), trimap


def _background(side: int, generator: np.random.Generator) -> Image.Image:
    """Return a plain colour under patches, stripes and spots that look like coats."""
    ground, _ = _two_colours(generator)
    image = Image.new("RGB", (side, side), ground)
    for _ in range(int(generator.integers(5, 9))):
        patch = Image.new("L", (side, side))
        centre = (generator.uniform(0, side), generator.uniform(0, side))
        radii = generator.uniform(0.08, 0.24, size=2) * side
        if generator.random() < 0.5:
            _ellipse(ImageDraw.Draw(patch), centre, radii[0], radii[1], 255)
        else:
            corners = [centre[0] - radii[0], centre[1] - radii[1], centre[0] + radii[0], centre[1] + radii[1]]
            ImageDraw.Draw(patch).rectangle(corners, fill=255)
        fur, mark = _two_colours(generator)
        texture = Image.new("RGB", (side, side), fur)
        kind = generator.integers(3)
        if kind == 1:
            _stripes(ImageDraw.Draw(texture), side, side * 0.06, mark, generator)
        elif kind == 2:
            _spots(ImageDraw.Draw(texture), side, side * 0.032, mark, generator)
        image.paste(texture, mask=patch)
    return image


def _two_colours(generator: np.random.Generator) -> tuple[Colour, Colour]:
    """Return a colour, and a clearly darker or lighter one for the marks on it."""
    first = generator.integers(40, 216, size=3)
    shift = 85 if first.mean() < 128 else -85
    second = np.clip(first + shift + generator.integers(-15, 16, size=3), 0, 255)
    return _colour(first), _colour(second)


def _colour(values: np.ndarray) -> Colour:
    return int(values[0]), int(values[1]), int(values[2])


def _stripes(
    pen: ImageDraw.ImageDraw, side: int, period: float, colour: Colour, generator: np.random.Generator
) -> None:
    angle = generator.uniform(-0.5, 0.5)
    reach = 1.5 * side
    for offset in np.arange(-reach, reach, period) + generator.uniform(0, period):
        start = (offset - reach * math.sin(angle), -reach * math.cos(angle))
        end = (offset + reach * math.sin(angle), reach * math.cos(angle))
        pen.line([start, end], fill=colour, width=max(1, round(period * 0.45)))


def _spots(pen: ImageDraw.ImageDraw, side: int, radius: float, colour: Colour, generator: np.random.Generator) -> None:
    step = radius * 3.2
    grid_y, grid_x = np.mgrid[0 : side + step : step, 0 : side + step : step]
    grid_x[1::2] += step / 2
    centres = np.stack([grid_x, grid_y], axis=-1).reshape(-1, 2)
    for x, y in (centres + generator.uniform(-0.25, 0.25, size=centres.shape) * step).tolist():
        pen.ellipse([x - radius, y - radius, x + radius, y + radius], fill=colour)


def _ellipse(pen: ImageDraw.ImageDraw, centre: Point, width: float, height: float, fill: int | Colour) -> None:
    pen.ellipse([centre[0] - width, centre[1] - height, centre[0] + width, centre[1] + height], fill=fill)


def _place(point: tuple[float, ...], head: Point, unit: float, tilt: float) -> Point:
    """Rotate a point of the head (in head radii) by the tilt and map it to image coordinates."""
    x, y = point[0] * unit, point[1] * unit
    return (
        head[0] + x * math.cos(tilt) - y * math.sin(tilt),
        head[1] + x * math.sin(tilt) + y * math.cos(tilt),
    )


def _ear(ears: str, sign: int) -> list[Point]:
    shapes: dict[str, list[Point]] = {
        "pointed": [(0.05, -0.85), (0.7, -2.1), (1.05, -0.3)],
        "folded": [(0.2, -0.85), (0.75, -1.25), (1.65, -0.75), (1.5, -0.25), (0.9, -0.2)],
        "erect": [(0.2, -0.8), (0.35, -1.9), (0.75, -2.3), (1.05, -1.8), (1.0, -0.4)],
        "floppy": [(0.6, -0.85), (1.2, -0.75), (1.75, 0.3), (1.6, 1.25), (1.15, 1.3), (0.85, 0.3)],
    }
    return [(sign * x, y) for x, y in shapes[ears]]


def _face(pen: ImageDraw.ImageDraw, species: str, head: Point, unit: float, tilt: float) -> None:
    dark: Colour = (25, 20, 20)
    eye_height = -0.12 if species == "cat" else -0.25
    for sign in (-1, 1):
        eye = _place((sign * 0.42, eye_height), head, unit, tilt)
        if species == "cat":
            _ellipse(pen, eye, unit * 0.2, unit * 0.15, (205, 215, 90))
            _ellipse(pen, eye, unit * 0.06, unit * 0.15, dark)
            for rise in (-0.12, 0.1):
                ends = [_place((sign * x, 0.38 + rise * x), head, unit, tilt) for x in (0.3, 1.15)]
                pen.line(ends, fill=(240, 240, 240), width=max(1, int(unit * 0.05)))
        else:
            _ellipse(pen, eye, unit * 0.13, unit * 0.13, dark)
    if species == "cat":
        nose = [(-0.12, 0.22), (0.12, 0.22), (0.0, 0.38)]
        pen.polygon([_place(point, head, unit, tilt) for point in nose], fill=(215, 130, 130))
    else:
        _ellipse(pen, _place((0.0, 0.48), head, unit, tilt), unit * 0.5, unit * 0.42, (225, 210, 190))
        _ellipse(pen, _place((0.0, 0.28), head, unit, tilt), unit * 0.2, unit * 0.14, dark)
        tongue = [(-0.1, 0.7), (0.1, 0.7), (0.08, 1.0), (-0.08, 1.0)]
        pen.polygon([_place(point, head, unit, tilt) for point in tongue], fill=(220, 90, 110))
