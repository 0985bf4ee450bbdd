"""A report's tables, ready to print: every cell is text, a dash where there is no value."""

import dataclasses
import itertools
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from catdog.analysis.contrasts import names_by_label
from catdog.analysis.intervals import Interval
from catdog.analysis.log_loss import DIGITS
from catdog.analysis.mask_lifts import BLIND, mask_verdicts
from catdog.analysis.run_data import ReportContent
from catdog.analysis.tables import accuracy_cells, side_columns
from catdog.analysis.verdicts import ON_NEW_IMAGES, ON_TEST_SET, Answer, Contrast
from catdog.formatting import data_uri, format_accuracy, format_p, format_points, format_range
from catdog.report.csv_text import cells_csv
from catdog.report.interval_plot import IntervalPlot
from catdog.runs.history import UNIFORM, MaskHealth, at_places, epoch_row, mask_collapse
from catdog.runs.places import HEAD, at_place, places_of
from catdog.runs.tuning import Tuning

NOTHING = "–"
MEASURES = {"pointing": "Pointing game", "energy": "Energy inside", "pxap": "PxAP", "deletion": "Deletion"}
HEALTH = {
    "mask_mean": "Mean activation",
    "mask_entropy": "Entropy",
    "mask_overlap": "Overlap",
    "mask_corner_mass": "Corner mass",
    "mask_dead": "Dead masks",
}


@dataclass(frozen=True)
class Table:
    """A table whose first column names its rows; columns in `words` hold text, the others numbers."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: frozenset[int] = frozenset({0})
    strong: frozenset[str] = frozenset()
    """Names of the highlighted rows."""
    phone: frozenset[int] = frozenset()
    """The columns that a phone shows at first; empty: all."""
    plot: IntervalPlot | None = None
    """Drawn behind the first column: an estimate for each row."""
    about: tuple[str, ...] = ()
    """What stands below each row's name, in small letters."""

    @property
    def csv(self) -> str:
        """Return the table as CSV in a data URI."""
        return data_uri("text/csv;charset=utf-8", cells_csv([self.columns, *self.rows]).encode())

    @property
    def file_name(self) -> str:
        """Return what to call its CSV."""
        return f"{'-'.join(re.findall('[a-z0-9]+', self.caption.lower())[:5])}.csv"


def comparison(content: ReportContent) -> Table:
    """Return the comparison table: one row per variant."""
    table, side = content.table.to_dict("records"), side_columns(content.table)
    own = {row["variant"]: row["head_parameters"] for row in table}
    manifest = content.run_status.manifest
    reference_name = names_by_label(manifest)[manifest.declaration.reference]
    reference = own.get(reference_name)
    differences = {one.variant: signed(one.mean) for one in content.contrasts} | {reference_name: "reference"}
    rows = tuple(
        (
            row["variant"],
            *accuracies[:3],
            differences.get(row["variant"], NOTHING),
            *accuracies[3:],
            format_accuracy(row["test_class_mean"]),
            _whole(row["head_parameters"]),
            _added(row["head_parameters"], reference),
            number(row["trial_seconds"], 0 if (row["trial_seconds"] or 0) >= 10 else 1),
            *(format_accuracy(row[f"{name}_mean"], row[f"{name}_std"]) for name in side),
        )
        for row, accuracies in zip(table, map(accuracy_cells, table), strict=True)
    )
    by_class = f"Test by {content.run_status.manifest.class_noun}"
    columns = (
        "Variant", "n", "Validation", "Test", "Difference", "Best run: Validation", "its Test", by_class,
        "Head parameters", "Added parameters", "Seconds per trial", *side.values(),
    )  # fmt: skip
    caption = "Accuracy in percent, mean ± sample standard deviation over n seeds"
    return Table(caption, columns, rows, phone=frozenset({0, 3, 4}))


