"""What jobs print: the plan of a sweep, its outcome, and where a run stands."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.table import Table

from catdog.aggregation import format_accuracy, gaps, mixtures
from catdog.config import SweepConfig
from catdog.contrasts import Contrast
from catdog.ledger import Ledger
from catdog.paths import RunPaths
from catdog.plan import Estimate, estimate, local_slots, make_plan, read_canary, resolve_identity, units_per_trial
from catdog.progress import format_seconds
from catdog.provision import Dataset, find_dataset, weights_digest
from catdog.spending import spending_lines
from catdog.storage import StoreLocation

MOST_GAPS = 20


def print_plan(console: Console, config: SweepConfig) -> None:
    """Print what the sweep would do. Starts, writes and downloads nothing."""
    store = StoreLocation.of(config.store).open()
    dataset, _ = find_dataset(config, store)
    at_hand = dataset is not None
    if dataset is None:
        dataset = Dataset(config.recipe.dataset, "not here yet", 3680)
    identity = resolve_identity(config, store, dataset, weights_digest(config.recipe.weights), lambda: "float32")
    plan = make_plan(config, store, identity, dataset, ())
    expected = estimate(config, plan, read_canary(store, config.run_name))
    rows = {
        "run": f"{config.run_name} in {store.url}",
        "variants": ", ".join(spec.label for spec in config.variant_specs),
        "seeds": f"{len(config.seed_list)} ({config.seeds})",
        "trials": f"{len(plan.requested)}",
        "cached": f"{len(plan.requested) - len(plan.pending)}",
        "to run": f"{len(plan.pending)}",
        "data": dataset.name + (f" {dataset.fingerprint}" if at_hand else ": not here, will be downloaded"),
        "images to train": f"{plan.images:,} ({len(plan.pending)} trials × {config.recipe.epochs} epochs "
        f"× {plan.train_images:,} images)",
        "resources": f"{config.cpus_per_trial} CPU and {_gpus(config)} GPU a trial",
        "estimated time": _expected_time(config, expected),
        "estimated cost": _expected_cost(config, expected),
    }
    for name, value in rows.items():
        console.print(f"{name:>16}  {value}", soft_wrap=True, highlight=False)
    console.print("nothing was started (--dry-run)", highlight=False)


def print_outcome(
    console: Console,
    url: str,
    ledger: Ledger,
    table: pd.DataFrame,
    contrasts: Sequence[Contrast],
    folder: Path | None = None,
) -> None:
    """Print the comparison table, the verdicts, what is missing from it, and where the files are.

    `folder`: where the report was written, if not into the store.
    """
    run = RunPaths(ledger.manifest.run)

    def in_store(key: str) -> str:
        return f"{url}/{key}" if "://" in url else _shown(Path(url) / key)

    def in_report(name: str) -> str:
        return in_store(run.report(name)) if folder is None else _shown(folder.absolute() / name)

    console.print(comparison(table))
    for contrast in sorted(contrasts, key=lambda one: not one.is_primary):
        console.print(contrast.verdict, highlight=False, markup=False)
    missing = gaps(ledger)
    for line in missing[:MOST_GAPS]:
        console.print(f"  {line}", soft_wrap=True, highlight=False, markup=False)
    if len(missing) > MOST_GAPS:
        console.print(f"  … and {len(missing) - MOST_GAPS} more in {in_report('table.md')}", highlight=False)
    for line in mixtures(ledger.launches):
        console.print(f"  {line}", soft_wrap=True, highlight=False, markup=False)
    for line in spending_lines(ledger.launches):
        console.print(f"{'spent':>16}  {line}", soft_wrap=True, highlight=False, markup=False)
    places = {
        "report": in_report("report.html"),
        "table": in_report("table.md"),
        "all trials": in_report("trials.csv"),
        "contact sheets": in_store(f"{run.trials}*/seed-*/snapshots/epoch-*.png"),
    }
    for name, place in places.items():
        console.print(f"{name:>16}  {place}", soft_wrap=True, highlight=False, markup=False)


def print_status(console: Console, url: str, ledger: Ledger, table: pd.DataFrame) -> None:
    """Print where a run stands."""
    counts = ledger.counts
    unfinished = sum(entry.unfinished and entry.result is None for entry in ledger.entries)
    console.print(
        f"{ledger.manifest.run} in {url}: {len(ledger.entries)} trials, {counts['complete']} complete, "
        f"{counts['diverged']} diverged, {counts['failed']} failed, {counts['missing']} missing "
        f"({unfinished} of them with a checkpoint)",
        soft_wrap=True,
        highlight=False,
    )
    console.print(comparison(table))
    for line in gaps(ledger):
        if not line.startswith("missing"):
            console.print(f"  {line}", soft_wrap=True, highlight=False, markup=False)


def comparison(table: pd.DataFrame) -> Table:
    """Return the comparison table for the terminal."""
    shown = Table(header_style="bold")
    for name in ("variant", "n", "Validation", "Test", "best run: Validation", "its Test"):
        shown.add_column(name, justify="left" if name == "variant" else "right", overflow="fold")
    for row in table.to_dict("records"):
        shown.add_row(
            row["variant"],
            str(row["n"]) if row["n"] == row["planned"] else f"{row['n']} of {row['planned']}",
            format_accuracy(row["val_mean"], row["val_std"]),
            format_accuracy(row["test_mean"], row["test_std"]),
            format_accuracy(row["best_val"], None),
            format_accuracy(row["best_val_test"], None),
        )
    return shown


def _expected_time(config: SweepConfig, expected: Estimate | None) -> str:
    if expected is None:
        return "unknown: no trial of this run is finished, and jobs/doctor.py has not measured its speed"
    units = units_per_trial(config)
    if config.gpus_per_trial == 0:
        slots = local_slots(config)
        return f"about {format_seconds(expected.seconds / slots)}, {slots} trials at once ({expected.basis})"
    hours = {f"{count} GPU{'s' * (count > 1)}": expected.seconds * units / count for count in (1, 4, 16)}
    spread = ", ".join(f"{format_seconds(seconds)} on {gpus}" for gpus, seconds in hours.items())
    return f"about {spread} ({expected.basis})"


def _expected_cost(config: SweepConfig, expected: Estimate | None) -> str:
    hours = None if expected is None else expected.seconds * units_per_trial(config) / 3600
    unit = "core" if config.gpus_per_trial == 0 else "GPU"
    if config.hourly_price is None or hours is None:
        return ("unknown" if hours is None else f"{hours:.2f} {unit}-hours") + (
            "; its price: --hourly-price" if config.hourly_price is None else ""
        )
    limit = "" if config.max_cost is None else f"; no trial starts after {config.max_cost:g}"
    return (
        f"about {hours * config.hourly_price:.2f}: {hours:.2f} {unit}-hours at {config.hourly_price:g}, "
        f"without idle time and the head node{limit}"
    )


def _gpus(config: SweepConfig) -> str:
    return "1 (where there is one)" if config.gpus_per_trial is None else f"{config.gpus_per_trial:g}"


def _shown(path: Path) -> str:
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
