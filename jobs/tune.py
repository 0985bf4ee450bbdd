"""Tune every variant alike before they are compared: as many points over the same ranges, by Validation alone.

    python jobs/tune.py PRESET --budget 20 --seeds 1000-1002 [options of sweep.py]

A point is a set of values drawn from the ranges, tried with every seed; comparisons may not use these seeds. The same
command, run again after any interruption, goes on. At the end it writes a recipe file with each variant's best values;
`python jobs/sweep.py FILE` compares the tuned variants, and its report tells how they were tuned.
"""

import sys

if __name__ == "__main__":
    from catdog.system.supervisor import hold_signals

    hold_signals()  # the imports below take a second

import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from rich.console import Console

from catdog.cli import (
    ExitCode,
    given_options,
    output_console,
    parse_with_preset,
    recorded_command,
    run_job,
    take_preset,
)
from catdog.config.ranges import parse_ranges
from catdog.config.recipe import require
from catdog.config.recipe_file import recipe_yaml
from catdog.config.sweep_options import SweepConfig, check_run_name, require_all_seeds
from catdog.config.variants import VariantSpec, parse_variant, split_short_label
from catdog.data.datasets.registry import check_dataset
from catdog.errors import UserError
from catdog.runs.declaration import by_rule
from catdog.runs.paths import RunPaths
from catdog.runs.tuning import Tuning
from catdog.storage import StoreLocation
from catdog.sweep.dry_run import check_here
from catdog.sweep.notifications import LOST, telling_the_end
from catdog.sweep.tuning import begin_tuning, require_optuna, tune

SEEDS = "1000-1002"
HEADER = "# Written by python jobs/tune.py "


