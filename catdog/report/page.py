"""The report as a single page, report.html: figures, tables and a mask gallery. It loads nothing from other hosts.

Equal content gives equal bytes, except for the refresh time that a running sweep's page shows.
"""

import base64
import functools
import hashlib
import importlib.resources
import itertools
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jinja2
import markupsafe
import pandas as pd

from catdog.analysis.log_loss import log_loss_line
from catdog.analysis.mask_lifts import mask_verdicts
from catdog.analysis.run_data import ReportContent
from catdog.analysis.tables import side_columns, tie_lines
from catdog.analysis.verdicts import ON_TEST_SET, Contrast, pairing_line
from catdog.formatting import data_uri, now, plural, printable, readable, readable_time
from catdog.report import figures, origin, tables
from catdog.report.class_tables import by_class, confused_pairs, hardest_images
from catdog.report.confusion_matrix import MOST_CLASSES, confusion_svg
from catdog.report.first_screen import about_line, contrasts_plot, next_step, no_uncertainty_line, splits_line
from catdog.report.mask_gallery import BUDGET, build_gallery, small_sheet
from catdog.report.published_figures import published
from catdog.report.tables import Table
from catdog.runs.status import missing_trials, mixed_versions
from catdog.runs.tuning import Tuning, tuning_sentence

MOST_VARIANTS = 24
"""Variants with a picture of their own in the page, of each kind."""
MOST_MISSING = 200
"""Trials that are listed one by one."""
MOST_SHEETS = 1_500_000
"""Size limit of the contact sheets, and of those of Grad-CAM, in bytes; the gallery has what they leave."""


@dataclass(frozen=True)
class Picture:
    """An SVG as a data URI, with alternative text and a caption."""

    source: str
    alt: str
    caption: str


@dataclass(frozen=True)
class Confusion:
    """The mistakes of one variant's best run."""

    title: str
    pairs: Table
    matrix: Picture


def build_page(content: ReportContent, running: bool = False) -> bytes:
    """Return report.html; while the sweep is `running`, the page says so, and that it was refreshed now."""
    manifest = content.run_status.manifest
    sheets = _sheets(content, content.contact_sheets, "masks")
    grad_cams = _sheets(content, content.grad_cam_sheets, "Grad-CAM map")
    gallery = build_gallery(content, BUDGET - sum(len(sheet.source) for sheet in (*sheets, *grad_cams)))
    labels = [manifest.spec(name).label for name in manifest.variants]
    script, style = _asset("page.js"), _asset("page.css")
    resampled = manifest.identity.recipe.resamples_split
    page = _template().render(
        policy=_policy(script, style),
        script=markupsafe.Markup(script),
        style=markupsafe.Markup(style),
        run=manifest.run,
        setting=manifest.setting,
        running=running,
        refreshed_at=readable_time(now()) if running else None,
        noun=manifest.class_noun,
        other_tasks=bool(side_columns(content.table)),
        data_note=manifest.data and manifest.data.note,
        subject=manifest.subject,
        nouns=plural(manifest.class_noun),
        counts=content.run_status.counts,
        planned=len(content.run_status.trials),
        about=about_line(content),
        forest=contrasts_plot(content),
        no_uncertainty=no_uncertainty_line(content.contrasts),
        splits=splits_line(content),
        next=None if running else next_step(content),
        primary=[contrast for contrast in content.contrasts if contrast.is_primary],
        others=[contrast for contrast in content.contrasts if not contrast.is_primary],
        declared=manifest.declared_lines,
        looks=manifest.declaration.looks,
        pairing=pairing_line(content.contrasts),
        comparison=tables.comparison(content),
        ties=tie_lines(content.table),
        contrasts=tables.contrasts(content.contrasts) if content.contrasts else None,
        log_losses=tables.log_losses(content.contrasts),
        log_loss_lines=[line for one in content.contrasts if (line := log_loss_line(one))],
        accuracies=_accuracies(content),
        differences=_differences(content),
        curves=_curves(content),
        tuning=manifest.tuning and tuning_sentence(manifest.tuning, labels),
        tuned=manifest.tuning and tables.tuned(manifest.tuning),
        tuning_curves=_tuning_curves(manifest.tuning) if manifest.tuning else [],
        gallery=gallery,
        resampled=resampled,
        health=tables.health(content),
        warnings=tables.health_warnings(content),
        attention=tables.attention(content.attention, plural(manifest.class_noun), resampled),
        lifts=tables.lifts(content.attention),
        mask_verdicts=mask_verdicts(content.attention),
        sheets=sheets,
        grad_cams=grad_cams,
        confusions=_confusions(content),
        by_class=list(by_class(content)),
        hardest=content.predictions and hardest_images(content.predictions, manifest.class_noun),
        waiting=content.run_status.waiting,
        missing_trials=missing_trials(content.run_status),
        most_missing=MOST_MISSING,
        most_variants=MOST_VARIANTS,
        grad_cam_count=len(content.grad_cam_sheets),
        mixed_versions=mixed_versions(content.run_status),
        published=published(content),
        commands=[shlex.join(command) for command in manifest.commands],
        make_again=origin.MAKE_AGAIN,
        recipe_lines=(content.recipe_file or "").splitlines(),
        short_labels=origin.short_labels(manifest),
        made=origin.made(content),
        recipe=origin.recipe(content),
        citation=origin.citation(content),
        versions=tables.pairs("Packages", manifest.versions),
    )
    return _well_broken(page).encode(errors="backslashreplace")  # text from a store may hold what UTF-8 cannot


