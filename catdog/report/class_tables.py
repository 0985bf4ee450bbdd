"""The tables of a report about single classes: where two variants differ, and what one trial confused."""

from collections.abc import Iterator

import numpy as np

from catdog.analysis.class_differences import ClassDifference, class_differences
from catdog.analysis.intervals import FEWEST_FOR_AN_INTERVAL
from catdog.analysis.predictions import Predictions
from catdog.analysis.run_data import ReportContent
from catdog.analysis.verdicts import ON_TEST_SET, Contrast
from catdog.formatting import counted, plural, readable
from catdog.report.interval_plot import Estimate, IntervalPlot
from catdog.report.tables import Table, interval, number, signed

MOST_PAIRS = 12
MOST_ROWS = 100
"""Classes in a plot: of more, those that differ most."""
MOST_PLOTS, MOST_NAMED = 12, 5
"""Contrasts with a plot of their own, and classes in a sentence."""
KEY = {"open": "mean difference, 0 not excluded", "clear": "mean difference, not 0", "own": f"interval {ON_TEST_SET}"}


def by_class(content: ReportContent) -> Iterator[tuple[Contrast, str, Table]]:
    """Yield each contrast, the primary one first, with a sentence on its classes and their plot."""
    if content.predictions is None:
        return
    for contrast in sorted(content.contrasts, key=lambda one: not one.is_primary)[:MOST_PLOTS]:
        found = class_differences(content.predictions, contrast)
        if found:
            noun = content.run_status.manifest.class_noun
            classes = [readable(name) for name in content.predictions.classes]
            yield contrast, _sentence(found, classes, noun), _plot(contrast, found, classes, noun)


def _sentence(found: list[ClassDifference], classes: list[str], noun: str) -> str:
    clear, constant = [one for one in found if one.is_clear], [one for one in found if one.is_constant]
    of = f"of the {counted(len(found), noun)}"
    if found[0].seeds < FEWEST_FOR_AN_INTERVAL:
        return f"Too few seeds to tell which {of} differ."
    does = "differs" if len(clear) == 1 else "differ"
    chance = f"{len(clear)} {of} {does} by more than the seeds’ chance explains{_named(clear, classes)}."
    said = chance if clear else f"The difference of none {of} is told from zero."
    same = f" {len(constant)} without an interval, the same in all {found[0].seeds} seeds{_named(constant, classes)}."
    return said + same * bool(constant)


def _named(found: list[ClassDifference], classes: list[str]) -> str:
    largest = sorted(found, key=lambda one: -abs(one.mean))[:MOST_NAMED]
    some = f"; the largest {MOST_NAMED}: " if len(found) > MOST_NAMED else ": "
    return some + ", ".join(f"{classes[one.label]} {signed(one.mean)}" for one in largest)


def _plot(contrast: Contrast, found: list[ClassDifference], classes: list[str], noun: str) -> Table:
    largest = sorted(found, key=lambda one: -abs(one.mean))[:MOST_ROWS]
    shown = [one for one in found if one in largest]
    some = f", the {MOST_ROWS} that differ most of {len(found):,}" if len(found) > MOST_ROWS else ""
    caption = (
        f"{contrast.variant} − {contrast.reference}, Test accuracy by {noun} in points, mean over seeds{some}. "
        f"With 95 % all {len(found):,} intervals hold together (Bonferroni; Student’s t over seeds)"
    )
    columns = (noun.capitalize(), "Difference", "Interval", contrast.variant, contrast.reference, "Images")
    rows = tuple(
        (
            classes[one.label],
            signed(one.mean),
            interval(one.interval),
            number(one.ours, 1),
            number(one.theirs, 1),
            str(one.images),
        )
        for one in shown
    )
    estimates = [Estimate(one.mean, one.interval, is_clear=one.is_clear) for one in shown]
    return Table(caption, columns, rows, phone=frozenset({0, 1}), plot=IntervalPlot.of(estimates, KEY))


def hardest_images(predictions: Predictions, noun: str) -> Table | None:
    """Return the Test images that trials of all variants most often get wrong; None if none is ever wrong."""
    predicted_TN = np.concatenate(list(predictions.predicted_SN.values()))
    wrong_N = (predicted_TN != predictions.labels_N).sum(axis=0)
    classes = [readable(name) for name in predictions.classes]

    def row(n: int) -> tuple[str, ...]:
        mistakes_T = predicted_TN[predicted_TN[:, n] != predictions.labels_N[n], n]
        taken = classes[int(np.bincount(mistakes_T).argmax())]
        return (
            str(predictions.images_N[n]),
            classes[predictions.labels_N[n]],
            taken,
            f"{wrong_N[n]} of {len(predicted_TN)}",
        )

    rows = tuple(row(n) for n in np.argsort(-wrong_N, kind="stable")[:MOST_PAIRS].tolist() if wrong_N[n])
    columns = ("Image", f"True {noun}", "Most frequent mistake", "Trials that get it wrong")
    always = f"{(wrong_N == len(predicted_TN)).sum():,} of {len(wrong_N):,}"
    caption = f"Test images that trials of all variants most often get wrong ({always} are wrong in every trial)"
    return Table(caption, columns, rows, frozenset({0, 1, 2})) if rows else None


def confused_pairs(predictions: Predictions, label: str, row: int, noun: str) -> Table:
    """Return the pairs of classes that one trial confused most, with the mean over all of the variant's seeds."""
    confusion_KK, mean_KK = predictions.confusion_KK(label, row), predictions.mean_confusion_KK(label)
    images_K = confusion_KK.sum(axis=1)
    mistakes_KK = confusion_KK - np.diag(confusion_KK.diagonal())
    order = np.argsort(-mistakes_KK, axis=None, kind="stable")[:MOST_PAIRS]
    pairs = [divmod(int(index), len(confusion_KK)) for index in order]
    classes = [readable(name) for name in predictions.classes]
    rows = tuple(
        (
            classes[true],
            classes[taken],
            f"{mistakes_KK[true, taken]} of {images_K[true]}",
            f"{mean_KK[true, taken]:.1f}",
        )
        for true, taken in pairs
        if mistakes_KK[true, taken]
    )
    caption = f"{plural(noun).capitalize()} that {label} seed {predictions.seeds[label][row]} confused most on Test"
    return Table(caption, (f"True {noun}", f"Predicted {noun}", "Images", "Mean over seeds"), rows, frozenset({0, 1}))
