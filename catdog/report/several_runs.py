"""Several runs in one table: accuracies, the contrasts between them, and each run's own effects, in any format."""

import dataclasses
import html
from collections.abc import Sequence

import pandas as pd
from rich.console import Console

from catdog.analysis.across_sets import AcrossSets
from catdog.analysis.across_words import figures, sentence
from catdog.analysis.between_runs import BetweenRuns
from catdog.analysis.intervals import bounds
from catdog.analysis.stopping import EarlyStop
from catdog.analysis.tables import accuracy_cells, comparison_table
from catdog.formatting import NumbersTable, data_uri, markdown, printable
from catdog.report.csv_text import csv_bytes
from catdog.report.forest_plot import forest_plot
from catdog.report.tables import Table, interval, p_value, signed
from catdog.runs.status import RunStatus

FILES = {"html": "compare.html", "md": "compare.md", "latex": "compare.tex"}
"""By format: the file with all tables."""
NOTE = (
    "Accuracy in percent, mean ± sample standard deviation over n seeds (n of m: the other trials failed, diverged or "
    "are missing, and count nowhere); differences of Test accuracy in points. Contrasts between runs are paired by "
    "seed where images, split and seeds agree; p is adjusted for their number (Holm)."
)
_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "p{overflow-wrap:anywhere}"
    "div{overflow-x:auto}td{white-space:nowrap}table{border-collapse:collapse;margin:1rem 0}"
    "caption{text-align:left;font-weight:600}"
    "th,td{padding:.25rem .7rem;text-align:right;border-bottom:1px solid #ddd;font-variant-numeric:tabular-nums}"
    "th:first-child,td:first-child,td.word,th.word{text-align:left}img{max-width:100%}"
    "td.word{white-space:normal;overflow-wrap:anywhere;min-width:6rem}"
    "@media(prefers-color-scheme:dark){html{color-scheme:dark}body{background:#161616;color:#ddd}th,td{border-color:#444}}"
)


def runs_table(runs: Sequence[RunStatus]) -> Table:
    """Return one row per run and variant."""
    rows = [
        (run_status.manifest.run, row["variant"], *accuracy_cells(row))
        for run_status in (one.with_short_labels() for one in runs)
        for row in comparison_table(run_status).to_dict("records")
    ]
    columns = ("Run", "Variant", "n", "Validation", "Test", "Best run: Validation", "its Test")
    return Table("Accuracy", columns, tuple(rows), frozenset({0, 1}))


def between_table(found: Sequence[BetweenRuns]) -> Table:
    """Return one row per contrast between two runs."""
    rows = [
        (
            one.variant,
            f"{one.run} − {one.first}",
            str(one.n[0]) if one.unpaired is None else f"{one.n[0]}, {one.n[1]}",
            signed(one.mean),
            interval(one.interval),
            p_value(one.p),
            p_value(one.p_adjusted),
            "paired by seed" if one.unpaired is None else f"unpaired: {one.unpaired}",
        )
        for one in found
    ]
    columns = ("Variant", "Runs", "n", "Difference", "95 % interval, alone", "p", "Adjusted p", "Trials")
    return Table("Between runs", columns, tuple(rows), frozenset({0, 1, 7}))


def stops_table(found: Sequence[EarlyStop]) -> Table:
    """Return one row per contrast that might have stopped early, and one for the reference of its run."""
    rows = [
        (
            one.run,
            one.variant if one.variant == one.reference else f"{one.variant} − {one.reference}",
            one.outcome,
            f"{one.seeds} of {one.planned}",
            f"{one.hours:.2g} of {one.hours_spent:.2g}",
        )
        for one in found
    ]
    columns = ("Run", "Contrast", "Would have ended", "Seeds", "Hours of one trial at a time")
    return Table("Had the sweeps looked early (--until-decided)", columns, tuple(rows), frozenset({0, 1, 2}))