@functools.cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_harmless
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    return environment.from_string(_asset("page.html"))


def _harmless(value: Any) -> Any:
    """Return text without control characters, and anything else as it is; the page's own parts are `Markup`."""
    return printable(value) if isinstance(value, str) and not isinstance(value, markupsafe.Markup) else value


_NUMBER = "[−+]?[0-9][0-9.,]*(?<=[0-9])"
_WHOLE = re.compile(
    "--[a-z][a-z-]*(?: [0-9]+)?"  # an option
    "|[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2} UTC"
    f"|[np] (?:=|&lt;) {_NUMBER}"
    f"|{_NUMBER}(?: (?:±|×|to) {_NUMBER})?(?: (?:%|px))?"  # a number, a range, with its unit
)
"""Text of a page that stays in one line, and numbers, which do anyway."""
_NO_PROSE = re.compile(r"<(style|script|pre|title)\b.*?</\1>|<[^>]*>", re.DOTALL)


def _well_broken(page: str) -> str:
    """Return a page that keeps numbers with their units, options and dates in one line, and breaks labels at items."""

    def keep(found: re.Match[str]) -> str:
        text = found[0]
        return f'<span class="whole">{text}</span>' if " " in text or "-" in text else text

    ends = [0, *(end for found in _NO_PROSE.finditer(page) for end in found.span()), len(page)]
    parts = [page[start:end] for start, end in itertools.pairwise(ends)]
    parts[::2] = [re.sub("([:,])(?=[A-Za-z])", r"\1<wbr>", _WHOLE.sub(keep, part)) for part in parts[::2]]
    return "".join(parts)


@functools.cache
def _asset(name: str) -> str:
    return importlib.resources.files("catdog.report").joinpath(name).read_text(encoding="utf-8")


