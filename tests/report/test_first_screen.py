"""What a page says first: what the verdict is about, all contrasts on one axis, and what to do next."""

import dataclasses
import shlex

import numpy as np
import pytest

from catdog.analysis.intervals import Interval
from catdog.analysis.power import paired_power
from catdog.analysis.run_data import ReportContent
from catdog.analysis.verdicts import Looked
from catdog.config.sweep_options import parse_seeds
from catdog.report.first_screen import about_line, contrasts_plot, next_step, no_uncertainty_line, splits_line
from catdog.report.interval_plot import Estimate, IntervalPlot
from catdog.report.origin import MAKE_AGAIN
from catdog.report.page import build_page
from catdog.runs.looks import HOPELESS
from tests.helpers.pages import content_of, text_of

LABELS = ["baseline", "attention", "multi-attention"]


@pytest.fixture(scope="module")
def undecided() -> ReportContent:
    return content_of(LABELS, range(6), epochs=3, test_images=100, classes=4)


@pytest.fixture(scope="module")
def decided() -> ReportContent:
    return content_of(
        LABELS, range(8), epochs=3, test_images=200, classes=4, effect={"multi-attention": 8.0}, smallest_effect=0.5
    )


def test_it_says_of_which_metric_how_many_and_when(undecided: ReportContent) -> None:
    assert about_line(undecided) == (
        "Test accuracy on 100 images, 18 complete trials of 6 seeds and 3 variants, "
        "the last finished on 2026-01-01 22:05 UTC."
    )
    alone = content_of(["baseline"], [0], epochs=1, test_images=40, classes=4)
    assert about_line(alone).startswith(
        "Test accuracy on 40 images, 1 complete trial of 1 seed and 1 variant, the last finished on 2026-01-01"
    )


def test_the_forest_plot_has_all_contrasts_the_primary_one_first_with_both_intervals(decided: ReportContent) -> None:
    table = contrasts_plot(decided)
    assert table is not None
    assert table.plot is not None
    assert [row[0] for row in table.rows] == ["multi-attention (primary)", "attention", "baseline (reference)"]
    assert table.plot.key["small"] == "smaller than the 0.50 points that matter"
    by_name = {one.variant: one for one in decided.contrasts}
    for row, estimate in zip(table.rows[:-1], table.plot.estimates, strict=False):
        contrast = by_name[row[0].removesuffix(" (primary)")]
        assert estimate is not None
        assert (estimate.mean, estimate.interval, estimate.wider) == (
            contrast.mean, contrast.interval, contrast.interval_new_images,
        )  # fmt: skip
        assert estimate.is_clear == (row[-1] == "better")
    assert table.rows[0][-1] == "better"
    assert table.plot.estimates[-1] is None
    assert contrasts_plot(dataclasses.replace(decided, contrasts=[])) is None


def test_the_caption_says_which_intervals_are_holm_adjusted_and_where_test_is_over_more_trials_than_pairs(
    decided: ReportContent,
) -> None:
    table = contrasts_plot(decided)
    assert table is not None
    assert table.caption.endswith("on this test set; all intervals but the primary’s are Holm-adjusted.")
    missing = [("multi-attention", 1)]
    torn = contrasts_plot(content_of(LABELS[::2], range(3), epochs=1, test_images=40, classes=4, missing=missing))
    assert torn is not None
    assert torn.caption.endswith("on this test set. Test is over all complete trials, differences over pairs.")


def test_the_forest_plot_says_how_accurate_each_variant_is_and_what_it_is(decided: ReportContent) -> None:
    table = contrasts_plot(decided)
    assert table is not None
    means = decided.table.set_index("variant")["test_mean"]
    assert [row[1] for row in table.rows] == [
        f"{means[name]:.2f}" for name in ("multi-attention", "attention", "baseline")
    ]
    assert table.about == (
        "sigmoid masks, kept apart by a loss",
        "one sigmoid mask over the image",
        "plain mean over the image, no mask",
    )


