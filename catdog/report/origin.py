"""How a run was made, how to make it again, and how to cite it."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from typing import Any

from catdog.analysis.run_data import ReportContent
from catdog.formatting import counted, format_seconds, readable_time
from catdog.report import tables
from catdog.report.tables import Table
from catdog.runs.cost import spending_lines
from catdog.runs.manifest import Manifest
from catdog.runs.results import TrialResult
from catdog.runs.status import RunStatus

MAKE_AGAIN = "python jobs/sweep.py recipe.yaml --store URL"
CREDITS = {
    "oxford-iiit-pet": (
        "Oxford-IIIT Pet: O. M. Parkhi, A. Vedaldi, A. Zisserman, C. V. Jawahar, Cats and Dogs, CVPR 2012. Licence: CC "
        "BY-SA 4.0; the pictures here are scaled, and overlaid with masks, under the same licence."
    ),
    "drawn": "Drawn by catdog’s code. Licence: MIT.",
}
"""Whose images a report shows, by the dataset's name in a recipe."""


def citation(content: ReportContent) -> list[tuple[str, str]]:
    """Return what to name when a run is cited, and whose pictures its page shows."""
    manifest = content.run_status.manifest
    finished = last_finished(content.run_status)
    version = f" {manifest.versions['catdog-sweep']}" if "catdog-sweep" in manifest.versions else ""
    devices = _counted(content.run_status.finished.values(), lambda result: result.device)
    code = f", code {manifest.code}" if manifest.code else ""
    date = f", {readable_time(finished)}" if finished else ""
    unknown = f"{manifest.data_title}: see the dataset’s own licence before you pass them on."
    return [
        ("Run", f"{manifest.run}, made with catdog{version} (catdog-sweep, MIT licence){code}{date}"),
        ("Recipe and data", f"{manifest.setting}; data fingerprint {manifest.identity.fingerprint}"),
        ("Computed on", f"{devices or 'nothing yet'}, precision {manifest.identity.recipe.precision}"),
        ("Pictures", CREDITS.get(manifest.identity.recipe.dataset, unknown)),
    ]


def last_finished(run_status: RunStatus) -> str | None:
    """Return when the last trial finished; None if none has."""
    return max((result.finished_at for result in run_status.finished.values() if result.finished_at), default=None)


def made(content: ReportContent) -> Table:
    """Return where, when and with what the run was made."""
    manifest, identity = content.run_status.manifest, content.run_status.manifest.identity
    results = content.run_status.finished.values()
    finished = last_finished(content.run_status)
    spent = spending_lines(content.run_status.launches)
    shapes = {(r.feature_channels, r.feature_height, r.feature_width) for r in results if r.feature_channels}
    rows: Mapping[str, Any] = {
        "Code": manifest.code,
        "Preset": manifest.preset,
        "Data fingerprint": identity.fingerprint,
        "Weights": _counted([r for r in results if r.weights_package], lambda result: result.weights_package),
        "Weights, sha256": identity.weights_digest
        or _counted([r for r in results if r.weights_sha256], lambda result: result.weights_sha256),
        "Devices": _counted(results, lambda result: result.device),
        "Processors": _counted(results, lambda result: result.cpu_host),
        "Hosts": _counted(results, lambda result: result.worker_host),
        "Precision, threads": f"{identity.recipe.precision}, {identity.threads} per trial"
        + (f" and worker, {identity.workers} workers" if identity.workers > 1 else ""),
        "Feature map": ", ".join("×".join(map(str, shape)) for shape in sorted(shapes)) or None,
        "Started": readable_time(manifest.created_at),
        "Last trial finished": readable_time(finished) if finished else None,
        "Total trial time": format_seconds(sum(result.seconds for result in results)),
        "Spent": "; ".join(spent) or None,
    }
    return tables.pairs("Where and when", rows)


def short_labels(manifest: Manifest) -> Table:
    """Return which variants the short labels stand for."""
    rows = tuple((short, label) for label, short in manifest.short_labels.items())
    return Table("Short labels", ("Short label", "Variant"), rows, frozenset({0, 1}))


def recipe(content: ReportContent) -> Table:
    """Return the settings of the run's recipe."""
    settings = dataclasses.asdict(content.run_status.manifest.identity.recipe)
    return tables.pairs("Recipe", {name.replace("_", " "): value for name, value in settings.items()})


def _counted(results: Collection[TrialResult], name: Callable[[Any], str | None]) -> str | None:
    counts = Counter(name(result) or "unknown" for result in results)
    return ", ".join(f"{label} ({counted(count, 'trial')})" for label, count in sorted(counts.items())) or None