def effects_table(found: Sequence[AcrossSets]) -> Table:
    """Return one row per contender and set: the effects within runs; dataset and backbone where sets differ in them."""
    rows = [(one, effect) for one in found for effect in one.effects]
    recipes = [effect.of.identity.recipe for _, effect in rows]
    datasets, backbones = [one.dataset for one in recipes], [one.backbone for one in recipes]
    answers = [effect.difference for _, effect in rows]
    columns = {
        "set": [effect.of.name for _, effect in rows],
        **({"dataset": datasets} if len(set(datasets)) > 1 else {}),
        **({"backbone": backbones} if len(set(backbones)) > 1 else {}),
        "variant": [one.title for one, _ in rows],
        "n": [str(effect.n) for _, effect in rows],
        "difference": [signed(effect.mean) for _, effect in rows],
        "95 % interval": [interval(effect.interval) for _, effect in rows],
        "p": [p_value(one.p if one else None) for one in answers],
        "adjusted p": [p_value(one.p_adjusted if one else None) for one in answers],
        "outcome": [effect.outcome for _, effect in rows],
    }
    words = [n for n, one in enumerate(columns) if one in ("set", "dataset", "backbone", "variant", "outcome")]
    cells = tuple(zip(*columns.values(), strict=True))
    return Table("Effects of variants within each run", tuple(columns), cells, frozenset(words))


def print_across_sets(console: Console, found: Sequence[AcrossSets]) -> None:
    """Print one sentence per contender with its figures, then the table of all sets."""
    for one in found:
        console.print(sentence(one), style="bold", soft_wrap=True)
        for line in figures(one):
            console.print(f"  {line}", soft_wrap=True)
    console.print(for_terminal(effects_table(found), optional=("dataset", "backbone", "p")))


def for_terminal(table: Table, optional: tuple[str, ...] = ()) -> NumbersTable:
    """Return a table for the terminal, which leaves out the `optional` columns where there is no room."""
    return NumbersTable(dict(zip(table.columns, zip(*table.rows, strict=True), strict=True)), optional)


def runs_frame(runs: Sequence[RunStatus]) -> pd.DataFrame:
    """Return runs.csv: table.csv of every run, after its name."""
    tables = {one.manifest.run: comparison_table(one.with_short_labels()) for one in runs}
    return pd.concat(tables, names=["run"]).reset_index(level="run").reset_index(drop=True)


def between_frame(found: Sequence[BetweenRuns]) -> pd.DataFrame:
    """Return between.csv: one row per contrast between two runs, differences in percentage points."""
    return pd.DataFrame(
        [
            {
                "variant": one.variant,
                "run": one.run,
                "first": one.first,
                "n": one.n[0],
                "n_first": one.n[1],
                "difference": one.mean,
                **bounds("difference", one.interval),
                "p": one.p,
                "p_adjusted": one.p_adjusted,
                "unpaired": one.unpaired,
            }
            for one in found
        ]
    )


def effects_frame(found: Sequence[AcrossSets]) -> pd.DataFrame:
    """Return across.csv: one row per contender and set, differences in percentage points."""
    return pd.DataFrame(
        [
            {
                "set": effect.of.name,
                "run": effect.of.run,
                "dataset": printable(effect.of.identity.recipe.dataset),  # pandas takes UTF-8 alone
                "backbone": printable(effect.of.identity.recipe.backbone),
                "variant": one.title,
                "reference": one.reference,
                "n": effect.n,
                "difference": effect.mean,
                **bounds("difference", effect.interval),
                "p": effect.difference and effect.difference.p,
                "p_adjusted": effect.difference and effect.difference.p_adjusted,
                "outcome": effect.outcome,
                "smallest_effect": effect.of.smallest_effect,
            }
            for one in found
            for effect in one.effects
        ]
    )


def summary_frame(found: Sequence[AcrossSets]) -> pd.DataFrame:
    """Return across_all.csv: one row per contender; a set may count as better and as equivalent."""
    rows = []
    for one in found:
        outcomes = [effect.outcome for effect in one.effects]
        rows.append(
            {
                "variant": one.title,
                "sets": len(one.effects),
                **{
                    word: sum(word in says for says in outcomes)
                    for word in ("better", "worse", "equivalent", "undecided")
                },
                "p_all": one.difference.p,
                "p_all_adjusted": one.difference.p_adjusted,
                "mean": one.mean and 100 * one.mean.mean,
                **bounds("mean", one.mean.interval() if one.mean else None),
                "sentence": sentence(one),
            }
        )
    return pd.DataFrame(rows)


