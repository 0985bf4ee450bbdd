"""table.md: what a run says, for people who read text."""

import shlex

import pandas as pd

from catdog.aggregation import format_accuracy, gaps, mixtures
from catdog.report.content import ReportContent


def table_markdown(content: ReportContent) -> str:
    """Return table.md: the verdicts, the comparison table, what is missing from it, and how it was made."""
    ledger, manifest = content.ledger, content.ledger.manifest
    recipe = manifest.identity.recipe
    lines = [
        f"# {manifest.run}",
        "",
        f"{recipe.dataset}, {recipe.backbone} ({recipe.weights}{', frozen' if recipe.freeze else ''}), "
        f"{recipe.image_size} px, {recipe.epochs} epochs. Accuracy in percent, mean ± sample standard deviation over "
        "n seeds. The best run is a maximum over n, chosen by validation.",
        "",
        *(f"- {contrast.verdict}" for contrast in sorted(content.contrasts, key=lambda one: not one.is_primary)),
        *([""] if content.contrasts else []),
        "| variant | n | Validation | Test | best run: Validation | its Test |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for row in content.table.to_dict("records"):
        of_planned = "" if row["n"] == row["planned"] else f" of {row['planned']}"
        lines.append(
            f"| {row['variant']} | {row['n']}{of_planned} "
            f"| {format_accuracy(row['val_mean'], row['val_std'])} "
            f"| {format_accuracy(row['test_mean'], row['test_std'])} "
            f"| {format_accuracy(row['best_val'], None)} | {format_accuracy(row['best_val_test'], None)} |"
        )
    lines += _attention(content.attention)
    missing = gaps(ledger)
    if missing:
        lines += ["", f"Not in the averages ({len(missing)}):", "", *(f"- {line}" for line in missing)]
    mixed = mixtures(ledger.launches)
    if mixed:
        lines += ["", *(f"- The {line}." for line in mixed)]
    commands = ", then ".join(f"`{shlex.join(command)}`" for command in manifest.commands)
    lines += ["", f"Made by {commands} (code {(manifest.code or 'unknown')[:12]}).", ""]
    return "\n".join(lines)


def _attention(table: pd.DataFrame) -> list[str]:
    """Return where the masks look on the test images that have a trimap."""
    rows = [] if table.empty else table[table["part"] == "test"].to_dict("records")
    if not rows:
        return []
    lines = [
        "",
        f"Where the masks look, on {rows[0]['images']} test images of {rows[0]['breeds']} breeds that have a trimap: "
        "how often the highest position is on the animal, and how much of the mass; in percent, averaged over breeds, "
        "and in points above a uniform mask and above a centred Gaussian.",
        "",
        "| variant | pointing game | above uniform, Gaussian | energy inside | above uniform, Gaussian | overlap |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        lines.append(
            f"| {row['variant']} | {format_accuracy(row['pointing'], row['pointing_std'])} "
            f"| {row['pointing_lift_uniform']:+.1f}, {row['pointing_lift_gaussian']:+.1f} "
            f"| {format_accuracy(row['energy'], row['energy_std'])} "
            f"| {row['energy_lift_uniform']:+.1f}, {row['energy_lift_gaussian']:+.1f} | {row['overlap']:.2f} |"
        )
    return lines
