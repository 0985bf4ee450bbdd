"""Contact sheets: the same bytes for the same arrays, colours that match the captions, and no crashes."""

import io

import matplotlib
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from catdog.formatting import colour_map
from catdog.runs.places import HEAD
from catdog.trial.contact_sheet import (
    CAPTION,
    CELL,
    GAP,
    MOST_IN_LINE,
    TITLE,
    Probes,
    colour_scale,
    contact_sheet,
    paint_mask,
)

BREEDS = ("Abyssinian", "american_pit_bull_terrier")
RIGHT, WRONG = (0, 110, 40), (180, 30, 20)


def probes(count: int = 2, classes: tuple[str, ...] = BREEDS) -> Probes:
    images = np.random.default_rng(0).integers(0, 256, (count, CELL, CELL, 3), dtype=np.uint8)
    return Probes(images, tuple(f"image_{i}" for i in range(count)), np.arange(count) % len(classes), classes)


def random_masks(count: int, num_masks: int) -> npt.NDArray[np.float16]:
    return np.random.default_rng(1).random((count, num_masks, 4, 4)).astype(np.float16)


def pixels(sheet: bytes) -> npt.NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(sheet)))


def cell(sheet: npt.NDArray[np.uint8], row: int, column: int) -> npt.NDArray[np.uint8]:
    """One cell of the sheet; column 0 is the image, the masks follow."""
    top, left = TITLE + row * (CELL + GAP + CAPTION), GAP + column * (CELL + GAP)
    return sheet[top : top + CELL, left : left + CELL]


