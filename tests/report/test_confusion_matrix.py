"""The confusion matrix: which classes it shows and in what order, its colours and its names."""

import re

import numpy as np
import numpy.typing as npt

from catdog.report.confusion_matrix import MOST_CLASSES, confusion_svg


def shown(svg: str) -> list[str]:
    """Return the classes of the rows, each of which is a column too."""
    labels = re.findall(r"<text [^>]*>(class_\d+)</text>", svg)
    rows, columns = labels[: len(labels) // 2], labels[len(labels) // 2 :]
    assert rows == columns
    return rows


def test_of_many_classes_those_of_the_most_frequent_mistakes_are_shown() -> None:
    count = 200
    names = [f"class_{i}" for i in range(count)]
    confusion_KK = 1 + np.diag(np.full(count, 20))  # every class is taken for every other once
    pairs_P2 = np.random.default_rng(0).permutation(count)[: MOST_CLASSES + 2].reshape(-1, 2)
    for rank, (true, taken) in enumerate(pairs_P2):
        confusion_KK[true, taken] += 100 - rank
    svg = confusion_svg(confusion_KK, names, "class", confusion_KK)
    found = [int(name.removeprefix("class_")) for name in shown(svg)]
    assert sorted(found) == sorted(pairs_P2[:-1].flatten().tolist())  # all but the pair that was confused least
    assert ">31.6 %<" in svg  # 101 of the 319 images of its class, most of them taken for classes not shown


def test_all_of_forty_classes_are_shown() -> None:
    names = [f"class_{i}" for i in range(MOST_CLASSES)]
    alike_KK = np.ones((MOST_CLASSES, MOST_CLASSES), np.int64)
    assert sorted(shown(confusion_svg(alike_KK, names, "class", alike_KK))) == sorted(names)


def test_classes_that_are_mistaken_for_each_other_stand_together_whatever_this_trial_confused() -> None:
    group_K = np.arange(12) % 3
    alike_KK = np.where(group_K[:, None] == group_K, 5, 0) + np.diag(np.full(12, 80))
    confusion_KK = np.diag(np.full(12, 100)) + np.eye(12, k=1, dtype=np.int64)
    for first in (confusion_KK, alike_KK):
        order = [int(name.removeprefix("class_")) for name in shown(_svg(first, alike_KK))]
        assert np.count_nonzero(np.diff(group_K[order])) == 2


def _svg(confusion_KK: npt.NDArray[np.int64], alike_KK: npt.NDArray[np.int64]) -> str:
    return confusion_svg(confusion_KK, [f"class_{i}" for i in range(len(confusion_KK))], "class", alike_KK)


def test_more_mistakes_are_darker_on_white_in_every_scheme() -> None:
    confusion_KK = np.array([[90, 2, 8], [5, 95, 0], [0, 1, 99]])
    cells = re.findall(r'fill="(#\w+)" fill-opacity="([\d.]+)"', _svg(confusion_KK, confusion_KK))
    assert {colour for colour, _ in cells} == {"#08306b"}
    assert sorted(float(opacity) for _, opacity in cells) == [0.23, 0.34, 0.67, 1.0]


def test_long_names_are_cut_where_they_can_still_be_told_apart_and_wide_letters_have_their_room() -> None:
    names = ["a very long name of a class of images, one", "a very long name of a class of images, two", "柴犬" * 13]
    confusion_KK = np.full((3, 3), 4)
    svg = confusion_svg(confusion_KK, names, "class", confusion_KK)
    rows = re.findall(r'<text x="-6" [^>]*>([^<]+)</text>', svg)
    assert len(set(rows)) == 3
    assert names[2] in rows
    assert float(re.findall(r"translate\((\d+) 1\)", svg)[0]) > 26 * 11
