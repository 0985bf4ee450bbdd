"""Effects across sets: what a set is, what is said of one and of all, and the mean over sets that share images."""

import dataclasses
import re
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pytest

from catdog.analysis.across_sets import AcrossSets, compare_sets, moments_over_sets
from catdog.analysis.across_words import figures, sentence
from catdog.analysis.contrasts import compare
from catdog.analysis.predictions import read_predictions
from catdog.analysis.sets import ComparedSet, check_sets, sets_of
from catdog.analysis.significance import holm
from catdog.config.recipe import Recipe
from catdog.errors import UserError
from catdog.formatting import format_points, format_range
from catdog.runs.declaration import Declaration
from catdog.runs.manifest import Identity, Manifest
from catdog.runs.paths import RunPaths
from catdog.runs.results import Status, TrialResult
from catdog.runs.status import RunStatus, TrialStatus
from catdog.storage import MemoryStore
from tests.helpers.made_runs import make_run

R18, R50, NAN = "backbone=resnet18", "backbone=resnet50", float("nan")
UP, DOWN = (1.0, 1.2, 0.8, 1.1, 0.9, 1.3, 0.7, 1.0), (-1.0, -1.2, -0.8, -1.1, -0.9, -1.3, -0.7, -1.0)
LEVEL, UNSURE = (0.1, -0.1, 0.2, -0.2, 0.1, -0.1, 0.2, -0.2), (3.0, -2.0, 1.0, -3.0, 2.0, -1.0, 4.0, -3.0)

ONE = (0.5, *(NAN,) * 7)


def a_run(
    name: str,
    labels: Sequence[str],
    *,
    recipe: Recipe | None = None,
    declared: Declaration | None = None,
    short_labels: Mapping[str, str] | None = None,
    **differences: Sequence[float],
) -> RunStatus:
    """A run in memory: by name of a head, its differences from the reference seed by seed; NaN where it diverged."""
    manifest = Manifest(
        name, "pets-frozen", Identity(recipe or with_batches_of(32), "0123456789abcdef", None, 1), tuple(labels),
        dict.fromkeys(labels, tuple(range(8))), "2026-01-01T00:00:00.000+00:00", (), {}, None,
        declared=() if declared is None else (declared,), short_labels=short_labels or {},
    )  # fmt: skip
    trials = []
    for trial in manifest.planned():
        difference = differences.get(trial.variant.name, (0.0,) * 8)[trial.seed]
        status: Status = "diverged" if np.isnan(difference) else "complete"
        accuracy = None if np.isnan(difference) else 90 + trial.seed / 10 + difference
        result = TrialResult(trial.variant.label, trial.seed, status, 90.0, accuracy, 0, 1, 1.0, "")
        trials.append(TrialStatus(trial, RunPaths(name).trial(trial.variant.folder, trial.seed), "", result))
    return RunStatus(manifest, trials)


def with_batches_of(size: int) -> Recipe:
    return Recipe(precision="float32", batch_size=size)


def runs_of_se(*effects: Sequence[float]) -> list[RunStatus]:
    """Runs a, b, … with other recipes, in each of which se has these differences from baseline."""
    return [
        a_run(chr(97 + i), ["baseline", "se"], recipe=with_batches_of(8 + i), se=effect)
        for i, effect in enumerate(effects)
    ]


def compared(*runs: RunStatus) -> list[AcrossSets]:
    sets = [one for run in runs for one in sets_of(run, None)]
    check_sets(sets)
    return compare_sets(sets)


def labels_of(sets: Sequence[ComparedSet]) -> dict[str, dict[str, str]]:
    return {one.name: {one.head: one.reference, **one.contenders} for one in sets}


def test_variants_that_share_settings_with_a_reference_are_a_set_and_others_belong_to_the_run() -> None:
    labels = ["baseline", "attention", f"baseline:{R50}", f"attention:{R50}", "attention:mixup=0.2", "multi-task"]
    assert labels_of(sets_of(a_run("pets", labels), None)) == {
        "pets": {
            "baseline": "baseline", "attention": "attention", "attention:mixup=0.2": "attention:mixup=0.2",
            "multi-task": "multi-task",
        },
        f"pets {R50}": {"baseline": f"baseline:{R50}", "attention": f"attention:{R50}"},
    }  # fmt: skip


