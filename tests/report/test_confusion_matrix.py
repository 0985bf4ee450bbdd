"""The confusion matrix: of many classes it shows those confused most, as shares of all their images."""

import re

import numpy as np

from catdog.report.confusion_matrix import MOST_CLASSES, confusion_svg


def shown(svg: str) -> list[str]:
    """Return the classes of the rows, each of which is a column too."""
    labels = re.findall(r"<text [^>]*>(class_\d+)</text>", svg)
    rows, columns = labels[: len(labels) // 2], labels[len(labels) // 2 :]
    assert rows == columns
    return rows


def test_of_many_classes_those_of_the_most_frequent_mistakes_are_shown_in_their_order() -> None:
    count = 200
    names = [f"class_{i}" for i in range(count)]
    confusion_KK = 1 + np.diag(np.full(count, 20))  # every class is taken for every other once
    pairs_P2 = np.random.default_rng(0).permutation(count)[: MOST_CLASSES + 2].reshape(-1, 2)
    for rank, (true, taken) in enumerate(pairs_P2):
        confusion_KK[true, taken] += 100 - rank
    svg = confusion_svg(confusion_KK, names, "class")
    found = [int(name.removeprefix("class_")) for name in shown(svg)]
    assert found == sorted(pairs_P2[:-1].flatten().tolist())  # all but the pair that was confused least
    assert ">31.6 %<" in svg  # 101 of the 319 images of its class, most of them taken for classes not shown


def test_all_of_forty_classes_are_shown() -> None:
    names = [f"class_{i}" for i in range(MOST_CLASSES)]
    assert shown(confusion_svg(np.ones((MOST_CLASSES, MOST_CLASSES), np.int64), names, "class")) == names