def _policy(script: str, style: str) -> str:
    """Return the Content-Security-Policy: this script, this style, embedded images, and nothing else."""
    script_hash, style_hash = (
        base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (script, style)
    )
    return (
        f"default-src 'none'; img-src data:; style-src 'sha256-{style_hash}'; script-src 'sha256-{script_hash}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _accuracies(content: ReportContent) -> list[Picture]:
    if not content.run_status.counts["complete"]:
        return []
    summary = "; ".join(
        f"{row[0]} {row[2]} Validation, {row[3]} Test (n {row[1]})" for row in tables.comparison(content).rows
    )
    variants = content.run_status.manifest.variants
    return [
        _picture(
            figures.accuracies_svg(content.trials, variants, column),
            f"{title} accuracy of every complete trial, by variant. {summary}.",
            f"{title}: {_points(max(content.table['n'].tolist()))}, the mean and its 95 % interval over seeds"
            f"{figures.some_of(figures.MOST_ROWS, len(variants), 'variants')}",
        )
        for column, title in (("val_accuracy", "Validation"), ("test_accuracy", "Test"))
    ]


def _differences(content: ReportContent) -> list[Picture]:
    paired = [contrast for contrast in content.contrasts if contrast.n]
    if not paired:
        return []
    variants = content.run_status.manifest.variants
    said = "; ".join(
        f"{one.variant} − {one.reference} {tables.signed(one.mean)} ({tables.interval(one.interval)})" for one in paired
    )
    pictures = [
        _picture(
            figures.differences_svg(paired, variants),
            f"Paired differences of Test accuracy, mean and 95 % interval {ON_TEST_SET}: {said}.",
            f"{_points(max(one.n for one in paired), 'pair').capitalize()}, the mean and its 95 % interval "
            f"{ON_TEST_SET}{figures.some_of(figures.MOST_ROWS, len(paired), 'contrasts')}{tables.holm_note(paired)}",
        )
    ]
    primary = next((contrast for contrast in paired if contrast.is_primary), None)
    return [*pictures, _by_seed(primary, variants)] if primary is not None else pictures


def _by_seed(contrast: Contrast, variants: tuple[str, ...]) -> Picture:
    above = sum(difference > 0 for difference in contrast.differences)
    below = sum(difference < 0 for difference in contrast.differences)
    title = f"{contrast.variant} − {contrast.reference}"
    return _picture(
        figures.pairs_svg(contrast, figures.colour_of(variants.index(contrast.variant))),
        f"{title} by seed: above zero for {above} of {contrast.n} seeds, below for {below}.",
        f"{title}, seed by seed{figures.some_of(figures.MOST_POINTS, contrast.n, 'pairs')}: above zero for {above} of "
        f"{contrast.n}, below for {below}",
    )


def _points(most: int, noun: str = "seed") -> str:
    """Return what the points of a plot are, whose longest row is of `most`."""
    evenly = f", of more than {figures.MOST_POINTS} those of evenly spaced ranks" * (most > figures.MOST_POINTS)
    return f"a point for each {noun}{evenly}"


def _curves(content: ReportContent) -> list[Picture]:
    pictures = []
    for column, title in (("train_loss", "train loss"), ("val_accuracy", "Validation accuracy, %")):
        curves_ES = {}
        for label in content.run_status.manifest.variants:
            histories = {
                result.seed: content.histories[label, result.seed][column]
                for result in content.run_status.results(label)
                if (label, result.seed) in content.histories
            }
            curve_ES = pd.DataFrame(histories)
            if curve_ES.notna().to_numpy().any():
                curves_ES[label] = curve_ES.dropna(how="all")
        if curves_ES:
            ends = "; ".join(f"{label} ends at {curve.iloc[-1].mean():.2f}" for label, curve in curves_ES.items())
            caption = f"{title[0].upper()}{title[1:]}: mean over seeds, band from the 10 % to the 90 % quantile"
            caption += f"; thin and dashed: {next(iter(curves_ES))}" * (len(curves_ES) > figures.MOST_TOGETHER)
            caption += figures.some_of(figures.MOST_LINES, len(curves_ES), "variants")
            svg = figures.curves_svg(curves_ES, content.run_status.manifest.variants, title)
            pictures.append(_picture(svg, f"{caption}. {ends}.", caption))
    return pictures


def _tuning_curves(tuning: Tuning) -> list[Picture]:
    curves = {
        label: pd.DataFrame({"best": tuning.best_so_far(label)}, index=range(1, len(points) + 1), dtype=float)
        for label, points in tuning.variants.items()
        if tuning.best(label) is not None
    }
    if not curves:
        return []
    caption = "The best mean Validation accuracy of each variant so far, by the number of points tried"
    ends = "; ".join(f"{label} ends at {curve.iloc[-1].item():.2f}" for label, curve in curves.items())
    svg = figures.curves_svg(curves, tuple(tuning.variants), "best Validation, %", "points tried", skipped=0)
    return [_picture(svg, f"{caption}. {ends}.", caption)]


def _sheets(content: ReportContent, sheets: Mapping[str, bytes], beside: str) -> list[Picture]:
    """Return the first variants' sheets of their best runs, as many as may take `MOST_SHEETS`."""
    found: list[Picture] = []
    left = MOST_SHEETS
    for label, sheet in itertools.islice(sheets.items(), MOST_VARIANTS):
        best, small = content.run_status.best_runs[label], small_sheet(sheet)
        assert best is not None
        if small is not None and (left := left - len(small) * 4 // 3) >= 0:
            title = f"{label}, seed {best.seed}, epoch {best.best_epoch}"
            alt = f"Contact sheet: each probe image beside its {beside}. {title}."
            found.append(Picture(data_uri("image/webp", small), alt, title))
    return found


def _confusions(content: ReportContent) -> list[Confusion]:
    """Return the mistakes of the best variants' best runs, those of the best one first."""
    found, noun, predictions = [], content.run_status.manifest.class_noun, content.predictions
    best_runs = [(label, one) for label, one in content.run_status.best_runs.items() if one is not None]
    for label, best in sorted(best_runs, key=lambda item: -(item[1].val_accuracy or 0.0))[:MOST_VARIANTS]:
        if predictions is None or best.seed not in predictions.seeds[label]:
            continue
        row = predictions.seeds[label].index(best.seed)
        pairs = confused_pairs(predictions, label, row, noun)
        worst = ", ".join(f"{one[0]} mistaken for {one[1]} ({one[2]})" for one in pairs.rows[:3]) or "none"
        title = f"{label}, seed {best.seed}"
        classes = [readable(name) for name in predictions.classes]
        svg = confusion_svg(predictions.confusion_KK(label, row), classes, noun, predictions.all_confusions_KK)
        some = f": the {MOST_CLASSES} of {len(classes):,} {plural(noun)} that it confused most"
        shown = some if len(classes) > MOST_CLASSES else ""
        caption = f"Mistakes of {title} on Test{shown}; a row is a true {noun}, an empty cell means none"
        caption += f"; {plural(noun)} that all trials together mistake for each other stand together"
        picture = _picture(svg, f"Confusion matrix of {title}. Most confused: {worst}.", caption)
        found.append(Confusion(title, pairs, picture))
    return found


def _picture(svg: str, alt: str, caption: str) -> Picture:
    return Picture(data_uri("image/svg+xml", svg.encode()), alt, caption)