def contrasts(found: Sequence[Contrast]) -> Table:
    """Return the contrasts, one row each, the primary one highlighted."""
    asked = ("Equivalence: 90 % interval", "Adjusted p") if any(one.equivalence for one in found) else ()

    def p_values(answer: Answer | None) -> tuple[str, str]:
        return (NOTHING, NOTHING) if answer is None else (p_value(answer.p), p_value(answer.p_adjusted))

    def equivalence(one: Contrast) -> tuple[str, str]:
        return interval(one.interval_equivalence), p_values(one.equivalence)[1]

    rows = tuple(
        (
            f"{one.variant} − {one.reference}{' (primary)' if one.is_primary else ''}",
            signed(one.mean),
            interval(one.interval),
            *p_values(one.difference),
            *(equivalence(one) if asked else ()),
            number(one.probability_of_improvement, 2),
            number(one.correlation, 2),
            interval(one.interval_new_images),
            str(one.n),
        )
        for one in found
    )
    columns = (
        "Contrast", "Difference", f"95 % interval {ON_TEST_SET}", "p", "Adjusted p", *asked,
        "Probability of improvement", "Correlation", f"95 % interval {ON_NEW_IMAGES}", "n",
    )  # fmt: skip
    primary = frozenset(row[0] for row, one in zip(rows, found, strict=True) if one.is_primary)
    caption = f"Differences of Test accuracy in points, paired by seed{holm_note(found)}"
    return Table(caption, columns, rows, strong=primary)


def holm_note(found: Sequence[Contrast]) -> str:
    """Return which intervals of these contrasts are Holm-adjusted, as the end of a caption; nothing if none is."""
    if all(one.is_primary for one in found):
        return ""
    return f"; all intervals{' but the primary’s' * any(one.is_primary for one in found)} are Holm-adjusted"


def log_losses(found: Sequence[Contrast]) -> Table | None:
    """Return the secondary endpoint of the contrasts, one row each; None if no contrast has it."""
    rows = tuple(
        (
            f"{one.variant} − {one.reference}",
            format_points(loss.mean, DIGITS),
            NOTHING if loss.interval is None else format_range(loss.interval.low, loss.interval.high, DIGITS),
            p_value(loss.p),
            number(loss.ours, DIGITS),
            number(loss.theirs, DIGITS),
            str(loss.n),
        )
        for one in found
        if (loss := one.log_loss) is not None
    )
    columns = ("Contrast", "Difference", "95 % interval", "Unadjusted p", "Log-loss", "of the reference", "n")
    return Table("Secondary endpoint: Test log-loss in nats, paired by seed", columns, rows) if rows else None