def test_a_grid_of_settings_makes_a_set_of_each_of_their_combinations() -> None:
    eight = "multi-attention:num_masks=8"
    labels = [f"baseline:{R18}", f"{eight},{R18}", f"baseline:{R50}", f"{eight},{R50}"]
    assert labels_of(sets_of(a_run("pets", labels), None)) == {
        f"pets {R18}": {"baseline": f"baseline:{R18}", eight: f"{eight},{R18}"},
        f"pets {R50}": {"baseline": f"baseline:{R50}", eight: f"{eight},{R50}"},
    }


@pytest.mark.parametrize(
    ("labels", "contenders"),
    [
        (["baseline", "baseline:mixup=0.2"], ["baseline:mixup=0.2"]),  # nothing was compared with it
        ([f"baseline:{R18}", f"se:{R18}", "se"], ["se", "se (recipe of the run)"]),
    ],
)
def test_no_variant_is_lost(labels: list[str], contenders: list[str]) -> None:
    (only,) = sets_of(a_run("pets", labels), None)
    assert list(only.contenders) == contenders
    assert only.name == "pets", "a run with one set needs no settings to be told from its others"


def test_a_run_with_looks_is_one_set_as_it_was_declared() -> None:
    labels = ["baseline", "se", f"baseline:{R50}", f"se:{R50}"]
    declared = Declaration("baseline", "se", 0.2, looks=(6, 8), seeds=tuple(range(8)))
    (only,) = sets_of(a_run("pets", labels, declared=declared), None)
    assert list(only.contenders) == labels[1:]


def test_a_set_is_tested_as_the_run_itself_and_p_is_adjusted_over_all_sets() -> None:
    runs = [
        a_run(name, ["baseline", "se", "gem"], recipe=with_batches_of(size), se=UP, gem=effect)
        for name, size, effect in (("a", 8, (*UP[:7], NAN)), ("b", 9, UNSURE))
    ]
    found = compared(*runs)
    effects = [effect for one in found for effect in one.effects]
    contrasts = {(run.manifest.run, contrast.variant): contrast for run in runs for contrast in compare(run, None)}
    assert len(effects) == len(contrasts) == 4
    for effect in effects:
        contrast = contrasts[effect.of.run, effect.contender]
        assert contrast.difference is not None
        assert effect.difference is not None
        assert (effect.n, effect.mean, effect.difference.p) == (contrast.n, contrast.mean, contrast.difference.p)
        assert (effect.interval is not None) == (effect.n >= 6)
    for one in found:  # one is primary, and there is only one besides
        answers = [effect.difference for effect in one.effects if effect.difference is not None]
        assert [answer.p_adjusted for answer in answers] == holm([answer.p for answer in answers])


@pytest.mark.parametrize(
    ("effects", "said"),
    [
        ([UP], "se is better than baseline on a."),
        ([UP, UP], "se is better than baseline on both sets."),
        ([UP, UP, UP], "se is better than baseline on all 3 sets."),
        ([DOWN, DOWN, DOWN], "se is worse than baseline on all 3 sets."),
        ([LEVEL, UNSURE, UNSURE], "se against baseline: undecided on all 3 sets."),
        ([UP, UP, UNSURE], "se is better than baseline on 2 of 3 sets (a, b), and undecided on c."),
        (
            [UP, DOWN, UNSURE, LEVEL],
            "se is better than baseline on 1 of 4 sets (a), worse than baseline on b, and undecided on c, d.",
        ),
        ([UP, *[UNSURE] * 5], "se is better than baseline on 1 of 6 sets (a), and undecided on 5 sets."),
    ],
)
def test_one_sentence_says_on_which_sets_a_variant_is_better(effects: list[tuple[float, ...]], said: str) -> None:
    (found,) = compared(*runs_of_se(*effects))
    assert sentence(found) == said
    means = [float(np.mean(effect)) for effect in effects]
    sizes = f"From {format_range(min(means), max(means))}" if len(set(means)) > 1 else format_points(means[0])
    assert figures(found)[0].startswith(f"{sizes} points; ")


