"""What a page says first: what the verdict is about, all contrasts on one axis, and what to do next."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from catdog.analysis.intervals import are_equal, std_interval
from catdog.analysis.power import POWER, pairs_needed
from catdog.analysis.run_data import ReportContent
from catdog.analysis.significance import SIGNIFICANCE
from catdog.analysis.verdicts import BY_CHANCE, ON_NEW_IMAGES, ON_TEST_SET, Contrast
from catdog.formatting import counted, format_accuracy, format_points, format_size, readable_time, shorten
from catdog.report.figures import some_of
from catdog.report.interval_plot import Estimate, IntervalPlot
from catdog.report.origin import MAKE_AGAIN
from catdog.report.power_plan import cost_of
from catdog.report.tables import NOTHING, Table, holm_note, interval, signed
from catdog.runs.looks import HOPELESS, UNDECIDED

MOST_CONTRASTS, MOST_NAMED = 100, 5
"""In the plot, and in a sentence."""
MOST_ABOUT = 80
"""Letters of what is said of a variant."""
MOST_SEEDS = 10_000
"""That one command can name."""
MOST_RANGE = 10
"""Between the numbers of seeds that the scatter allows: of a wider range, none is named (that of 7 pairs, say)."""


@dataclass(frozen=True)
class NextStep:
    """What to do after a run, the command that does it, and what to know about that, if any."""

    words: str
    command: str | None = None
    note: str | None = None


def about_line(content: ReportContent) -> str:
    """Return what the verdict is about: the metric, the images, n and the date."""
    images = "" if content.predictions is None else f" on {counted(len(content.predictions.labels_N), 'image')}"
    manifest = content.run_status.manifest
    seeds, variants = len(set().union(*manifest.seeds.values())), len(manifest.variants)
    of = f" of {counted(seeds, 'seed')} and {counted(variants, 'variant')}"
    count = counted(content.run_status.counts["complete"], "complete trial") + of
    complete = (one for name in manifest.variants for one in content.run_status.results(name))
    finished = max((one.finished_at for one in complete if one.finished_at), default=None)
    when = "" if finished is None else f", the last finished on {readable_time(finished)}"
    return f"Test accuracy{images}, {count}{when}."


def contrasts_plot(content: ReportContent) -> Table | None:
    """Return a forest plot of the contrasts, the primary one first, the reference last; None if none has a pair."""
    paired = sorted((one for one in content.contrasts if one.n), key=lambda one: not one.is_primary)
    shown = paired[:MOST_CONTRASTS]
    if not shown:
        return None
    reference, effect = shown[0].reference, shown[0].smallest_effect
    some = some_of(MOST_CONTRASTS, len(paired), "contrasts")
    primary = (
        ". The verdict above is about the primary contrast, by its interval on this test set"
        if shown[0].is_primary
        else ""
    )
    holm = holm_note(shown)
    n = dict(zip(content.table["variant"], content.table["n"], strict=True))
    all_paired = all(n[one.variant] == n[reference] == one.n for one in shown)
    over = "" if all_paired else " Test is over all complete trials, differences over pairs."
    caption = (
        f"Mean Test accuracy, and its difference from {reference} in percentage points{some}{primary}{holm}.{over}"
    )
    columns = (
        "Variant", "Test %", "Difference", f"95 % interval {ON_TEST_SET}", f"95 % interval {ON_NEW_IMAGES}", "Verdict",
    )  # fmt: skip
    accuracy = dict(zip(content.table["variant"], content.table["test_mean"], strict=True))
    rows = [
        (
            f"{one.variant}{' (primary)' * one.is_primary}",
            format_accuracy(accuracy[one.variant]),
            signed(one.mean),
            interval(one.interval),
            interval(one.interval_new_images),
            one.outcome,
        )
        for one in shown
    ]
    rows.append((f"{reference} (reference)", format_accuracy(accuracy[reference]), *(NOTHING,) * 4))
    about = (content.run_status.manifest.about(name) for name in (*(one.variant for one in shown), reference))
    return Table(
        caption,
        columns,
        tuple(rows),
        words=frozenset({0, 5}),
        strong=frozenset({rows[0][0]} if shown[0].is_primary else ()),
        phone=frozenset({0, 1, 2}),
        plot=_plot(shown, effect),
        about=tuple(shorten(text, MOST_ABOUT) for text in about),
    )


def _plot(shown: Sequence[Contrast], effect: float | None) -> IntervalPlot:
    estimates = [
        Estimate(one.mean or 0.0, one.interval, one.interval_new_images, one.outcome.startswith(("better", "worse")))
        for one in shown
    ]
    key = {
        "open": "mean difference, 0 not excluded",
        "clear": "mean difference, better or worse",
        "own": f"95 % interval {ON_TEST_SET}",
        "wider": f"95 % interval {ON_NEW_IMAGES}",
    }
    if effect is not None:
        key["small"] = f"smaller than the {format_size(effect)} points that matter"
    return IntervalPlot.of([*estimates, None], key, effect)


def no_uncertainty_line(contrasts: Sequence[Contrast]) -> str | None:
    """Return for which contrasts new images add no uncertainty, and why both intervals are alike; None if for none."""
    names = [one.variant for one in contrasts if not one.images_add and one.interval and one.interval_new_images]
    some = names if len(names) <= MOST_NAMED else [*names[: MOST_NAMED - 1], f"{len(names) - MOST_NAMED + 1} more"]
    return f"New images add no uncertainty for {', '.join(some)}: {BY_CHANCE}." if names else None


def splits_line(content: ReportContent) -> str | None:
    """Return how Validation and Test differ and which to read, in sentences; None without a complete trial."""
    primary, by_choice = _primary(content), None
    if primary is not None and primary.mean is not None:
        names: tuple[str, ...] = (primary.variant, primary.reference)
        ours, theirs = ({one.seed: one.val_accuracy or 0.0 for one in content.run_status.results(i)} for i in names)
        by_validation = float(np.mean([ours[seed] - theirs[seed] for seed in primary.seeds]))
        what = (
            f"{primary.variant} minus {primary.reference} is {format_points(by_validation)} points on Validation and "
            f"{format_points(primary.mean)} on Test"
        )
        by_choice = by_validation - primary.mean
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
        chosen = f" Validation also chooses each trial’s epoch, which {raises}."
        if (
            by_choice is not None
            and len(lifts) == 2
            and any(lifts.values())
            and (lifts[names[0]] - lifts[names[1]]) * by_choice <= 0
        ):
            chosen += " That does not explain why the two differ."
    looks = content.run_status.manifest.declaration.looks
    once = (
        "it chooses no epoch and is scored once per trial; looks at it decide when to stop"
        if looks
        else "it chooses nothing and is scored once"
    )
    return f"{what}. They are different images.{chosen} Read Test: {once}."


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
    what = "the smallest that matters" if effect is not None else "half of the one seen, which luck may have enlarged"
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
            f"Stop, or run a pilot of ten seeds (--pilot 10, then --dry-run --detect). It tells how many seeds find a "
            f"true difference of {format_size(effect)} points ({what}). {counted(primary.n, 'pair')} cannot: how the "
            "differences scatter is too uncertain."
        )
    words = (
        f"Stop, or plan another run of {cost_of(needed, content.run_status, names)}. Were the true difference "
        f"{format_size(effect)} points ({what}), {100 * POWER:.0f} % of such runs would find it."
    )
    note = (
        f"{needed:,} seeds are an estimate: by the 95 % interval of the scatter it takes {least:,} to {most:,}. Judge "
        "the new seeds alone: with these, whose result you know, more than 5 % of runs would find a difference where "
        "there is none. More seeds narrow the interval on this test set; that on new images takes more test images."
    )
    return NextStep(words, _command(content, names, needed), note)


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