def health(content: ReportContent) -> Table | None:
    """Return mask health in the chosen epochs, averaged over seeds, by variant and place; None without masks."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for label in content.run_status.manifest.variants:
        for row in _chosen_rows(content, label):
            for place in places_of(row, "mask_mean"):
                if not pd.isna(row[at_place("mask_mean", place)]):
                    found.setdefault((label, place), []).append(row)
    rows = tuple(
        (label, place, str(len(chosen)), *(number(_mean(chosen, at_place(name, place)), 3) for name in HEALTH))
        for (label, place), chosen in found.items()
    )
    caption = "Masks on the validation images in each trial’s chosen epoch, mean over seeds"
    table = Table(caption, ("Variant", "Place", "n", *HEALTH.values()), rows, frozenset({0, 1}))
    return _of_places(table, {place for _, place in found}) if rows else None


def health_warnings(content: ReportContent) -> list[str]:
    """Return one line per variant: each kind of mask collapse, with the places and the seeds affected."""
    lines = []
    histories: dict[str, list[tuple[int, pd.DataFrame]]] = {}
    for (label, seed), history in content.histories.items():
        histories.setdefault(label, []).append((seed, history))
    for label in content.run_status.manifest.variants:
        best = {result.seed: result.best_epoch for result in content.run_status.results(label)}
        chosen: dict[str, set[tuple[int, str]]] = {}
        other: dict[str, set[tuple[int, str]]] = {}
        for seed, history in histories.get(label, ()):
            for wrong, place, epoch in _collapses(history):
                is_chosen = epoch == best.get(seed)
                if is_chosen or wrong != UNIFORM:  # all masks begin without a preference
                    (chosen if is_chosen else other).setdefault(wrong, set()).add((seed, place))
        kinds = []
        for wrong in dict.fromkeys([*chosen, *other]):
            now, before = chosen.get(wrong, set()), other.get(wrong, set()) - chosen.get(wrong, set())
            parts = [
                f"{at_places(place for _, place in found)} in {when} of {seed_list({seed for seed, _ in found})}"
                for when, found in (("the chosen epoch", now), ("other epochs", before))
                if found
            ]
            kinds.append(f"{wrong}{' and'.join(parts)}")
        if kinds:
            lines.append(f"{label}: {'; '.join(kinds)}")
    return lines


def attention(frame: pd.DataFrame, nouns: str, resampled: bool = False) -> Table | None:
    """Return where the masks look, on Validation and Test images with a trimap; None if `frame` is empty.

    With `resampled`, each seed has Validation images of its own.
    """
    if frame.empty:
        return None
    measures = {name: title for name, title in MEASURES.items() if name in frame and frame[name].notna().any()}
    rows = tuple(
        (
            row["variant"],
            row.get("place", HEAD),
            row["part"].capitalize(),
            str(row["trials"]),
            *(
                cell
                for name in measures
                for cell in (
                    format_accuracy(row[name], row[f"{name}_std"]),
                    ", ".join(signed(row[f"{name}_lift_{blind}"]) for blind in BLIND),
                )
            ),
        )
        for row in frame.to_dict("records")
    )
    splits = frame.drop_duplicates("part").to_dict("records")
    parts = {"validation": "validation, the fewest of a seed" if resampled else "validation", "test": "test"}
    if frame["pointing"].notna().any():
        counts = " and ".join(
            f"{row['images']} images of {row['breeds']} {nouns} ({parts[row['part']]})" for row in splits
        )
        measured = f"against the trimaps of {counts}; in percent"
    else:
        counts = " and ".join(f"{row['images']} images ({parts[row['part']]})" for row in splits)
        measured = f"on {counts} without trimaps"
    measured += "; deletion in natural log-odds" if "deletion" in measures else ""
    titles = (title for name in measures for title in (measures[name], "above uniform, Gaussian"))
    columns = ("Variant", "Place", "Split", "n", *titles)
    caption = f"Measured {measured}, mean ± standard deviation over seeds"
    return _of_places(Table(caption, columns, rows, frozenset({0, 1, 2})), set(frame.get("place", [HEAD])))


def lifts(frame: pd.DataFrame) -> Table | None:
    """Return how far masks are above masks that ignore the image on Test, with intervals; None without intervals."""
    rows = tuple(
        (
            row["variant"],
            row.get("place", HEAD),
            title,
            *(
                cell
                for blind in BLIND
                if (column := f"{name}_lift_{blind}")
                for cell in (signed(row.get(column)), _bounds(row.get(f"{column}_low"), row.get(f"{column}_high")))
            ),
        )
        for row in (frame[frame["part"] == "test"].to_dict("records") if mask_verdicts(frame) else ())
        for name, title in MEASURES.items()
        if pd.notna(row.get(name))
    )
    columns = ("Variant", "Place", "Measure", "Above uniform", "95 % interval", "Above Gaussian", "95 % interval")
    table = Table("Above masks that ignore the image, on Test", columns, rows, frozenset({0, 1, 2}))
    return _of_places(table, {place for _, place, *_ in rows}) if rows else None


def _bounds(low: float | None, high: float | None) -> str:
    return NOTHING if low is None or high is None or pd.isna(low) else interval(Interval(low, high))


def tuned(tuning: Tuning) -> Table:
    """Return each variant's best point."""
    rows = []
    for label, points in tuning.variants.items():
        best = tuning.best(label)
        values = NOTHING if best is None else ", ".join(f"{name} {value}" for name, value in best.values.items())
        found = NOTHING if best is None else str(1 + points.index(best))
        rows.append((label, values, number(None if best is None else best.accuracy, 2), found, str(len(points))))
    columns = ("Variant", "Best values", "Validation", "Point", "of")
    return Table("Each variant's best point by mean Validation accuracy", columns, tuple(rows), frozenset({0, 1}))