@pytest.mark.parametrize(
    ("differences", "effects", "said"),
    [
        (LEVEL, (0.5, 0.5), "se is equivalent to baseline on both sets: within the 0.50 points that matter."),
        (LEVEL, (0.5, 0.6), "se is equivalent to baseline on both sets: within what matters on each."),
        (UP, (2.0, 2.0), "se is better than baseline on both sets, by less than the 2.00 points that matter."),
        (LEVEL, (0.5, None), "se is equivalent to baseline on 1 of 2 sets (run-8), and undecided on run-9."),
        (UP, (2.0, None), "se is better than baseline on both sets."),
    ],
)
def test_equivalence_on_all_needs_a_smallest_effect_on_each(
    differences: tuple[float, ...], effects: tuple[float | None, float | None], said: str
) -> None:
    runs = [
        a_run(
            f"run-{size}",
            ["baseline", "se"],
            recipe=with_batches_of(size),
            declared=Declaration("baseline", "se", effect),
            se=differences,
        )
        for size, effect in zip((8, 9), effects, strict=True)
    ]
    (found,) = compared(*runs)
    assert sentence(found) == said


def test_better_on_all_needs_no_correction_for_the_number_of_sets() -> None:
    """An intersection-union test. Eight pairs give p = 0.008 at best: of seven sets, none is significant by itself."""
    (found,) = compared(*runs_of_se(*[UP] * 7))
    assert found.difference.p_adjusted == found.difference.p == 2 / 2**8
    assert {effect.outcome for effect in found.effects} == {"undecided"}
    assert sentence(found) == "se is better than baseline on all 7 sets."
    assert "Set by set, corrected for the number of tests, that stays open on 7 sets." in figures(found)


def test_signs_that_differ_are_no_evidence_of_a_difference_on_all() -> None:
    (found,) = compared(*runs_of_se(UP, DOWN))
    assert (found.difference.p, found.outcome) == (1.0, "undecided")


def test_of_several_contenders_the_primary_is_tested_alone_and_the_others_together() -> None:
    labels, eight, nine = ["baseline", "se", "gem", "max"], with_batches_of(8), with_batches_of(9)
    first = a_run("a", labels, recipe=eight, se=UP, gem=UP, max=DOWN)
    se, gem, largest = compared(first, a_run("b", labels, recipe=nine, se=UP, gem=UNSURE, max=DOWN))
    assert se.is_primary
    assert se.difference.p_adjusted == se.difference.p
    assert [one.difference.p_adjusted for one in (gem, largest)] == holm([gem.difference.p, largest.difference.p])
    others = compared(first, a_run("b", ["baseline", "gem", "se"], recipe=nine))
    assert not any(one.is_primary for one in others), "the runs' primary contrasts differ"
    tuned = Declaration("baseline", f"baseline:{R50}", None)
    reference = a_run("b", ["baseline", "se", f"baseline:{R50}", f"se:{R50}"], recipe=nine, declared=tuned)
    assert not any(one.is_primary for one in compared(first, reference)), "that run's primary one is a set's reference"


def test_a_variant_without_pairs_makes_the_others_no_less_certain() -> None:
    run = a_run("a", ["baseline", "se", "gem", "max"], se=UP, gem=UP, max=(NAN,) * 8)
    contrasts = {one.variant: one for one in compare(run, None)}
    *tested, untested = compared(run)
    for one in tested:
        answer = contrasts[one.title].difference
        assert answer is not None
        assert (one.difference.p_adjusted, one.outcome) == (answer.p_adjusted, "better")
    assert (untested.title, untested.outcome, untested.difference.p_adjusted) == ("max", "undecided", 1.0)


