"""What a user sees while a sweep runs, on a terminal and in a log file."""

import dataclasses
import io
import time

import pytest
from rich.console import Console

from catdog.config.presets import PRESETS
from catdog.formatting import format_seconds
from catdog.runs.manifest import Identity, Manifest
from catdog.runs.paths import RunPaths
from catdog.runs.status import RunStatus, TrialStatus
from catdog.sweep import progress as module
from catdog.sweep.progress import SweepProgress, show_progress


@pytest.fixture
def progress() -> SweepProgress:
    """The progress of a new run of two variants and two seeds."""
    recipe = dataclasses.replace(PRESETS["demo"].recipe, precision="float32")
    seeds = {"baseline": (0, 1), "se": (0, 1)}
    manifest = Manifest("night", "demo", Identity(recipe, "0" * 16, None, 1), tuple(seeds), seeds, "", (), {}, None)
    run = RunPaths("night")
    trials = [TrialStatus(one, run.trial(one.variant.folder, one.seed), "") for one in manifest.planned()]
    progress = SweepProgress("night", RunStatus(manifest, trials), slots=2)
    progress.pending = 4
    return progress


def test_progress_in_a_log_is_lines(progress: SweepProgress, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LINE_SECONDS", 0.05)
    output = io.StringIO()
    with show_progress(progress, Console(file=output, width=140)):
        progress.started("baseline", 0)
        progress.finished("baseline", 0, 90.0, 89.0, 60.0)
        progress.finished("baseline", 1, 91.0, 90.0, 60.0)
        progress.failed("se", 0)
        while output.getvalue().count("\n") < 2:
            time.sleep(0.01)
    lines = output.getvalue().splitlines()
    assert len(lines) > 1
    assert "night: 2/4 done, 0 running, 1 failed" in lines[-1]
    assert "baseline test 89.50 ± 0.71 (n=2)" in lines[-1]
    assert "ETA 60 s" in lines[-1]


def test_progress_on_a_terminal_is_a_table(progress: SweepProgress) -> None:
    progress.started("se", 1)
    progress.epoch("se", 1, 4, 12, 61.25, {})
    progress.finished("baseline", 0, 90.0, 89.0, 60.0)
    progress.interrupted("se", 0, "the node was lost")
    shown = io.StringIO()
    Console(file=shown, width=100).print(progress)
    text = shown.getvalue()
    assert "90.00" in text
    assert "se seed 1: epoch 5/12, validation 61.2" in text
    assert "1 started again" in text


def test_a_log_has_a_sign_of_life_and_an_estimate_before_the_first_trial_is_complete(progress: SweepProgress) -> None:
    progress.started("baseline", 0)
    progress.started("se", 0)
    assert progress.eta_seconds is None
    progress.variants["baseline"].running[0].started -= 1000  # seconds ago
    progress.epoch("baseline", 0, 0, 8, 40.0, {})  # 8000 seconds for all eight epochs
    progress.variants["se"].running[0].started -= 1000
    progress.epoch("se", 0, 3, 8, 60.0, {})  # the first of this process, which resumed the trial
    progress.variants["se"].running[0].started -= 1000
    progress.epoch("se", 0, 4, 8, 61.0, {})  # 2000 seconds for two
    assert progress.eta_seconds == pytest.approx((4 - 1 / 8 - 5 / 8) * 8000 / 2, rel=0.01)
    assert "2 running, 0 failed | se seed 0: epoch 5/8, validation 61.0 | ETA 3.6 h" in progress.line()
    progress.finished("baseline", 0, 90.0, 89.0, 600.0)
    assert "epoch" not in progress.line()
    assert progress.eta_seconds == pytest.approx((3 - 5 / 8) * 600 / 2)


def test_a_tuning_shows_no_test_accuracy(progress: SweepProgress) -> None:
    progress.hides_test = True
    progress.finished("baseline", 0, 90.0, 89.0, 60.0)
    shown = io.StringIO()
    Console(file=shown, width=100).print(progress)
    assert "baseline validation 90.00 (n=1)" in progress.line()
    for text in (progress.line(), shown.getvalue()):
        assert "89" not in text
        assert "test" not in text.lower()


def test_collapsed_masks_are_warned_about_during_the_run(progress: SweepProgress) -> None:
    progress.epoch("se", 0, 0, 12, 50.0, {"dead masks": ["head"]})
    progress.epoch("se", 1, 0, 12, 50.0, {"dead masks": ["head"]})
    assert "se: dead masks in 2 of its trials" in progress.line()
    progress.epoch("se", 1, 1, 12, 50.0, {})
    assert "se: dead masks in 1 of its trials" in progress.line()
    shown = io.StringIO()
    Console(file=shown, width=100).print(progress)
    assert "se: dead masks in 1 of its trials" in shown.getvalue()


def test_collapses_at_many_places_are_one_line_for_each_variant(progress: SweepProgress) -> None:
    progress.epoch("se", 0, 0, 12, 50.0, {"dead masks": ["layer3", "layer1"], "masks alike": ["layer2"]})
    progress.epoch("se", 1, 0, 12, 50.0, {"dead masks": ["head", "layer1"]})
    warning = "se: dead masks at head, layer1, layer3 in 2; masks alike at layer2 in 1 of its trials"
    assert progress.line().split(" | ")[2:-1] == [warning]
    shown = io.StringIO()
    Console(file=shown, width=120).print(progress)
    assert [line.strip() for line in shown.getvalue().splitlines() if "masks" in line] == [warning]


def test_durations_are_human_readable() -> None:
    assert [format_seconds(seconds) for seconds in (5, 90, 600, 7200)] == ["5 s", "1.5 min", "10 min", "2.0 h"]


@pytest.mark.parametrize("width", [40, 60, 80])
def test_the_table_of_a_running_sweep_fits_and_shows_text_as_it_is(progress: SweepProgress, width: int) -> None:
    progress.finished("baseline", 0, 90.0, 89.0, 60.0)
    progress.finished("baseline", 1, 91.0, 90.0, 60.0)
    progress.interrupted("se", 0, "[/b] :smile:")
    shown = io.StringIO()
    Console(file=shown, width=width, markup=False, emoji=False).print(progress)
    lines = shown.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    assert sum("90.50 ± 0.71" in line for line in lines) == 1
    assert "[/b] :smile:" in " ".join(shown.getvalue().split())


def test_a_line_lists_only_as_many_variants_as_a_reader_takes_in(progress: SweepProgress) -> None:
    variant = progress.variants["se"]
    for number in range(30):
        one = dataclasses.replace(variant, title=f"se {number}", test=[90.0], collapsed={0: {"masks alike": ["head"]}})
        progress.variants[one.title] = one
    line = progress.line()
    assert line.count(" test 90.00") == line.count("masks alike in 1") == module.MOST_SHOWN
    assert line.count("and 22 more") == 2
