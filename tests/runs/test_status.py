"""The status of a run, from its store alone: which results count, and what is said of the trials that have none."""

import dataclasses
import json
import math

import pytest

from catdog.errors import UserError
from catdog.runs.cost import Launch
from catdog.runs.looks import Look, store_look
from catdog.runs.paths import RunPaths
from catdog.runs.results import TrialResult, best_run
from catdog.runs.status import RunStatus, missing_trials, mixed_versions, open_run
from catdog.storage import MemoryStore
from tests.helpers.hand_made_run import EIGHT, hand_made_store, paths_of, result
from tests.helpers.made_runs import make_run, put_small_trial


@pytest.fixture
def store() -> MemoryStore:
    return hand_made_store()


@pytest.fixture
def run_status(store: MemoryStore) -> RunStatus:
    return open_run(store, "night")


def test_the_best_run_is_chosen_by_validation_then_lowest_seed_and_never_by_test() -> None:
    runs = [
        result("baseline", 0, 90.0, 99.0),
        result("baseline", 3, 92.0, 70.0),
        result("baseline", 1, 92.0, 60.0),
        result("baseline", 2, 92.0, 98.0),
    ]
    for order in (runs, runs[::-1]):
        best = best_run(order)
        assert best is not None
        assert best.seed == 1
    assert best_run([]) is None
    assert best_run([result("baseline", 0, None, None, "diverged")]) is None
    zero = best_run([result("baseline", 1, 0.0, 0.0), result("baseline", 0, 0.0, 0.0)])
    assert zero is not None
    assert zero.seed == 0
    better = result("baseline", 1, 0.5, 1.0)
    assert best_run([result("baseline", 0, 0.0, 5.0), better]) == better


def test_texts_of_a_megabyte_are_damage_that_is_told_in_a_short_line() -> None:
    long, store = "M" * 1_000_000, MemoryStore()
    failed = [("se", 1)]
    make_run(
        store,
        ["baseline", "se"],
        range(2),
        epochs=1,
        classes=3,
        test_images=30,
        failed=failed,
        error_message="M" * 90_000,
    )
    (line,) = missing_trials(open_run(store, "made"))
    assert len(line) < 1000
    manifest = store.get("made/manifest.json")
    for text in (b"pets-frozen", b"3.11.7", b"ray"):
        assert text in manifest
        store.put("made/manifest.json", manifest.replace(b'"' + text + b'"', f'"{long}"'.encode()))
        with pytest.raises(UserError, match="letters; the limit is 100,000") as raised:
            open_run(store, "made")
        assert len(str(raised.value)) < 1000
    store = MemoryStore()
    make_run(store, ["baseline"], range(1), epochs=1, classes=[long, "b"], test_images=30)
    (line,) = missing_trials(open_run(store, "made"))
    assert line.endswith("predictions.npz is damaged: breeds has a name of more than 4,096 letters)")


def test_trials_that_are_not_averaged_are_listed_with_the_reason(run_status: RunStatus) -> None:
    assert missing_trials(run_status) == [
        f"diverged: {EIGHT} seed 1: the loss was not finite in epoch 5",
        f"failed: {EIGHT} seed 2: RuntimeError: shapes do not match (attempts: 3; traceback: "
        f"{paths_of(EIGHT, 2).failure}; log: node:/log)",
        "missing: attention seed 0",
        "missing: attention seed 1 (unfinished)",
    ]
    assert dict(run_status.counts) == {"complete": 5, "diverged": 1, "failed": 1, "missing": 2}
    assert not run_status.is_complete