@pytest.mark.parametrize(
    ("effects", "said"),
    [
        ([ONE], "se against baseline: nothing can be said."),
        ([ONE, UP], "se is better than baseline on 1 of 2 sets (b); nothing can be said on a."),
        ([LEVEL, ONE], "se against baseline: undecided on a; nothing can be said on b."),
        (
            [UP, LEVEL, ONE],
            "se is better than baseline on 1 of 3 sets (a), and undecided on b; nothing can be said on c.",
        ),
    ],
)
def test_of_a_single_pair_nothing_can_be_said(effects: list[tuple[float, ...]], said: str) -> None:
    (found,) = compared(*runs_of_se(*effects))
    assert sentence(found) == said
    means = [float(np.nanmean(effect)) for effect in effects]
    sizes = f"From {format_range(min(means), max(means))}" if len(means) > 1 else format_points(means[0])
    assert figures(found) == [f"{sizes} points; fewer than two pairs say nothing of other seeds."]
    several = [one for one in effects if one != ONE]
    tested = compared(*runs_of_se(*several))[0].effects if several else ()
    p_values = [one.difference and one.difference.p_adjusted for one in found.effects]
    assert [p for p in p_values if p is not None] == [one.difference and one.difference.p_adjusted for one in tested]
    assert p_values.count(None) == effects.count(ONE), "a single pair has no p, and makes the others' no larger"


def test_a_variant_that_ran_on_fewer_sets_is_said_to() -> None:
    further = a_run("c", ["baseline", "se", "gem"], se=UP, gem=UP)
    se, gem = compared(*runs_of_se(UP, UP), further)
    assert len(se.effects) == 3
    assert sentence(gem) == "gem, which ran on 1 of the 3 sets, is better than baseline on c."


def test_no_variant_wins_by_diverging() -> None:
    (found,) = compared(*runs_of_se((*UP[:7], NAN)))
    assert sentence(found) == "se against baseline: undecided on a."
    assert figures(found)[1] == "On a it is not called better: with 1 diverged seed at chance accuracy it would not be."
    (found,) = compared(*runs_of_se(UP, (*UP[:7], NAN)))
    assert sentence(found) == "se is better than baseline on 1 of 2 sets (a), and undecided on b."
    assert figures(found)[-1].startswith("On both sets it is not called better: with 1 diverged seed")


def test_a_short_label_is_used_where_all_sets_have_it() -> None:
    eight, short = "multi-attention:num_masks=8", {"multi-attention:num_masks=8": "8 masks", "baseline": "mean"}
    runs = [a_run(f"run-{i}", ["baseline", eight], recipe=with_batches_of(i), short_labels=short) for i in (8, 9)]
    assert [(one.title, one.reference) for one in compared(*runs)] == [("8 masks", "mean")]
    others = compared(*runs, a_run("c", ["baseline", eight]))
    assert [(one.title, one.reference) for one in others] == [(eight, "baseline")]


PLAIN, OF_R50 = ["baseline", "se"], [f"baseline:{R50}", f"se:{R50}"]


@pytest.mark.parametrize(
    ("labels", "other", "problem"),
    [
        (PLAIN, ["gem", "se"], "runs a and b: their references differ (baseline, gem)"),
        (PLAIN, ["baseline", "gem"], "a and b: are the same set (dataset, backbone and recipe): sweep them as one run"),
        ([*PLAIN, *OF_R50], OF_R50, f"a {R50} and b: are the same set"),
    ],
)
def test_runs_must_have_one_reference_and_be_different_sets(labels: list[str], other: list[str], problem: str) -> None:
    with pytest.raises(UserError, match=re.escape(problem)):
        compared(a_run("a", labels), a_run("b", other))


def test_the_mean_joins_the_pairs_of_a_seed_that_all_sets_have() -> None:
    store, sets = MemoryStore(), []
    for size in range(8, 13):
        small = {"epochs": 1, "classes": 3, "effect": {"se": 4.0}, "test_images": 60}
        run = make_run(
            store, ("baseline", "se"), range(6), run=f"run-{size}", recipe=with_batches_of(size),
            missing=[("se", size - 8)] if size < 10 else [], **small,  # type: ignore[arg-type]
        )  # fmt: skip
        sets += sets_of(run, read_predictions(store, run))
    (found,) = compare_sets(sets)
    assert [effect.n for effect in found.effects] == [5, 5, 6, 6, 6]
    assert found.mean is not None
    of_seeds = []
    for effect in found.effects:
        assert effect.pairs is not None
        differences = dict(zip(effect.pairs.seeds, effect.pairs.ours_S - effect.pairs.theirs_S, strict=True))
        of_seeds.append([differences[seed] for seed in range(2, 6)])
    assert 100 * found.mean.mean == pytest.approx(np.mean(of_seeds))
    assert found.left_out == 5 + 5 + 6 + 6 + 6 - 5 * 4
    assert figures(found)[1].startswith(
        "The mean of these 5 sets, without 8 pairs that not all sets on the same images"
    )


