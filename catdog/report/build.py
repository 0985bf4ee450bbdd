"""The files of a run's report, from the store alone: tables, summary, figures, page, and table.md for the terminal."""

import shlex
from collections.abc import Iterable, Sequence

import pandas as pd

from catdog.analysis.log_loss import log_loss_figures, log_loss_line
from catdog.analysis.mask_lifts import mask_verdicts
from catdog.analysis.run_data import ReportContent, read_content
from catdog.analysis.tables import accuracy_cells, side_columns, summary, tie_lines
from catdog.analysis.verdicts import Contrast, contrasts_table
from catdog.errors import NotFoundError, UserError
from catdog.formatting import counted, format_accuracy, markdown, markdown_code, plural
from catdog.report.csv_text import csv_bytes
from catdog.report.figures import accuracy_figure
from catdog.report.origin import MAKE_AGAIN
from catdog.report.page import build_page
from catdog.runs.manifest import Manifest
from catdog.runs.paths import RunPaths
from catdog.runs.status import RunStatus, missing_trials, mixed_versions
from catdog.runs.trial_files import Track, untracked
from catdog.runs.tuning import tuning_sentence
from catdog.storage import Store
from catdog.storage.serialization import read_json, to_json


def write_report(
    store: Store,
    run_status: RunStatus,
    target: Store | None = None,
    running: bool = False,
    track: Track = untracked,
    force: bool = False,
) -> ReportContent:
    """Write the report's files into the run's report folder, or into `target`, and return their content.

    While a sweep is `running`, the page says so; `track` shows progress.

    Raises:
        UserError: a report of more complete trials is there, and would be replaced neither by the run's own sweep nor
            by `force`.
    """
    prefix = RunPaths(run_status.manifest.run).report("") if target is None else ""
    target = store if target is None else target
    complete, reported = run_status.counts["complete"], _reported_trials(target, f"{prefix}summary.json")
    if complete < reported and not (running or force):
        raise UserError(
            f"--run {run_status.manifest.run}: the report in {target.url}/{prefix} is of "
            f"{counted(reported, 'complete trial')}, {store.url} has {complete} now: restore them, choose another "
            "--out, or replace the report with --force"
        )
    content = read_content(store, run_status, track)
    for name, data in build_files(content, running).items():
        target.put(f"{prefix}{name}", data)
    return content


def _reported_trials(target: Store, key: str) -> int:
    """Return how many complete trials the report with this summary is of; 0 if there is none that can be read."""
    try:
        return int(read_json(target.get(key))["trials"]["complete"])
    except (NotFoundError, KeyError, TypeError, ValueError, OverflowError):
        return 0


def build_files(content: ReportContent, running: bool = False) -> dict[str, bytes]:
    """Return the report's files by name."""
    run_status, contrasts = content.run_status, contrasts_table(content.contrasts)
    files = {
        "table.csv": csv_bytes(content.table),
        "table.md": table_markdown(content).encode(),
        "trials.csv": csv_bytes(content.trials),
        "contrasts.csv": csv_bytes(contrasts),
        "summary.json": to_json(summary(run_status, content.table, contrasts, content.attention)),
        "report.html": build_page(content, running),
    }
    if not content.attention.empty:
        files["attention.csv"] = csv_bytes(content.attention)
    if run_status.counts["complete"]:
        files["figures/accuracy.png"] = accuracy_figure(content.trials, run_status.manifest.variants)
    if content.recipe_file is not None:
        files["recipe.yaml"] = content.recipe_file.encode()
    for label, sheet in content.contact_sheets.items():
        files[f"figures/masks-{run_status.manifest.spec(label).folder}.png"] = sheet
    for label, sheet in content.grad_cam_sheets.items():
        files[f"figures/grad-cam-{run_status.manifest.spec(label).folder}.png"] = sheet
    return files


