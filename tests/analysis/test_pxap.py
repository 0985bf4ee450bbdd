"""PxAP against pixels counted one by one, and hand-made curves."""

import numpy as np
import pytest

from catdog.analysis.localization import Outlines, measure
from catdog.analysis.pxap import average_precision


def by_pixel(masks_THW: np.ndarray, animals_TSS: np.ndarray) -> float:
    """Choe et al. 2020 in plain loops: masks enlarged to pixels, each from 0 to 1, and every value a threshold."""
    side, pixels = animals_TSS.shape[1], []
    for mask, animal in zip(masks_THW.tolist(), animals_TSS.tolist(), strict=True):
        values = [value for row in mask for value in row]
        low, high = min(values), max(values)
        for y in range(side):
            for x in range(side):
                value = mask[y * len(mask) // side][x * len(mask[0]) // side]
                pixels.append(((value - low) / (high - low) if high > low else 0.0, animal[y][x]))
    area, recall_before, found = 0.0, 0.0, sum(on for _, on in pixels)
    for threshold in sorted({value for value, _ in pixels}, reverse=True):
        above = [on for value, on in pixels if value >= threshold]
        recall = sum(above) / found
        area += sum(above) / len(above) * (recall - recall_before)
        recall_before = recall
    return area


def test_pxap_counts_the_pixels_of_the_enlarged_masks_averages_masks_and_then_classes() -> None:
    rng = np.random.default_rng(0)
    masks_TMHW = rng.integers(0, 5, (5, 2, 3, 4)).astype(np.float64)  # with ties
    masks_TMHW[0, 0] = 2  # without a difference
    animals_TSS, classes_T = rng.random((5, 12, 12)) < 0.3, np.array([7, 7, 2, 7, 2])
    expected = [
        np.mean([by_pixel(masks_TMHW[classes_T == label, mask], animals_TSS[classes_T == label]) for mask in range(2)])
        for label in (2, 7)
    ]
    looks = measure(masks_TMHW, Outlines.of(animals_TSS, classes_T, 3, 4))
    assert looks is not None
    assert looks.pxap == pytest.approx(100 * np.mean(expected), abs=1e-4)


def test_average_precision_by_hand() -> None:
    assert average_precision(np.array([0.9, 0.8, 0.1]), np.array([1.0, 0.0, 1.0])) == pytest.approx(1 / 2 + 2 / 3 / 2)
    assert average_precision(np.array([0.9, 0.9, 0.1]), np.array([1.0, 0.0, 1.0])) == pytest.approx(1 / 4 + 2 / 3 / 2)
    assert average_precision(np.zeros(4), np.array([1.0, 0.5, 0, 0])) == pytest.approx(3 / 8), "the animal's share"


def test_a_mask_without_mass_and_a_class_without_an_animal_are_left_out() -> None:
    animals = np.zeros((3, 4, 4), dtype=bool)
    animals[:2, :, :2] = True  # of the class 0; the class 1 has an empty outline
    dead, perfect = np.zeros((2, 2)), np.array([[1.0, 0.0], [1.0, 0.0]])
    outlines = Outlines.of(animals, np.array([0, 0, 1]), 2, 2)
    looks = measure(np.stack([perfect, dead, perfect])[:, None], outlines)
    assert looks is not None
    assert looks.pxap == 100
