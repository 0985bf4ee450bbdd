"""The static figures: colours that are told apart, names that are never cut, curves that are named."""

import html
import itertools
import re

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest

from catdog.report.figures import COLOURS, MOST_TOGETHER, accuracies_svg, curves_svg

# Machado, Oliveira, Fernandes 2009: deuteranopia and protanopia at severity 1, on linear RGB.
DEUTERANOPIA = [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
PROTANOPIA = [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
WHITE = np.array([0.95047, 1.0, 1.08883])


def linear(colour: str) -> npt.NDArray[np.float64]:
    share = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)


def lab(rgb: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return linear RGB in CIELAB, whose distances are ΔE (1976)."""
    share = TO_XYZ @ rgb.clip(0, 1) / WHITE
    x, y, z = np.where(share > 216 / 24389, np.cbrt(share), (24389 / 27 * share + 16) / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("sight", [np.eye(3), DEUTERANOPIA, PROTANOPIA], ids=["usual", "deuteranopia", "protanopia"])
def test_any_two_variants_colours_are_told_apart(sight: npt.NDArray[np.float64]) -> None:
    seen = {colour: lab(np.asarray(sight) @ linear(colour)) for colour in COLOURS}
    for one, other in itertools.combinations(COLOURS, 2):
        assert np.linalg.norm(seen[one] - seen[other]) >= 10, (one, other)


@pytest.mark.parametrize("paper", ["#fdfdfc", "#17181a"])
def test_every_colour_has_the_contrast_of_a_graphical_object_on_both_papers(paper: str) -> None:
    """WCAG 2.2, 1.4.11: 3 to 1."""
    ground = TO_XYZ[1] @ linear(paper)
    for colour in COLOURS:
        low, high = sorted((ground, TO_XYZ[1] @ linear(colour)))
        assert (high + 0.05) / (low + 0.05) >= 3, colour


def texts(svg: str) -> str:
    return "".join(html.unescape(text) for text in re.findall(r"<text [^>]*>([^<]*)</text>", svg))


LONG = [f"multi-attention:num_masks=8,lambda_divergence=0.01,backbone=timm/vit_{'x' * 80}_{end}" for end in "ab"]


def test_long_labels_that_differ_at_their_end_are_shown_whole() -> None:
    scores = {"status": "complete", "test_accuracy": [90.0, 91.0, 92.5]}
    trials = pd.concat([pd.DataFrame({"variant": label, **scores}) for label in LONG])
    curves = {label: pd.DataFrame({0: [1.0, 2.0, 3.0]}) for label in LONG}
    for svg in (accuracies_svg(trials, LONG, "test_accuracy"), curves_svg(curves, LONG, "accuracy, %")):
        assert all(label in texts(svg) for label in LONG)


def names_of(count: int) -> list[str]:
    return [f"variant-{number}" for number in range(count)]


def test_up_to_four_curves_share_a_panel_with_dashes_and_names_that_do_not_overlap() -> None:
    names = names_of(MOST_TOGETHER)
    svg = curves_svg({name: pd.DataFrame({0: [1.0, 2.0, 2.0]}) for name in names}, names, "accuracy, %")
    heights = sorted(
        float(y) for y, text in re.findall(r"translate\([\d.]+ ([\d.]+)\)[^>]*>(variant-\d)<", svg) if text in names
    ) or sorted(float(y) for y in re.findall(r'y="([\d.]+)"[^>]*>variant-\d<', svg))
    assert len(heights) == len(names)
    assert min(np.diff(heights)) > 8
    assert len(set(re.findall(r"stroke-dasharray: ([\d., ]+)", svg))) >= 3


def test_of_more_curves_each_has_a_panel_beside_the_first_one() -> None:
    names = names_of(MOST_TOGETHER + 1)
    svg = curves_svg({name: pd.DataFrame({0: [1.0, 2.0, 2.0]}) for name in names}, names, "accuracy, %")
    assert svg.count('id="axes_') == 6, "two in a row, the last one empty"
    assert all(name in texts(svg) for name in names)
