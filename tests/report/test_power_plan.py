"""How many seeds a sweep needs: by the scatter of a run, or for any scatter."""

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest

from catdog.analysis.contrasts import compare
from catdog.config.sweep_options import all_looks, up_to
from catdog.errors import UserError
from catdog.report import power_plan
from catdog.report.power_plan import Target, _with_looks, any_scatter_lines, plan_lines
from catdog.runs.manifest import Identity
from catdog.runs.status import RunStatus
from catdog.storage import MemoryStore
from jobs.sweep import PILOT_SEED, main, parse_options
from tests.helpers.made_runs import make_run


def identity_of(run_status: RunStatus) -> Identity:
    return run_status.manifest.identity


def test_each_contrast_needs_what_its_own_scatter_demands() -> None:
    run_status = make_run(MemoryStore(), ("baseline", "attention", "multi-attention", "se"), range(12), test_images=300)
    first, *lines, last = plan_lines(Target(1.5, 0.8), run_status, 2.0, identity_of(run_status))
    assert first == "to find a difference of 1.50 points with power 0.8, by the paired differences of run made:"
    needed = {}
    for contrast, line in zip(compare(run_status, None), lines, strict=True):
        kind = "primary" if contrast.is_primary else "one of 2 others"
        spread = np.std(contrast.differences, ddof=1)
        match = re.fullmatch(
            rf"  {contrast.variant} − baseline \({kind}\): standard deviation {spread:.2f} \([\d.]+ to [\d.]+\) from "
            r"12 pairs: (\d+) seeds \((\d+) to (\d+)\)",
            line,
        )
        assert match is not None, line
        most, low, high = map(int, match.groups())
        assert low < most < high
        needed[contrast.variant] = most
    assert last.startswith(f"  in all: {max(needed.values())} seeds, {4 * max(needed.values())} trials, about ")
    assert last.endswith(" at 2 an hour")


def test_scatter_that_another_recipe_had_is_said_to_be_so() -> None:
    run_status = make_run(MemoryStore(), ("baseline", "se"), range(4), test_images=60)
    known = identity_of(run_status)
    recipe = dataclasses.replace(known.recipe, resample_split=True, precision="bfloat16")
    _, line, *_ = plan_lines(Target(1.5, 0.8), run_status, None, dataclasses.replace(known, recipe=recipe))
    assert line.startswith("  its recipe was another (resample_split: False → True), so ")


def test_a_sweep_that_may_stop_early_takes_fewer_seeds_on_average() -> None:
    run_status = make_run(MemoryStore(), ("baseline", "se"), range(12), test_images=300)
    _, line, _ = plan_lines(Target(1.5, 0.9, all_looks), run_status, None, identity_of(run_status))
    match = re.search(r": (\d+) seeds .*; with --until-decided (\d+) on average if .*, (\d+) if there is none", line)
    assert match is not None, line
    most, there, none = map(int, match.groups())
    assert 6 <= there < most
    assert 6 <= none <= most


def test_thousands_of_seeds_are_simulated_in_no_more_steps_than_dozens(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundredth of the effect of 60 seeds takes 10,000 times as many, and as large a share of them."""
    monkeypatch.setattr(power_plan, "SWEEPS", 10)
    shares = [
        [int(count) / most for count in re.findall(r"\d+", _with_looks(effect, most, 0.05, all_looks))]
        for effect, most in ((0.4, 60), (0.004, 600_000))
    ]
    assert shares[1] == pytest.approx(shares[0], abs=0.2)


def test_given_looks_are_as_far_into_a_sweep_that_is_simulated_with_fewer_pairs() -> None:
    """A large effect is decided at the first look, after 60 of 120 seeds; no effect is, too: it is as far from it."""
    line = _with_looks(3.0, 120, 0.05, lambda seeds: up_to(seeds, [60]))
    assert line == "with --until-decided 60 on average if there is this difference, 60 if there is none"


def test_the_looks_of_the_options_are_those_that_are_simulated(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["demo", "--store", "results/published", "--dry-run", "--detect", "0.2", "--scatter-of", "pets-frozen"]
    assert main([*arguments, "--until-decided", "--smallest-effect", "0.2", "--looks", "34"]) == 0
    ends = re.findall(
        r": (\d+) seeds .*; with --until-decided (\d+) on average if .*, (\d+) if", capsys.readouterr().out
    )
    assert ends == [("21", "21", "21"), ("34", "34", "34")], "no look before the last seed"


def test_a_run_of_one_variant_has_nothing_to_detect() -> None:
    run_status = make_run(MemoryStore(), ("se",), range(3))
    with pytest.raises(UserError, match=r"^--detect: run made has one variant, and nothing to compare it with$"):
        list(plan_lines(Target(1.0, 0.8), run_status, None, identity_of(run_status)))


def test_a_run_named_for_its_scatter_that_is_not_there_is_named(tmp_path: Path) -> None:
    arguments = ["demo", "--store", str(tmp_path), "--dry-run", "--detect", "0.2", "--scatter-of", "nothere"]
    with pytest.raises(UserError, match=r"^--scatter-of nothere: there is no such run in "):
        main(arguments)


def test_a_pilot_that_was_lost_leaves_the_run_itself_alone() -> None:
    assert parse_options(["demo", "--pilot", "3"]).run_name == "demo-pilot", "what is recovered"


def test_a_run_without_pairs_needs_a_pilot() -> None:
    run_status = make_run(MemoryStore(), ("baseline", "se"), range(1))
    assert list(plan_lines(Target(1.0, 0.8), run_status, None, identity_of(run_status)))[1:] == [
        "  se − baseline: fewer than two pairs, or all alike; run a pilot: --pilot 5"
    ]


def test_without_a_run_there_is_a_table_by_scatter() -> None:
    first, *lines = any_scatter_lines(Target(0.2, 0.8), contrasts=3)
    assert first.endswith("is known after a pilot: --pilot 5")
    assert "  0.50 points: 52 seeds for the primary contrast, 62 for each of 2 others" in lines


def test_the_dry_run_takes_the_scatter_of_a_pilot_or_of_the_run_named(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["demo", "--store", "results/published", "--dry-run", "--detect", "0.2"]
    assert main(arguments) == 0
    assert "by the paired differences of run demo" in capsys.readouterr().out
    assert main([*arguments, "--scatter-of", "pets-frozen"]) == 0
    assert "  in all: 34 seeds, 102 trials, about 0.3 hours if trials run one by one" in capsys.readouterr().out


def test_a_pilot_is_a_run_of_its_own_with_seeds_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--pilot", "3", "--print-config"]) == 0
    printed = capsys.readouterr().out
    assert "run: demo-pilot\n" in printed
    assert f"seeds: {PILOT_SEED}-{PILOT_SEED + 2}\n" in printed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--detect", "0.2"], "--detect 0.2: must be a number of points above 0, with --dry-run"),
        (["--detect", "0", "--dry-run"], "--detect 0.0: must be"),
        (["--power", "1"], "--power 1.0: must be above 0.05 and below 1"),
        (["--scatter-of", "demo"], "--scatter-of: needs --detect"),
        (["--detect", "1", "--dry-run", "--variants", "se"], "--detect: needs two variants to compare"),
        (["--pilot", "1"], "--pilot 1: must be from 2 to 1000 seeds"),
        (["--pilot", "5", "--until-decided", "--smallest-effect", "1"], "--pilot: leave out --until-decided"),
    ],
)
def test_mistakes_are_named(options: list[str], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        parse_options(["demo", *options])