@dataclass(frozen=True)
class Options(SweepConfig):
    """The options of the sweeps, and the job's own."""

    budget: int = 20
    """Points to try for each variant."""
    ranges: tuple[str, ...] = ()
    """What to tune, alike for all variants: learning_rate=1e-4..1e-2, num_masks=2..8, schedule=one-cycle,cosine; by the
    order of magnitude from a factor of 10 on. Default: learning rates and weight decay, a tenth to ten times each."""
    output: str | None = None
    """The recipe file to write (default: the preset's name with -tuned.yaml)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(1 <= self.budget <= 1000, f"--budget {self.budget}: must be from 1 to 1000")


def parse_options(arguments: Sequence[str]) -> Options:
    """Parse `PRESET [options]`; the run is named after the preset, with -tuning."""
    about = "Tune every variant alike before they are compared, by Validation alone."
    options = parse_with_preset(Options, arguments, about, "tune.py", seeds=SEEDS)
    if "--run" in given_options(arguments):
        return options
    return dataclasses.replace(options, run=f"{options.run_name}-tuning")


def main(arguments: Sequence[str]) -> int:
    """Tune the variants and write the recipe file; returns the exit code."""
    options, console = parse_options(arguments), output_console()
    preset, _ = take_preset(arguments, "tune.py")
    config = SweepConfig(**{field.name: getattr(options, field.name) for field in dataclasses.fields(SweepConfig)})
    require_all_seeds(config)
    ranges = parse_ranges(options.ranges, config.variant_specs, config.recipe)
    output = options.output or f"{preset.run_name}-tuned.yaml"
    if shared := set(preset.seed_list) & set(config.seed_list):
        raise UserError(
            f"--seeds {config.seeds}: {min(shared)} is a seed of the comparison; give others, such as {SEEDS}"
        )
    _check_output(output)
    require_optuna()
    store = StoreLocation.of(config.store, config.store_patience).open()
    check_dataset(config).check()
    check_here(config, store)
    tuning = begin_tuning(config, ranges, options.budget, store)
    _announce(console, tuning, config)
    if config.dry_run:
        console.print("nothing was started (--dry-run)")
        return ExitCode.COMPLETE
    command = recorded_command("tune", arguments)
    from catdog.sweep.run import run_sweep

    keep = "none" if config.keep_weights == "auto" else config.keep_weights  # of every point tried
    with telling_the_end(config, console) as notifier:
        tuning, is_complete = tune(
            tuning,
            config,
            ranges,
            store,
            lambda one: run_sweep(dataclasses.replace(one, keep_weights=keep), command, console, notifier),
            lambda one: _report(console, one, config.variant_specs),
        )
        if not is_complete:
            notifier.send("end", "some trials are missing; the same command goes on")
            console.print(f"some trials are missing: {output} is not written; the same command goes on", soft_wrap=True)
            return ExitCode.INCOMPLETE
        code = _write(console, tuning, config, preset.seeds, output, command)
        notifier.send("end", f"tuned: {output}")
        return code


def _check_output(output: str) -> None:
    """Raise `UserError` for a path that cannot be written, or whose file this job has not written."""
    path = Path(output)
    require(path.parent.is_dir() and not path.is_dir(), f"--output {output}: give a file in a folder that exists")
    require(path.suffix in (".yaml", ".yml"), f"--output {output}: give a name that ends in .yaml")
    try:
        check_run_name(path.stem)  # the comparison's run is named after the file
    except UserError as error:
        raise UserError(str(error).replace("--run", "--output", 1)) from None
    if path.exists() and not path.read_bytes().startswith(HEADER.encode()):
        raise UserError(f"--output {output}: there is another file of this name: move it, or give another name")


def _announce(console: Console, tuning: Tuning, config: SweepConfig) -> None:
    points = f"{tuning.budget} points × {len(tuning.seeds)} seeds of each variant"
    rows = {
        "run": f"{tuning.run} in {config.store}",
        "variants": ", ".join(spec.title for spec in config.variant_specs),
        "ranges": ", ".join(tuning.ranges),
        "trials": f"{tuning.budget * len(tuning.seeds) * len(tuning.variants)}: {points}",
    }
    for name, value in rows.items():
        console.print(f"{name:>16}  {value}", soft_wrap=True)


def _report(console: Console, tuning: Tuning, specs: Sequence[VariantSpec]) -> None:
    for spec in specs:
        best, points = tuning.best(spec.label), tuning.variants[spec.label]
        found = "no point has an accuracy" if best is None else f"Validation {best.accuracy:.2f}: {_words(best.values)}"
        console.print(f"{spec.title} after {len(points)} of {tuning.budget} points: {found}", soft_wrap=True)


def _words(values: Mapping[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in values.items())


def _write(
    console: Console, tuning: Tuning, config: SweepConfig, seeds: str, output: str, command: Sequence[str]
) -> int:
    """Write the recipe file of the tuned variants, here and into the store; returns the exit code."""
    best = {spec: tuning.best(spec.label) for spec in config.variant_specs}
    if lacking := [spec.title for spec, point in best.items() if point is None]:
        raise UserError(
            f"no point of {', '.join(lacking)} has an accuracy: {output} is not written; try other --ranges"
        )
    tuned = {spec.title: _named(spec, point.label) for spec, point in best.items() if point}
    titles = {spec.label: spec.title for spec in best}
    given = [
        one if one is None or one in tuned else titles[parse_variant(one, config.recipe).label]  # however it is spelled
        for one in (config.reference, config.primary)
    ]
    declared = by_rule(list(tuned), *given)
    text = recipe_yaml(
        config,
        run=PurePath(output).stem,
        variants=tuple(tuned.values()),
        grid=(),
        seeds=seeds,
        tuning=tuning.run,
        reference=_title(tuned[declared.reference]),
        primary=declared.primary and _title(tuned[declared.primary]),
    )
    text = f"{HEADER}{' '.join(shlex.join(command[2:]).split())}\n{text}"
    store, key = StoreLocation.of(config.store, config.store_patience).open(), RunPaths(tuning.run).tuned_recipe
    store.put(key, text.encode())
    Path(output).write_text(text, encoding="utf-8")
    console.print(f"{'recipe file':>16}  {output}, also {store.url}/{key}", soft_wrap=True)
    console.print(f"{'to compare':>16}  python jobs/sweep.py {shlex.quote(output)}", soft_wrap=True)
    return ExitCode.COMPLETE


def _named(spec: VariantSpec, label: str) -> str:
    """Return the label behind the variant's title, which tables go on to use, where that can be a short label."""
    return f"{spec.title}={label}" if ":" not in spec.title and spec.title != label else label


def _title(text: str) -> str:
    short, label = split_short_label(text)
    return short or label


def recover(arguments: Sequence[str], interrupted: bool) -> None:
    """Do what a tuning that was lost could not do: release its run, and tell of the loss."""
    from catdog.sweep.lease import release_dead

    options = parse_options(arguments)
    was_lost = release_dead(StoreLocation.of(options.store, options.store_patience).open(), options.run_name)
    if was_lost and not interrupted:
        with telling_the_end(options, output_console()) as notifier:
            notifier.send("end", LOST)


if __name__ == "__main__":
    sys.exit(run_job(main, recover=recover))