def test_launches_with_other_code_or_packages_are_named(run_status: RunStatus) -> None:
    first = Launch("a", "2026-01-01", "CPU", None, code="a" * 40, versions={"torch": "2.14.1", "ray": "2.60.0"})
    later = dataclasses.replace(first, name="b", code="b" * 40, versions={"torch": "2.15.0", "ray": "2.60.0"})
    older = Launch("c", "2026-01-02", "CPU", None)  # from before launches recorded it
    assert mixed_versions(dataclasses.replace(run_status, launches=[first, first, older])) == []
    assert mixed_versions(dataclasses.replace(run_status, launches=[first, later, first])) == [
        f"launches ran with different code (git's trees): {'a' * 12}, {'b' * 12}",
        "launches ran with different torch: 2.14.1, 2.15.0",
    ]


def test_a_run_is_complete_when_nothing_failed_and_nothing_is_missing(store: MemoryStore) -> None:
    for label, seed in ((EIGHT, 2), ("attention", 0), ("attention", 1)):
        put_small_trial(store, paths_of(label, seed), result(label, seed, 90.0, 90.0))
    run_status = open_run(store, "night")
    assert run_status.is_complete
    assert len(missing_trials(run_status)) == 1, "the diverged trial is still listed"
    assert [len(run_status.results(label)) for label in ("baseline", EIGHT, "attention")] == [3, 3, 2]


def test_a_result_replaces_the_failure_before_it(store: MemoryStore) -> None:
    put_small_trial(store, paths_of(EIGHT, 2), result(EIGHT, 2, 90.0, 90.0))
    assert open_run(store, "night").counts["failed"] == 0


def test_damaged_results_and_those_of_another_recipe_do_not_count(store: MemoryStore) -> None:
    other = dataclasses.replace(result("baseline", 0, 99.0, 99.0), config_hash="0" * 16)
    store.put(paths_of("baseline", 0).result, other.to_json())
    store.put(paths_of("baseline", 1).result, b'{"variant": "base')
    store.put(paths_of(EIGHT, 2).failure, b"[]")
    run_status = open_run(store, "night")
    assert [trial.status for trial in run_status.trials[:3]] == ["missing", "missing", "complete"]
    assert [counted.val_accuracy for counted in run_status.results("baseline")] == [94.0]
    assert run_status.counts["failed"] == 0


def test_results_of_trials_outside_the_plan_do_not_count(store: MemoryStore) -> None:
    store.put(paths_of("baseline", 9).result, result("baseline", 9, 99.0, 99.0).to_json())
    run_status = open_run(store, "night")
    assert [counted.seed for counted in run_status.results("baseline")] == [0, 1, 2]


def test_a_missing_run_is_a_mistake(store: MemoryStore) -> None:
    with pytest.raises(UserError, match="--run day: there is no such run in memory"):
        open_run(store, "day")
    store.put(RunPaths("night").manifest, b"{}")
    with pytest.raises(UserError, match=r"^night/manifest.json cannot be used \(it lacks code, .*\): restore it"):
        open_run(store, "night")


def test_a_result_with_a_nan_loss_is_still_valid_json() -> None:
    one = dataclasses.replace(result("baseline", 0, 90.0, 90.0), val_loss=math.nan, setup_seconds=math.inf)
    content = json.loads(one.to_json(), parse_constant=pytest.fail)
    assert content["val_loss"] is content["setup_seconds"] is None
    assert TrialResult.from_json(one.to_json()).val_loss is None


def test_a_run_that_waits_for_its_next_look_is_not_complete() -> None:
    store = MemoryStore()
    run_status = make_run(store, ("baseline", "se"), range(6), looks=(6, 12), most_seeds=12, smallest_effect=1.0)
    assert not run_status.is_complete
    assert run_status.waiting == "0 of 2 looks taken; the next is after 6 seeds: run the sweep with --until-decided"
    for outcome, is_complete in (("undecided", False), ("hopeless", True), ("better", True)):
        store_look(store, "made", Look(6, {"se": tuple(range(6))}, {"se": outcome}, "2026-01-01"))
        run_status = open_run(store, "made").with_short_labels()
        assert run_status.is_complete == is_complete
        assert (run_status.waiting is None) == is_complete