def test_the_key_explains_the_marks_that_are_drawn_and_no_others() -> None:
    key = {kind: kind for kind in ("open", "clear", "own", "wider", "small")}
    few = [Estimate(1.2, None, Interval(-0.3, 2.9)), None]
    assert list(IntervalPlot.of(few, key).key) == ["open", "wider"]
    all_kinds = [*few, Estimate(1.2, Interval(0.4, 2.0), is_clear=True)]
    assert list(IntervalPlot.of(all_kinds, key, 0.5).key) == list(key)


def test_an_axis_has_zero_in_its_middle_and_ends_at_round_numbers_beyond_all_intervals() -> None:
    plot = IntervalPlot.of([Estimate(1.2, Interval(0.4, 2.0), Interval(-0.3, 2.9)), None], {}, 0.5)
    assert plot.reach == 3.0
    assert [label for _, label in plot.tick_labels()] == ["−3", "−1.5", "0", "+1.5", "+3"]
    assert (plot.at(-3), plot.at(0), plot.at(3), plot.band) == ("0.00%", "50.00%", "100.00%", ("41.67%", "16.67%"))
    for mean, interval, end in (
        (-0.02, None, "+0.02"), (-40.0, Interval(-41.0, 3.0), "+50"), (0.1, Interval(-0.3, 0.53), "+0.6"),
        (0.0, None, "+1"), (0.0, Interval(-0.0071, 0.001), "+0.008"),
    ):  # fmt: skip
        assert IntervalPlot.of([Estimate(mean, interval)], {}).tick_labels()[-1] == ("100.00%", end)


def test_contrasts_for_which_new_images_add_no_uncertainty_are_named(decided: ReportContent) -> None:
    assert no_uncertainty_line([dataclasses.replace(one, images_add=True) for one in decided.contrasts]) is None
    said = no_uncertainty_line([dataclasses.replace(one, images_add=False) for one in decided.contrasts])
    assert said is not None
    assert said.startswith(
        "New images add no uncertainty for attention, multi-attention: the difference varies between"
    )


def test_how_validation_and_test_differ_is_said_with_the_runs_own_figures_and_no_reason_they_deny(
    undecided: ReportContent,
) -> None:
    line = splits_line(undecided)
    assert line is not None
    results = {label: {one.seed: one for one in undecided.run_status.results(label)} for label in LABELS}
    ours, theirs = results["multi-attention"], results["baseline"]
    difference = np.mean([ours[seed].val_accuracy - theirs[seed].val_accuracy for seed in ours])
    size = f"{'+' if difference > 0 else '−'}{abs(difference):.2f} points on Validation and "
    assert line.startswith(f"multi-attention minus baseline is {size}")
    assert "Validation also chooses each trial’s epoch, which raises it above the last epoch’s (by " in line
    assert line.endswith("Read Test: it chooses nothing and is scored once.")
    one_epoch = splits_line(content_of(["baseline"], [0], epochs=1, test_images=40, classes=4))
    assert one_epoch is not None
    assert one_epoch.endswith(" on Test. They are different images. Read Test: it chooses nothing and is scored once.")
    is_last = {key: history.iloc[:1] for key, history in undecided.histories.items()}
    chosen = {
        key: history.assign(val_accuracy=results[key[0]][key[1]].val_accuracy) for key, history in is_last.items()
    }
    no_lift = splits_line(dataclasses.replace(undecided, histories=chosen))
    assert no_lift is not None
    assert "each trial’s epoch, which can raise it. Read Test: " in no_lift
    assert splits_line(content_of(["baseline"], [0], missing=[("baseline", 0)])) is None


def test_of_a_sweep_with_looks_it_is_not_said_that_test_chooses_nothing() -> None:
    looked = content_of(LABELS[:2], range(3), epochs=1, test_images=40, smallest_effect=1.0, looks=(6, 9), most_seeds=9)
    line = splits_line(looked)
    assert line is not None
    assert line.endswith(
        "Read Test: it chooses no epoch and is scored once per trial; looks at it decide when to stop."
    )
    assert "nothing is chosen by Test" not in text_of(build_page(looked))


