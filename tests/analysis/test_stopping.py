"""Looks at a sweep that may stop early: whom they count, what they decide, and that it is never taken back."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest

from catdog.analysis.contrasts import compare
from catdog.analysis.predictions import read_predictions
from catdog.analysis.stopping import _outcome, early_stops, take_look
from catdog.analysis.verdicts import Contrast, contrasts_table
from catdog.runs.looks import HOPELESS, UNDECIDED, Look, next_look
from catdog.runs.status import RunStatus
from catdog.storage import MemoryStore
from tests.helpers.made_runs import make_run

LABELS = ("baseline", "multi-attention", "se")
LOOKS = (6, 12, 20, 30)


def made(seeds: int, looks: Sequence[Look] = (), **options: object) -> RunStatus:
    labels = options.pop("labels", LABELS)
    run_status = make_run(
        MemoryStore(), labels, range(seeds), looks=LOOKS, most_seeds=30, smallest_effect=2.0, test_images=300,
        **options,
    )  # type: ignore[arg-type]  # fmt: skip
    return dataclasses.replace(run_status, looks=list(looks))


def undecided_after(planned: int) -> Look:
    seeds = tuple(range(planned))
    return Look(planned, dict.fromkeys(LABELS[1:], seeds), dict.fromkeys(LABELS[1:], UNDECIDED), "2026-01-01")


def by_name(run_status: RunStatus) -> dict[str, Contrast]:
    return {one.variant: one for one in compare(run_status, None)}


EFFECTS = {"effect": {"multi-attention": 8.0}}
SOME = {"effect": {"multi-attention": 8.0, "se": 1.6}}


def test_a_look_waits_for_all_planned_seeds_and_counts_no_others() -> None:
    assert take_look(made(6, missing=[("se", 4)]), None) is None, "a seed of the first six has not ended"
    look = take_look(made(9), None)
    assert look is not None
    assert (look.planned, look.seeds["se"]) == (6, (0, 1, 2, 3, 4, 5))
    lost = take_look(made(6, failed=[("se", 1), ("baseline", 2)], diverged=[("se", 3)]), None)
    assert lost is not None
    assert (lost.seeds["se"], lost.seeds["multi-attention"]) == ((0, 3, 4, 5), (0, 1, 3, 4, 5))


def test_a_look_is_not_taken_while_most_of_its_trials_have_failed() -> None:
    all_but = [("baseline", seed) for seed in range(4)]
    assert take_look(made(6, failed=all_but), None) is None
    assert take_look(made(6, failed=all_but[:3]), None) is not None, "half of the pairs are there"
    assert take_look(made(6, failed=[("se", seed) for seed in range(6)]), None) is not None, "only one head fails"
    later = [undecided_after(6)]
    assert take_look(made(12, later, failed=[("baseline", seed) for seed in range(6, 10)]), None) is None
    assert take_look(made(12, later, failed=all_but[:3]), None) is not None, "what an earlier look lacked is past"


def test_decided_contrasts_stop_and_the_others_go_on() -> None:
    looks: list[Look] = []
    for seeds in LOOKS[:2]:
        look = take_look(made(seeds, looks, **SOME), None)
        assert look is not None
        looks.append(look)
    assert looks[0].outcomes == {"multi-attention": UNDECIDED, "se": UNDECIDED}, "six pairs spend hardly any level"
    assert looks[1].outcomes == {"multi-attention": "better", "se": UNDECIDED}
    run_status = made(12, looks, **SOME)
    needed = next_look(run_status.manifest.declaration, LABELS, looks)
    assert needed.labels == ("baseline", "se")
    assert needed.seeds == tuple(range(20))
    contrasts = by_name(run_status)
    assert contrasts["multi-attention"].words.startswith("multi-attention is better than baseline on this test set")
    assert contrasts["multi-attention"].figures.endswith(
        "Decided after 12 of at most 30 seeds: p and intervals allow for looking early, the mean is likely too far "
        "from zero."
    )
    assert contrasts["se"].figures.endswith("Looked at after 12 of at most 30 seeds.")
    table = contrasts_table(list(contrasts.values()))
    assert table["looked_after"].tolist() == [12, 12]


def test_what_a_look_decided_is_never_taken_back_and_later_pairs_are_not_counted() -> None:
    first = take_look(made(12, [undecided_after(6)], **EFFECTS), None)
    assert first is not None
    assert first.outcomes["multi-attention"] == "better"
    later = made(20, [first], effect={"multi-attention": -8.0})  # as if the results had been replaced
    contrast = by_name(later)["multi-attention"]
    assert contrast.outcome == "better"
    assert contrast.n == 12
    assert contrast.figures.endswith(" 8 later pairs not counted.")
    lost = by_name(made(20, [first], missing=[("se", 3)], failed=[("multi-attention", seed) for seed in range(9, 20)]))
    assert "later pair" not in lost["multi-attention"].figures, "fewer pairs are left than the look counted"


def test_a_contrast_is_hopeless_when_neither_question_can_be_answered() -> None:
    run_status = make_run(
        MemoryStore(), ("baseline", "se"), range(12), looks=LOOKS, most_seeds=30, smallest_effect=0.01, test_images=300
    )
    look = take_look(run_status, None)
    assert look is not None
    assert look.outcomes == {"se": HOPELESS}
    (contrast,) = compare(dataclasses.replace(run_status, looks=[look]), None)
    assert contrast.words == "se against baseline: undecided, and more seeds would hardly decide it."
    assert "Given up after 6 of at most 30 seeds" in contrast.figures
    assert next_look(run_status.manifest.declaration, ("baseline", "se"), [look]).labels == ()


def test_hopeless_is_judged_at_the_level_of_each_question() -> None:
    """One of eleven contrasts, the others equivalent: this one has the whole level for that, not an eleventh."""
    run_status = made(15, [undecided_after(15)], labels=LABELS)
    contrast = by_name(run_status)["se"]
    assert contrast.difference is not None
    assert contrast.equivalence is not None
    seen = np.random.default_rng(1).normal(0.0, 1.0, 15)
    seen = 0.33 * (seen - seen.mean()) / seen.std(ddof=1) + 0.02
    contrast = dataclasses.replace(
        contrast, smallest_effect=0.15, differences=tuple(seen),
        difference=dataclasses.replace(contrast.difference, level=0.05 / 11, says=None),
        equivalence=dataclasses.replace(contrast.equivalence, level=0.05, says=None),
    )  # fmt: skip
    assert _outcome(contrast) == UNDECIDED
    strict = dataclasses.replace(contrast.equivalence, level=0.05 / 11, says=None)
    assert _outcome(dataclasses.replace(contrast, equivalence=strict)) == HOPELESS


def test_equal_variants_are_found_equivalent_early() -> None:
    wide = make_run(
        MemoryStore(), ("baseline", "se"), range(12), looks=(12, 30), most_seeds=30, smallest_effect=6.0,
        test_images=300,
    )  # fmt: skip
    look = take_look(wide, None)
    assert look is not None
    assert look.outcomes == {"se": "equivalent"}


def test_before_the_first_look_the_report_claims_nothing() -> None:
    contrast = by_name(made(4, **EFFECTS))["multi-attention"]
    assert contrast.outcome == UNDECIDED
    assert contrast.interval is None
    assert contrast.figures.endswith(
        " percentage points, n = 4 pairs. Not looked at yet: the first look is after 6 seeds, of at most 30."
    )


def test_pairs_beyond_the_last_look_are_said_not_to_count_also_if_it_left_the_question_open() -> None:
    contrast = by_name(made(34, [undecided_after(30)]))["se"]
    assert contrast.n == 30
    assert contrast.figures.endswith("Looked at after 30 of at most 30 seeds. 4 later pairs not counted.")
    running = by_name(made(34, [undecided_after(20)]))["se"]
    assert running.figures.endswith("Looked at after 20 of at most 30 seeds."), "the next look will count them"


def test_a_variant_that_is_added_after_the_first_look_does_not_change_what_was_decided() -> None:
    look = take_look(made(12, [undecided_after(6)], **SOME), None)
    assert look is not None
    before = by_name(made(12, [look], **SOME))
    after = by_name(made(12, [look], labels=(*LABELS, "eca", "gem"), **SOME))
    for name, contrast in before.items():
        assert after[name].difference == contrast.difference
    added = after["eca"].difference
    assert added is not None
    assert added.level == 0.05 / 2, "one of two"


def test_the_last_look_ends_the_design() -> None:
    last = undecided_after(30)
    run_status = made(30, [last])
    assert take_look(run_status, None) is None
    assert next_look(run_status.manifest.declaration, LABELS, [last]).labels == ()


def test_the_interval_on_new_images_allows_for_looking_early() -> None:
    store = MemoryStore()
    run_status = make_run(
        store, ("baseline", "se"), range(12), looks=(12, 30), most_seeds=30, smallest_effect=0.5, test_images=300,
        effect={"se": 3.0},
    )  # fmt: skip
    predictions = read_predictions(store, run_status)
    look = take_look(run_status, predictions)
    assert look is not None
    (early,) = compare(dataclasses.replace(run_status, looks=[look]), predictions)
    fixed = dataclasses.replace(run_status, manifest=dataclasses.replace(run_status.manifest, declared=()))
    (plain,) = compare(fixed, predictions)
    assert early.interval_new_images is not None
    assert plain.interval_new_images is not None
    assert early.interval_new_images.low < plain.interval_new_images.low
    assert early.interval_new_images.high > plain.interval_new_images.high
    assert early.interval is not None
    assert plain.interval is not None
    assert early.interval.low <= plain.interval.low < plain.interval.high <= early.interval.high


def test_a_run_of_all_its_seeds_tells_when_each_contrast_would_have_stopped() -> None:
    whole = make_run(MemoryStore(), LABELS, range(30), smallest_effect=2.0, test_images=300, **SOME)
    stops = {one.variant: one for one in early_stops(whole, None, lambda seeds: LOOKS)}
    looks: list[Look] = []
    while (look := take_look(made(30, looks, **SOME), None)) is not None:
        looks.append(look)
    ended = {label: (outcome, look.planned) for look in looks for label, outcome in look.outcomes.items()}
    assert {label: (stops[label].outcome, stops[label].seeds) for label in LABELS[1:]} == ended
    assert ended["multi-attention"] == ("better", 12)
    assert stops["baseline"].seeds == ended["se"][1], "the reference runs as long as any contrast is open"
    seconds = [one.seconds for one in whole.results("multi-attention")]
    assert stops["multi-attention"].hours == pytest.approx(sum(seconds[:12]) / 3600)
    assert stops["multi-attention"].hours_spent == pytest.approx(sum(seconds) / 3600)


def test_diverged_trials_count_at_chance_accuracy_and_their_hours_too_in_what_might_have_stopped() -> None:
    """Of two classes chance is 50 %: two such seeds leave multi-attention better, two at 0 % would not."""
    store, diverged = MemoryStore(), [("multi-attention", seed) for seed in (3, 7)]
    whole = make_run(
        store, LABELS[:2], range(30), smallest_effect=2.0, test_images=300, classes=2, diverged=diverged,
        effect={"multi-attention": 8.0},
    )  # fmt: skip
    predictions = read_predictions(store, whole)
    stop, _ = early_stops(whole, predictions, lambda seeds: LOOKS)
    looked, looks = made(30, classes=2, labels=LABELS[:2], diverged=diverged, **EFFECTS), []
    while (look := take_look(dataclasses.replace(looked, looks=looks), predictions)) is not None:
        looks.append(look)
    (contrast,) = compare(whole, predictions)
    assert contrast.interval_new_images is not None
    assert contrast.interval_new_images.excludes_zero
    assert "better than baseline on this test set; whether on new images, too, is open" in contrast.words
    assert (stop.outcome, stop.seeds) == (looks[-1].outcomes["multi-attention"], looks[-1].planned) == ("better", 30)
    of_diverged = [one.result.seconds for one in whole.trials if one.result and one.status == "diverged"]
    spent = sum(one.seconds for one in whole.results("multi-attention")) + sum(of_diverged)
    assert stop.hours_spent == pytest.approx(spent / 3600)


@pytest.mark.parametrize("options", [{"smallest_effect": None}, {"missing": [("se", 4)]}, {"looks": LOOKS}])
def test_a_run_that_cannot_be_looked_at_again_tells_of_no_early_stop(options: dict[str, object]) -> None:
    of = {"smallest_effect": 2.0, "test_images": 300, "most_seeds": 30} | options
    assert early_stops(make_run(MemoryStore(), LABELS, range(6), **of), None, lambda seeds: LOOKS) == []


@pytest.mark.parametrize("short", [False, True])
def test_short_labels_change_nothing(short: bool) -> None:
    run_status = made(12, labels=("baseline", "se:reduction=8"), **EFFECTS)
    look = take_look(run_status, None)
    assert look is not None
    run_status = dataclasses.replace(run_status, looks=[look])
    if short:
        manifest = run_status.manifest.renamed({"se:reduction=8": "small"})
        run_status = dataclasses.replace(run_status, manifest=manifest).with_short_labels()
    (contrast,) = compare(run_status, None)
    assert contrast.variant == ("small" if short else "se:reduction=8")
    assert contrast.looked is not None
    assert contrast.looked.after == 6