def table_markdown(content: ReportContent) -> str:
    """Return table.md: verdicts, comparison table, trials not in the averages, and how the run was made."""
    manifest, side = content.run_status.manifest, side_columns(content.table)
    contrasts = sorted(content.contrasts, key=lambda one: not one.is_primary)
    own_images = ", each seed's on images of its own" if manifest.identity.recipe.resamples_split else ""
    lines = [
        f"# {markdown(manifest.run)}",
        "",
        f"{markdown(manifest.setting)}. Accuracy in percent, mean ± sample standard deviation over n seeds. The best "
        f"run is a maximum over n, chosen by validation{own_images}."
        + (f" {manifest.data.note}" if manifest.data and manifest.data.note else ""),
        "",
        *(f"- **{markdown(contrast.words)}** {markdown(contrast.figures)}" for contrast in contrasts),
        *(["", " ".join(map(markdown, manifest.declared_lines)), ""] if contrasts else []),
        *_log_losses(contrasts),
        "| variant | n | Validation | Test | best run: Validation | its Test |"
        + "".join(f" {one} |" for one in side.values()),
        "|---|---:|---:|---:|---:|---:|" + "---:|" * len(side),
    ]
    for row in content.table.to_dict("records"):
        lines.append(
            f"| {markdown(row['variant'])} | {' | '.join(accuracy_cells(row))} |"
            + "".join(f" {format_accuracy(row[f'{name}_mean'], row[f'{name}_std'])} |" for name in side)
        )
    lines += _bullets(map(markdown, tie_lines(content.table)))
    lines += _attention(content.attention, manifest)
    lines += _bullets(map(markdown, mask_verdicts(content.attention)))
    if missing := missing_trials(content.run_status):
        lines += ["", f"Not in the averages ({len(missing)}):", *_bullets(map(markdown, missing))]
    lines += _bullets(f"The {markdown(line)}." for line in mixed_versions(content.run_status))
    if manifest.tuning is not None:
        labels = [manifest.spec(name).label for name in manifest.variants]
        lines += ["", markdown(tuning_sentence(manifest.tuning, labels))]
    commands = ", then ".join(markdown_code(shlex.join(command)) for command in manifest.commands)
    lines += ["", f"Made by {commands} (code {markdown((manifest.code or 'unknown')[:12])})."]
    if content.recipe_file is not None:
        lines += ["", f"To make it again: {markdown_code(MAKE_AGAIN)}, with [recipe.yaml](recipe.yaml)."]
    short_labels = manifest.short_labels.items()
    lines += _bullets(f"{markdown(short)} is {markdown_code(label)}" for label, short in short_labels)
    return "\n".join([*lines, ""])


def _bullets(texts: Iterable[str]) -> list[str]:
    """Return a list with an empty line before it; nothing without items."""
    items = [f"- {text}" for text in texts]
    return ["", *items] if items else []


def _log_losses(contrasts: Sequence[Contrast]) -> list[str]:
    """Return the lines on the secondary endpoint; none without predictions."""
    lines = [
        log_loss_line(one) or f"{one.variant} − {one.reference}: {figures}."
        for one in contrasts
        if (figures := log_loss_figures(one))
    ]
    title = "Secondary endpoint, Test log-loss (below zero is better; no verdict comes from it):"
    return [title, "", *(f"- {markdown(line)}" for line in lines), ""] if lines else []


def _attention(table: pd.DataFrame, manifest: Manifest) -> list[str]:
    """Return the lines on where the masks look, on test images with a trimap; none without such images."""
    rows = [] if table.empty else table[(table["part"] == "test") & table["pointing"].notna()].to_dict("records")
    if not rows:
        return []
    nouns, several = plural(manifest.class_noun), "place" in table
    lines = [
        "",
        f"Where the masks look, on {rows[0]['images']} test images of {rows[0]['breeds']} {nouns} that have a trimap: "
        f"how often the maximum is on the {manifest.subject}, and how much of the mass; in percent, averaged over "
        f"{nouns}, and in points above a uniform mask and above a centred Gaussian.",
        "",
        f"| variant |{' place |' * several} pointing game | above uniform, Gaussian | energy inside "
        "| above uniform, Gaussian | overlap |",
        f"|---|{'---|' * several}---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        place = f"{markdown(row['place'])} | " if several else ""
        lines.append(
            f"| {markdown(row['variant'])} | {place}{format_accuracy(row['pointing'], row['pointing_std'])} "
            f"| {_lift(row['pointing_lift_uniform'])}, {_lift(row['pointing_lift_gaussian'])} "
            f"| {format_accuracy(row['energy'], row['energy_std'])} "
            f"| {_lift(row['energy_lift_uniform'])}, {_lift(row['energy_lift_gaussian'])} "
            f"| {format_accuracy(row['overlap'])} |"
        )
    return lines


def _lift(points: float) -> str:
    """Return points with their sign; none of them is -0.0."""
    return f"{round(points, 1) + 0.0:+.1f}"