@pytest.mark.slow
def test_one_comparison_in_twenty_raises_a_false_alarm_of_a_family_on_any_set_or_on_all() -> None:
    """Three equal variants on three sets; then se is better on two of them, so that one set decides about all."""
    rng, labels, repetitions = np.random.default_rng(3), ["baseline", "se", "gem", "max"], 400
    any_set, on_all = {True: 0, False: 0}, 0
    for _ in range(repetitions):
        luck = rng.normal(0, 1, (3, 3, 8)).round(2)
        found = [
            compared(
                *(
                    a_run(
                        f"run-{i}", labels, recipe=with_batches_of(8 + i), se=se + gain * (i < 2), gem=gem, max=largest
                    )
                    for i, (se, gem, largest) in enumerate(luck)
                )
            )
            for gain in (0.0, 5.0)
        ]
        for primary in any_set:
            family = [one for one in found[0] if one.is_primary == primary]
            any_set[primary] += any(effect.outcome != "undecided" for one in family for effect in one.effects)
        on_all += found[1][0].outcome != "undecided"
    assert max(any_set.values()) / repetitions <= 0.05 + 2.5 * (0.05 * 0.95 / repetitions) ** 0.5
    assert on_all / repetitions <= 0.05


def differences_SN(luck_N: npt.NDArray[np.float64], rng: np.random.Generator, seeds: int) -> npt.NDArray[np.int8]:
    draw_SN = rng.random((seeds, len(luck_N)))
    return (draw_SN < 0.3 + luck_N).astype(np.int8) - (draw_SN > 0.55 + luck_N).astype(np.int8)


def test_images_that_sets_share_make_the_mean_over_sets_less_certain() -> None:
    rng = np.random.default_rng(5)
    luck_N = rng.normal(0, 0.1, 500)
    sets = [differences_SN(luck_N, rng, seeds) for seeds in (12, 10, 11, 10, 14)]
    joint, apart = moments_over_sets([sets]), moments_over_sets([[one_SN] for one_SN in sets])
    assert joint is not None
    assert apart is not None
    assert joint.mean == pytest.approx(np.mean([one_SN[:10].mean() for one_SN in sets]))
    assert apart.mean == pytest.approx(np.mean([one_SN.mean() for one_SN in sets]))
    assert joint.variance > 2 * apart.variance
    assert moments_over_sets([sets, [np.zeros((12, 30), dtype=np.int8)]]) is None


def test_a_mean_is_of_five_sets_at_least_whose_predictions_are_known() -> None:
    sets, store = [], MemoryStore()
    small = {"epochs": 1, "classes": 3, "effect": {"se": 4.0}}
    for size, images in zip(range(8, 14), (60, 60, 60, 60, 60, 30), strict=True):
        name, recipe = f"run-{size}", with_batches_of(size)
        run = make_run(store, ("baseline", "se"), range(3), run=name, recipe=recipe, test_images=images, **small)  # type: ignore[arg-type]
        sets += sets_of(run, read_predictions(store, run))
    *sets, overlapping = sets
    (all_five,), (four,) = compare_sets(sets), compare_sets(sets[1:])
    assert four.mean is None
    assert all_five.mean is not None
    assert 100 * all_five.mean.mean == pytest.approx(np.mean([effect.mean for effect in all_five.effects]))
    assert figures(all_five)[1].startswith("The mean of these 5 sets is +")
    declared = (dataclasses.replace(sets[0].manifest.declaration, looks=(3, 6), seeds=tuple(range(6))),)
    looked = dataclasses.replace(sets[0].manifest, declared=declared)
    early = dataclasses.replace(sets[0], run_status=dataclasses.replace(sets[0].run_status, manifest=looked))
    assert compare_sets([early, *sets[1:]])[0].mean is None, "a mean that may have ended its run is biased"
    unread = [dataclasses.replace(one, predictions=None) for one in sets[:1]]
    assert compare_sets([*unread, *sets[1:]])[0].mean is None
    assert compare_sets([*sets, overlapping])[0].mean is None, "some of its test images are those of the others"