def test_an_undecided_run_gets_the_seeds_for_half_the_difference_and_a_command_with_seeds_of_its_own(
    undecided: ReportContent,
) -> None:
    (primary,) = (one for one in undecided.contrasts if one.is_primary)
    changed = dataclasses.replace(primary, differences=(1.0, -0.5, 0.5, 1.0, -1.0, 0.2) * 2, mean=0.2, difference=None)
    step = next_step(dataclasses.replace(undecided, contrasts=[changed]))
    assert step.command is not None
    command = shlex.split(step.command)
    assert command[:3] == ["python", "jobs/sweep.py", "pets-frozen"]
    assert command[3:8] == ["--run", "made-2", "--variants", "baseline", "multi-attention"]
    seeds = parse_seeds(command[-1])
    assert seeds[0] == 6
    assert f"another run of {len(seeds):,} seeds, {2 * len(seeds):,} trials, about " in step.words
    assert "Were the true difference 0.10 points (half of the one seen" in step.words
    assert (step.note or "").startswith(f"{len(seeds):,} seeds are an estimate: ")
    effect = 0.1 / np.std(changed.differences, ddof=1)
    assert paired_power(len(seeds), effect, 0.05) >= 0.8 > paired_power(len(seeds) - 1, effect, 0.05)
    with_recipe = next_step(dataclasses.replace(undecided, contrasts=[changed], recipe_file="run: made\n"))
    assert (with_recipe.command or "").startswith(f"{MAKE_AGAIN} --run made-2 --variants ")
    declared = dataclasses.replace(changed, smallest_effect=0.5)
    assert (
        "0.50 points (the smallest that matters)"
        in next_step(dataclasses.replace(undecided, contrasts=[declared])).words
    )
    few = next_step(dataclasses.replace(undecided, contrasts=[dataclasses.replace(changed, differences=(1.0, -0.5))]))
    assert (few.command, few.words.partition(" (")[0]) == (None, "Stop, or run a pilot of ten seeds")
    tiny = dataclasses.replace(changed, mean=0.0001)
    assert next_step(dataclasses.replace(undecided, contrasts=[tiny])).words.startswith("Stop: a difference of")


def test_a_decided_run_says_stop_and_what_more_seeds_cannot_tell(decided: ReportContent) -> None:
    (primary,) = (one for one in decided.contrasts if one.is_primary)
    for interval, says in ((Interval(1.0, 9.0), False), (Interval(-1.0, 9.0), True)):
        changed = dataclasses.replace(primary, interval_new_images=interval)
        words = next_step(dataclasses.replace(decided, contrasts=[changed])).words
        assert words.startswith("Stop: the primary contrast is decided.")
        assert ("takes more test images" in words) == says


def test_a_hopeless_contrast_an_unfinished_run_and_a_single_variant_have_steps_of_their_own(
    undecided: ReportContent,
) -> None:
    (primary,) = (one for one in undecided.contrasts if one.is_primary)
    looked = Looked(12, None, 6, (primary.seeds,), HOPELESS, 0)
    changed = dataclasses.replace(primary, looked=looked, difference=None)
    assert "hardly decide" in next_step(dataclasses.replace(undecided, contrasts=[changed])).words
    torn = content_of(LABELS[:2], range(2), epochs=1, test_images=40, classes=4, missing=[("attention", 1)])
    assert next_step(torn).words.startswith("1 trial failed or missing: run the same command again")
    assert next_step(torn).command == "python jobs/sweep.py pets-frozen"
    alone = content_of(["baseline"], [0], epochs=1, test_images=40, classes=4)
    assert next_step(alone).words.startswith("Add a variant")
    diverged = [("attention", 0), ("attention", 1)]
    none = content_of(LABELS[:2], range(2), epochs=1, test_images=40, classes=4, diverged=diverged)
    assert next_step(none).words == "2 trials diverged, and no pair is complete: lower the learning rate, in a new run."
    diverged += [("baseline", 0), ("baseline", 1)]
    nothing = content_of(LABELS[:2], range(2), epochs=1, test_images=40, classes=4, diverged=diverged)
    assert about_line(nothing) == "Test accuracy, 0 complete trials of 2 seeds and 2 variants."
    single = content_of(LABELS[:2], range(1), epochs=1, test_images=40, classes=4)
    assert next_step(single).words.startswith("Run more seeds: 1 pair cannot tell")
