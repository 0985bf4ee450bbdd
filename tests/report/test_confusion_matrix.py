"""The confusion matrix: of many classes it shows those with the most mistakes, as shares of all their images."""

import re

import numpy as np

from catdog.report.confusion_matrix import MOST_CLASSES, confusion_svg


def shown(svg: str) -> list[str]:
    """Return the classes of the rows, each of which is a column too."""
    labels = re.findall(r"<text [^>]*>(class_\d+)</text>", svg)
    rows, columns = labels[: len(labels) // 2], labels[len(labels) // 2 :]
    assert rows == columns
    return rows


def test_of_many_classes_those_with_the_most_mistakes_are_shown_in_their_order() -> None:
    count = 200
    names = [f"class_{i}" for i in range(count)]
    confusion_KK = np.diag(np.full(count, 20))
    mistaken = np.random.default_rng(0).permutation(count)[: MOST_CLASSES // 2]
    for rank, true in enumerate(mistaken):  # each of these is taken for its neighbour, the first most often
        confusion_KK[true, (true + 1) % count] += 20 - rank // 2
    svg = confusion_svg(confusion_KK, names, "class")
    involved = {int(true) for true in mistaken} | {int(true + 1) % count for true in mistaken}
    found = [int(name.removeprefix("class_")) for name in shown(svg)]
    assert len(found) == MOST_CLASSES
    assert found == sorted(found)
    assert involved <= set(found)
    assert ">50 %<" in svg  # 20 of the 40 images of its class, whatever is shown of them


def test_all_of_forty_classes_are_shown() -> None:
    names = [f"class_{i}" for i in range(MOST_CLASSES)]
    assert shown(confusion_svg(np.ones((MOST_CLASSES, MOST_CLASSES), np.int64), names, "class")) == names