def pairs(caption: str, items: Mapping[str, Any]) -> Table:
    """Return names and values as a two-column table."""
    rows = tuple((name, _cell(value)) for name, value in items.items())
    return Table(caption, ("Setting", "Value"), rows, frozenset({0, 1}))


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return NOTHING
    return f"{value:.4g}".replace("-", "−") if isinstance(value, float) else str(value)


def number(value: float | None, digits: int) -> str:
    """Return a number to `digits` decimals; a dash if it is missing or not finite."""
    if value is None or pd.isna(value) or not np.isfinite(value):
        return NOTHING
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")  # -0.0 is 0.0


def signed(value: float | None) -> str:
    """Return percentage points with their sign."""
    return NOTHING if value is None or pd.isna(value) else format_points(value)


def interval(value: Interval | None) -> str:
    """Return an interval as `−0.12 to +0.34`."""
    return NOTHING if value is None else format_range(value.low, value.high)


def p_value(value: float | None) -> str:
    """Return a p-value as `0.083`, or a dash without one."""
    return NOTHING if value is None else format_p(value)


def seed_list(seeds: Iterable[int]) -> str:
    """Return `seed 3` or `seeds 0–4, 7`."""
    there = set(seeds)
    ordered = sorted(there)
    firsts = [seed for seed in ordered if seed - 1 not in there]
    lasts = [seed for seed in ordered if seed + 1 not in there]
    spans = [str(a) if a == b else f"{a}–{b}" for a, b in zip(firsts, lasts, strict=True)]
    return f"seed{'s' * (len(ordered) > 1)} {', '.join(spans)}"


def _chosen_rows(content: ReportContent, label: str) -> list[dict[str, Any]]:
    rows = [
        epoch_row(content.histories[label, result.seed], result.best_epoch)
        for result in content.run_status.results(label)
        if (label, result.seed) in content.histories
    ]
    return [row for row in rows if row is not None]


def _of_places(table: Table, places: set[str]) -> Table:
    """Return a table with its second column, the place, only if there are others than the head."""
    if places != {HEAD}:
        return table
    columns, *rows = ((row[0], *row[2:]) for row in (table.columns, *table.rows))
    words = frozenset({0, *(column - 1 for column in table.words if column > 1)})
    return dataclasses.replace(table, columns=columns, rows=tuple(rows), words=words)


def _mean(rows: Sequence[Mapping[str, Any]], name: str) -> float:
    return float(np.nanmean([row[name] for row in rows]))


def _collapses(history: pd.DataFrame) -> Iterator[tuple[str, str, int]]:
    """Yield what is wrong with the masks of a place in an epoch, epoch by epoch."""
    places = places_of(history, "mask_mean")
    health = {place: history[[at_place(name, place) for name in HEALTH]].to_numpy(float).tolist() for place in places}
    for epoch, place in itertools.product(range(len(history)), places):
        values = health[place][epoch]
        if not any(map(math.isnan, values)) and (wrong := mask_collapse(MaskHealth(*values))) is not None:
            yield wrong, place, epoch


def _whole(value: Any) -> str:
    return NOTHING if pd.isna(value) else f"{value:,}"


def _added(value: Any, reference: Any) -> str:
    if pd.isna(value) or reference is None or pd.isna(reference):
        return NOTHING
    return f"{value - reference:+,}".replace("-", "−") if value != reference else "0"