def enlarged(colours: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The colours of a 4 × 4 mask, enlarged to fill a cell."""
    return colours.repeat(CELL // 4, axis=0).repeat(CELL // 4, axis=1)


def draw(shown: Probes, masks: npt.NDArray[np.floating], predicted: npt.NDArray[np.int64], title: str) -> bytes:
    """The sheet of a head's masks."""
    return contact_sheet(shown, {HEAD: masks}, predicted, title)


@pytest.mark.parametrize(("count", "num_masks"), [(1, 1), (4, 1), (2, 4), (4, 8)])
def test_a_sheet_is_a_png_with_a_row_per_image_and_a_column_per_mask(count: int, num_masks: int) -> None:
    sheet = draw(probes(count), random_masks(count, num_masks), np.zeros(count, dtype=np.int64), "epoch 0")
    image = Image.open(io.BytesIO(sheet))
    assert image.format == "PNG"
    assert image.size == (GAP + (1 + num_masks) * (CELL + GAP), TITLE + count * (CELL + GAP + CAPTION))


def test_the_same_arrays_give_the_same_bytes() -> None:
    arguments = (probes(), random_masks(2, 4), np.array([0, 0]), "multi-attention · seed 3 · epoch 12")
    sheet = draw(*arguments)
    assert draw(*arguments) == sheet
    assert draw(*arguments[:3], "multi-attention · seed 3 · epoch 13") != sheet


def test_each_row_shows_its_image_beside_its_masks() -> None:
    shown, masks = probes(), random_masks(2, 3)
    sheet = pixels(draw(shown, masks, np.array([0, 1]), "title"))
    for row in range(2):
        assert np.array_equal(cell(sheet, row, 0), shown.images_PSSC[row])
        for mask in range(3):
            assert np.array_equal(cell(sheet, row, 1 + mask), enlarged(paint_mask(masks[row, mask], 0, 1)))


@pytest.mark.parametrize("num_masks", [1, 2])
def test_sigmoid_masks_are_drawn_on_the_scale_from_0_to_1(num_masks: int) -> None:
    masks = np.stack([np.full((4, 4), 0.2), np.full((4, 4), 0.9)])[:num_masks]
    assert colour_scale(masks) == (0, 1)
    sheet = pixels(draw(probes(1), masks[None], np.array([0]), "title"))
    for column, colour in enumerate((51, 230)[:num_masks], start=1):
        assert np.all(cell(sheet, 0, column) == colour_map()[colour])


def test_masks_that_exceed_1_share_a_scale_from_0_to_the_largest_of_them_all() -> None:
    masks = np.stack([np.full((1, 4, 4), 1.0), np.full((1, 4, 4), 2.5)])
    assert colour_scale(masks) == (0, 2.5)
    sheet = pixels(draw(probes(2), masks, np.array([0, 1]), "title"))
    assert np.all(cell(sheet, 0, 1) == colour_map()[102])
    assert np.all(cell(sheet, 1, 1) == colour_map()[255])
    assert colour_scale(np.array([0.5, 3.0, np.nan, np.inf])) == (0, 3)


def test_the_values_of_each_mask_are_printed_below_it() -> None:
    mask = np.full((1, 1, 4, 4), 0.93)
    other = mask + 1e-3  # the same colour
    sheets = [pixels(draw(probes(1), masks, np.array([0]), "title")) for masks in (mask, other)]
    below = slice(TITLE + CELL, None)
    assert np.array_equal(cell(sheets[0], 0, 1), cell(sheets[1], 0, 1))
    assert not np.array_equal(sheets[0][below], sheets[1][below])


def test_values_outside_the_range_take_the_end_colours() -> None:
    painted = paint_mask(np.array([[-5.0, 0.0, 1.0, 7.0]]), 0, 1)
    assert painted.shape == (1, 4, 3)
    assert painted[0, 0].tolist() == painted[0, 1].tolist() == colour_map()[0].tolist()
    assert painted[0, 2].tolist() == painted[0, 3].tolist() == colour_map()[255].tolist()


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("num_masks", [1, 4])
def test_a_uniform_mask_is_one_colour(num_masks: int, value: float) -> None:
    masks = np.full((2, num_masks, 7, 7), value, dtype=np.float16)
    sheet = pixels(draw(probes(), masks, np.array([0, 1]), "title"))
    assert len(np.unique(cell(sheet, 1, 1).reshape(-1, 3), axis=0)) == 1


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("num_masks", [1, 4])
def test_masks_of_a_diverging_network_are_still_drawn(num_masks: int, broken: float) -> None:
    masks = random_masks(2, num_masks)
    masks[0, 0, 0, 0] = masks[1] = broken
    sheet = draw(probes(), masks, np.array([0, 1]), "title")
    assert Image.open(io.BytesIO(sheet)).format == "PNG"


def test_every_place_is_drawn_at_its_own_resolution_on_its_own_scale_with_its_name() -> None:
    masks = {HEAD: random_masks(2, 2), "layer3": np.full((2, 1, 8, 8), 4.0)}
    masks["layer3"][:, :, 4:] = 8
    sheet = pixels(contact_sheet(probes(), masks, np.array([0, 1]), "title"))
    assert sheet.shape[1] == GAP + (1 + 3) * (CELL + GAP)
    assert np.array_equal(cell(sheet, 1, 2), enlarged(paint_mask(masks[HEAD][1, 1], 0, 1)))
    for half, colour in ((slice(0, CELL // 2), 128), (slice(CELL // 2, CELL), 255)):
        assert np.all(cell(sheet, 1, 3)[half] == colour_map()[colour])
    renamed = contact_sheet(probes(), {HEAD: masks[HEAD], "layer4": masks["layer3"]}, np.array([0, 1]), "title")
    assert np.array_equal(cell(pixels(renamed), 1, 3), cell(sheet, 1, 3))
    assert not np.array_equal(pixels(renamed), sheet), "the name is below each mask"


def test_with_many_masks_each_place_has_a_line_of_its_own() -> None:
    masks = {HEAD: random_masks(2, 4), "a_stage_with_a_name_as_long_as_a_sentence": random_masks(2, 5)}
    sheet = pixels(contact_sheet(probes(), masks, np.array([0, 1]), "title"))
    assert sheet.shape[:2] == (TITLE + 4 * (CELL + GAP + CAPTION), GAP + 6 * (CELL + GAP))
    for place, line in zip(masks, (2, 3), strict=True):
        for mask, values_HW in enumerate(masks[place][1]):
            assert np.array_equal(cell(sheet, line, 1 + mask), enlarged(paint_mask(values_HW, 0, 1)))
    assert np.all(cell(sheet, 3, 0) == 255), "the image stands beside the first line"


def test_many_places_with_a_mask_each_share_lines_of_equal_length() -> None:
    masks = {f"place {number}": random_masks(2, 1) for number in range(MOST_IN_LINE + 2)}
    sheet = pixels(contact_sheet(probes(), masks, np.array([0, 1]), "title"))
    assert sheet.shape[:2] == (TITLE + 4 * (CELL + GAP + CAPTION), GAP + 6 * (CELL + GAP))
    for number, values_PMHW in enumerate(masks.values()):
        expected = enlarged(paint_mask(values_PMHW[1, 0], 0, 1))
        assert np.array_equal(cell(sheet, 2 + number // 5, 1 + number % 5), expected)


def test_right_and_wrong_predictions_differ_in_colour() -> None:
    def colours(predicted: int) -> set[tuple[int, ...]]:
        sheet = pixels(draw(probes(1), random_masks(1, 2), np.array([predicted]), "title"))
        below = sheet[TITLE + CELL :, : GAP + CELL]
        return {tuple(colour) for colour in below.reshape(-1, 3).tolist()}

    assert RIGHT in colours(0)
    assert WRONG not in colours(0)
    assert WRONG in colours(1)
    assert RIGHT not in colours(1)


@pytest.mark.parametrize("num_masks", [1, 4])
def test_long_titles_and_names_are_shortened_to_fit(num_masks: int) -> None:
    long = probes(2, ("a_breed_with_a_name_as_long_as_a_sentence", "𓃠 ねこ " * 8))
    sheet = pixels(draw(long, random_masks(2, num_masks), np.array([1, 0]), "title " * 30))
    assert sheet.shape[1] == GAP + (1 + max(num_masks, 2)) * (CELL + GAP)
    gap_beside_captions = sheet[TITLE + CELL : TITLE + CELL + GAP + CAPTION, GAP + CELL : GAP + CELL + GAP]
    assert np.all(gap_beside_captions == 255)
    assert np.all(sheet[:TITLE, -GAP:] == 255)


def test_a_title_makes_a_narrow_sheet_wider_until_it_fits() -> None:
    masks, end = random_masks(1, 1), " · seed 102 · epoch 13 · validation 86.5 %"
    short, other, longer = (
        pixels(draw(probes(1), masks, np.array([0]), f"{name}{end}"))
        for name in ("attention-softmax", "attention-softsign", "attention-softmax ")
    )
    assert GAP + 2 * (CELL + GAP) < short.shape[1] < longer.shape[1] < GAP + 3 * (CELL + GAP)
    assert not np.array_equal(short, other), "nothing of the name is cut"


def test_a_long_label_is_shortened_before_the_accuracy_is() -> None:
    masks, end = random_masks(1, 1), " · seed 0 · epoch 3 · validation 86.5 %"
    name = "attention " * 8
    titles = [f"{name}softmax{end}", f"{name}softsign{end}", f"{name}softmax{end.replace('6.5', '7.5')}"]
    cut, other, accuracy = (pixels(draw(probes(1), masks, np.array([0]), title)) for title in titles)
    assert np.array_equal(cut, other), "where the labels differ they are cut"
    assert not np.array_equal(cut, accuracy)


def test_the_colours_are_those_of_viridis() -> None:
    viridis = np.round(matplotlib.colormaps["viridis"](np.arange(256))[:, :3] * 255)
    assert colour_map().shape == (256, 3)
    assert np.array_equal(colour_map()[[0, 255]], viridis[[0, 255]])
    assert np.abs(colour_map() - viridis).max() <= 3


def test_class_names_are_drawn_in_their_letters_or_else_by_their_number() -> None:
    masks = random_masks(2, 1)

    def sheet(*classes: str) -> bytes:
        return draw(probes(2, classes), masks, np.array([1, 1]), "title")

    assert sheet("柴犬", "Siamese") == sheet("class_1", "Siamese")
    drawn = [sheet(name, "Siamese") for name in ("Бигль", "Бигла", "tigré", "tigrè", "tigre")]
    assert len(set(drawn)) == len(drawn)
    assert sheet("class_1", "Siamese") not in drawn
