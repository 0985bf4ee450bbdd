"""The files of a run's report, from the store alone: tables, summary, figures, page. Alone imports matplotlib."""

from pathlib import Path

import pandas as pd

from catdog.aggregation import summary
from catdog.contrasts import contrasts_table
from catdog.ledger import Ledger
from catdog.paths import RunPaths
from catdog.predictions import Track
from catdog.records import to_json
from catdog.report.content import ReportContent, read_content
from catdog.report.figures import accuracy_figure
from catdog.report.markdown import table_markdown
from catdog.report.page import build_page
from catdog.storage import LocalStore, Store

_FORMAT = "%.6f"


def write_report(
    store: Store,
    ledger: Ledger,
    folder: Path | None = None,
    running: bool = False,
    track: Track = lambda objects, total: objects,
) -> ReportContent:
    """Write all files of the report into the run's report folder, or into `folder`, and return what they show.

    While a sweep is `running` the page says so; `track` is told how far reading is.
    """
    content = read_content(store, ledger, track)
    run = RunPaths(ledger.manifest.run)
    for name, data in build_files(content, running).items():
        if folder is None:
            store.put(run.report(name), data)
        else:
            LocalStore(folder.absolute()).put(name, data)
    return content


def build_files(content: ReportContent, running: bool = False) -> dict[str, bytes]:
    """Return the report's files by name."""
    ledger, contrasts = content.ledger, contrasts_table(content.contrasts)
    files = {
        "table.csv": _csv(content.table),
        "table.md": table_markdown(content).encode(),
        "trials.csv": _csv(content.trials),
        "contrasts.csv": _csv(contrasts),
        "summary.json": to_json(summary(ledger, content.table, contrasts, content.attention)),
        "report.html": build_page(content, running),
    }
    if not content.attention.empty:
        files["attention.csv"] = _csv(content.attention)
    if ledger.counts["complete"]:
        files["figures/accuracy.png"] = accuracy_figure(content.trials, ledger.manifest.variants)
    for label, sheet in content.contact_sheets.items():
        files[f"figures/masks-{ledger.manifest.spec(label).folder}.png"] = sheet
    return files


def _csv(table: pd.DataFrame) -> bytes:
    return table.to_csv(index=False, float_format=_FORMAT).encode()