def files(
    formats: Sequence[str],
    runs: Sequence[RunStatus],
    across: Sequence[AcrossSets],
    between: Sequence[BetweenRuns],
    stops: Sequence[EarlyStop],
) -> dict[str, bytes]:
    """Return the files of a comparison by name, in these formats: html, md, latex, csv and png."""
    plot = forest_plot(across) if across else None
    tables = [runs_table(runs), between_table(between), effects_table(across), stops_table(stops)]
    found = {name: render(form, tables, across, plot) for form, name in FILES.items() if form in formats}
    if plot is not None and "png" in formats:
        found = {"across.png": plot} | found
    frames = {"across.csv": effects_frame(across), "across_all.csv": summary_frame(across)} if across else {}
    frames["runs.csv"] = runs_frame(runs)
    if between:
        frames["between.csv"] = between_frame(between)
    if stops:
        frames["early_stops.csv"] = pd.DataFrame(map(dataclasses.asdict, stops))
    return found | ({name: csv_bytes(frame) for name, frame in frames.items()} if "csv" in formats else {})


def render(form: str, tables: Sequence[Table], across: Sequence[AcrossSets], plot: bytes | None) -> bytes:
    """Return all tables and sentences in one file of a format: html, md or latex."""
    shown = [table for table in tables if table.rows]
    said = [(sentence(one), figures(one)) for one in across]
    if form == "latex":
        return "\n".join(map(_latex, shown)).encode()
    if form == "md":
        lines = [f"**{markdown(first)}** {markdown(' '.join(rest))}\n" for first, rest in said]
        return "\n".join(["# Runs compared", "", NOTE, "", *lines, *map(_markdown, shown)]).encode()
    picture = f'<img alt="Forest plot of the effects" src="{data_uri("image/png", plot)}">' if plot else ""
    verdicts = "".join(f"<p><strong>{_text(first)}</strong> {_text(' '.join(rest))}</p>" for first, rest in said)
    body = f"<h1>Runs compared</h1>{verdicts}{picture}{''.join(map(_html, shown))}<p>{NOTE}</p>"
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Runs compared</title>'
        f'<meta name="viewport" content="width=device-width"><meta http-equiv="Content-Security-Policy" '
        f'content="{policy}"><style>{_STYLE}</style><main>{body}</main></html>\n'
    ).encode()


def _text(text: str) -> str:
    return html.escape(printable(text))


def _html(table: Table) -> str:
    def row(tag: str, cells: Sequence[str]) -> str:
        marks = [' class="word"' * (number in table.words) for number in range(len(cells))]
        return (
            "<tr>" + "".join(f"<{tag}{m}>{_text(one)}</{tag}>" for m, one in zip(marks, cells, strict=True)) + "</tr>"
        )

    rows = "".join(row("td", cells) for cells in table.rows)
    head = f"<caption>{_text(table.caption)}</caption><thead>{row('th', table.columns)}</thead>"
    return f"<div><table>{head}<tbody>{rows}</tbody></table></div>"


def _markdown(table: Table) -> str:
    marks = ["---" if number in table.words else "---:" for number in range(len(table.columns))]
    rows = [table.columns, tuple(marks), *(tuple(map(markdown, row)) for row in table.rows)]
    return f"{table.caption}:\n\n" + "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _latex(table: Table) -> str:
    """Return a `tabular` with booktabs' rules; text from runs is escaped."""
    columns = "".join("l" if number in table.words else "r" for number in range(len(table.columns)))
    rows = [" & ".join(map(_escaped, row)) + r" \\" for row in table.rows]
    head = " & ".join(map(_escaped, table.columns)) + r" \\"
    lines = [f"% {table.caption}; needs booktabs", rf"\begin{{tabular}}{{{columns}}}", r"\toprule", head, r"\midrule"]
    return "\n".join([*lines, *rows, r"\bottomrule", r"\end{tabular}", ""])


_LATEX = str.maketrans(
    {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {letter: "\\" + letter for letter in "&%$#_{}"}
    | {"±": r"$\pm$", "−": "$-$", "×": r"$\times$", "λ": r"$\lambda$", "–": "--"}
    | {letter: f"${letter}$" for letter in "<>|"}  # LaTeX's default font has other letters in their places
)


def _escaped(text: str) -> str:
    return printable(text).translate(_LATEX)
