"""What a page says first: what the verdict is about, all contrasts on one axis, and what to do next."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from catdog.analysis.intervals import are_equal, std_interval
from catdog.analysis.power import POWER, pairs_needed
from catdog.analysis.run_data import ReportContent
from catdog.analysis.significance import SIGNIFICANCE
from catdog.analysis.verdicts import Contrast
from catdog.formatting import counted, format_accuracy, format_points, format_size, readable_time
from catdog.report.interval_plot import Estimate, IntervalPlot
from catdog.report.origin import MAKE_AGAIN
from catdog.report.power_plan import cost_of
from catdog.report.tables import Table, interval, signed
from catdog.runs.looks import HOPELESS, UNDECIDED

MOST_CONTRASTS = 100
MOST_SEEDS = 10_000
"""That one command can name."""
MOST_RANGE = 10
"""Between the numbers of seeds that the scatter allows: of a wider range, none is named (that of 7 pairs, say)."""


@dataclass(frozen=True)
class NextStep:
    """What to do after a run, and the command that does it, if any."""

    words: str
    command: str | None = None


def about_line(content: ReportContent) -> str:
    """Return what the verdict is about: the metric, the images, n and the date."""
    images = "" if content.predictions is None else f" on {counted(len(content.predictions.labels_N), 'image')}"
    count = counted(content.run_status.counts["complete"], "complete trial")
    complete = (one for name in content.run_status.manifest.variants for one in content.run_status.results(name))
    finished = max((one.finished_at for one in complete if one.finished_at), default=None)
    when = "" if finished is None else f", the last finished on {readable_time(finished)}"
    return f"Test accuracy{images}, {count}{when}."


def contrasts_plot(contrasts: Sequence[Contrast]) -> Table | None:
    """Return a forest plot of the contrasts, the primary one first; None if none has a pair."""
    paired = sorted((one for one in contrasts if one.n), key=lambda one: not one.is_primary)
    shown = paired[:MOST_CONTRASTS]
    if not shown:
        return None
    effect = shown[0].smallest_effect
    some = f" (the first {MOST_CONTRASTS} of {len(paired):,} contrasts)" if len(paired) > MOST_CONTRASTS else ""
    matters = "" if effect is None else f"; grey: smaller than the {format_size(effect)} points that matter"
    caption = (
        f"Test accuracy minus that of {shown[0].reference}, in points{some}. Dot: mean, filled if better or worse; "
        f"thick line: 95 % interval over seeds; thin line: over seeds and images{matters}"
    )
    columns = ("Variant", "Difference", "95 % interval, seeds", "95 % interval, seeds and images", "Verdict")
    rows = tuple(
        (
            f"{one.variant}{' (primary)' * one.is_primary}",
            signed(one.mean),
            interval(one.interval),
            interval(one.interval_new_images),
            one.outcome,
        )
        for one in shown
    )
    estimates = [
        Estimate(one.mean or 0.0, one.interval, one.interval_new_images, one.outcome.startswith(("better", "worse")))
        for one in shown
    ]
    strong = frozenset({rows[0][0]}) if shown[0].is_primary else frozenset[str]()
    plot = IntervalPlot.of(estimates, effect)
    return Table(caption, columns, rows, frozenset({0, 4}), strong, frozenset({0, 1}), plot)


def splits_line(content: ReportContent) -> str | None:
    """Return how Validation and Test differ and which to read, in sentences; None without a complete trial."""
    primary = _primary(content)
    if primary is not None and primary.mean is not None:
        names: tuple[str, ...] = (primary.variant, primary.reference)
        ours, theirs = ({one.seed: one.val_accuracy or 0.0 for one in content.run_status.results(i)} for i in names)
        by_validation = float(np.mean([ours[seed] - theirs[seed] for seed in primary.seeds]))
        what = (
            f"{primary.variant} minus {primary.reference} is {format_points(by_validation)} points on Validation and "
            f"{format_points(primary.mean)} on Test"
        )
    else:
        row = next((row for row in content.table.to_dict("records") if row["n"]), None)
        if row is None:
            return None
        names = (row["variant"],)
        validation, test = (format_accuracy(row[f"{split}_mean"]) for split in ("val", "test"))
        what = f"{row['variant']} has {validation} % on Validation and {test} % on Test"
    chosen = ""
    if content.run_status.manifest.identity.recipe.epochs > 1:
        lifts = {name: lift for name in names if (lift := _lift(content, name)) is not None}
        by = " and ".join(f"by {format_size(lift)} points for {name}" for name, lift in lifts.items())
        raises = f"raises it above the last epoch’s ({by})" if any(lifts.values()) else "can raise it"
        chosen = f", and Validation also chooses each trial’s epoch, which {raises}"
    return f"{what}. The two are different images{chosen}. Read Test, which is scored once."


def _lift(content: ReportContent, name: str) -> float | None:
    """Return how far Validation in the chosen epochs is above that in the last ones, in points."""
    lifts = [
        (result.val_accuracy or 0.0) - float(history["val_accuracy"].iloc[-1])
        for result in content.run_status.results(name)
        if (history := content.histories.get((name, result.seed))) is not None and len(history)
    ]
    finite = [lift for lift in lifts if np.isfinite(lift)]
    return float(np.mean(finite)) if finite else None


def next_step(content: ReportContent) -> NextStep:
    """Return what to do next about the primary contrast: finish the run, stop, or plan another one."""
    run_status, primary = content.run_status, _primary(content)
    unfinished = run_status.counts["failed"] + run_status.counts["missing"]
    if run_status.waiting is not None:
        return NextStep(f"{run_status.waiting}.")
    if unfinished:
        words = f"{counted(unfinished, 'trial')} failed or missing: run the same command again, which runs these alone."
        return NextStep(words, next(map(shlex.join, reversed(run_status.manifest.commands)), None))
    if primary is None and (diverged := run_status.counts["diverged"]):
        return NextStep(
            f"{counted(diverged, 'trial')} diverged, and no pair is complete: lower the learning rate, in a new run."
        )
    if primary is None:
        alone = "Add a variant to compare with (--variants), under the same run name."
        return NextStep("Run more seeds: none is complete on both sides." if content.contrasts else alone)
    if primary.outcome != UNDECIDED:
        is_open = primary.interval_new_images is not None and not primary.interval_new_images.excludes_zero
        more = " Whether it holds on new images, more seeds cannot tell: that takes more test images."
        return NextStep(f"Stop: the primary contrast is decided.{more * (is_open and primary.outcome != 'equivalent')}")
    if primary.looked is not None and primary.looked.outcome == HOPELESS:
        return NextStep("Stop: more seeds would hardly decide the primary contrast.")
    return _plan(content, primary)


def _plan(content: ReportContent, primary: Contrast) -> NextStep:
    """Return how many seeds a run needs that finds the smallest effect, or half of the observed difference."""
    differences, effect = np.array(primary.differences), primary.smallest_effect
    if primary.n < 2 or are_equal(differences):
        return NextStep(f"Run more seeds: {counted(primary.n, 'pair')} cannot tell how the differences scatter.")
    what = "the smallest that matters" if effect is not None else "half of the one seen, which may owe the rest to luck"
    effect = effect if effect is not None else abs(primary.mean or 0.0) / 2
    needed = pairs_needed(effect / float(differences.std(ddof=1)), SIGNIFICANCE, POWER) if effect else None
    if needed is None or needed > MOST_SEEDS:
        return NextStep(
            f"Stop: a difference of {format_size(effect)} points ({what}) would take more than {MOST_SEEDS:,} seeds."
        )
    names = [primary.reference, primary.variant]
    scatter = std_interval(differences)
    assert scatter is not None, "the differences are not equal"
    least, most = (pairs_needed(effect / one, SIGNIFICANCE, POWER) for one in (scatter.low, scatter.high))
    if least is None or most is None or most > MOST_RANGE * least:
        return NextStep(
            f"Stop, or plan another run: {counted(primary.n, 'pair')} cannot tell how the differences scatter, and "
            f"so not how many seeds find a true difference of {format_size(effect)} points ({what}). A pilot of ten "
            "can (--pilot 10, then --dry-run --detect)."
        )
    words = (
        f"Stop, or plan another run of {cost_of(needed, content.run_status, names)}: by the scatter seen here it finds "
        f"a true difference of {format_size(effect)} points ({what}) with power {POWER:g} ({least:,} to {most:,} "
        "seeds, since the scatter is itself an estimate). Its seeds are new: to test all together, after a look at "
        "these, would too often find a difference where there is none."
    )
    return NextStep(words, _command(content, names, needed))


def _command(content: ReportContent, names: Sequence[str], seeds: int) -> str | None:
    """Return the command of another run of two variants; None if the run's own options are not known as a file."""
    manifest = content.run_status.manifest
    if content.recipe_file is not None:
        start = MAKE_AGAIN
    elif manifest.commands and len(manifest.commands[0]) == 3:  # the preset without an option
        start = shlex.join(manifest.commands[0])
    else:
        return None
    first = 1 + max(max(own) for own in manifest.seeds.values())
    labels = shlex.join(manifest.spec(name).label for name in names)
    run = shlex.quote(f"{manifest.run}-2")
    return f"{start} --run {run} --variants {labels} --seeds {first}-{first + seeds - 1}"


def _primary(content: ReportContent) -> Contrast | None:
    return next((one for one in content.contrasts if one.is_primary and one.n), None)
