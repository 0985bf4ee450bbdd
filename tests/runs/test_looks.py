"""A run that may stop early plans what its next look needs, and does not change its question after a look."""

import dataclasses
import re

import pytest

from catdog.config.presets import PRESETS
from catdog.config.recipe import Recipe
from catdog.config.sweep_options import SweepConfig
from catdog.errors import UserError
from catdog.runs.looks import HOPELESS, UNDECIDED, Look, read_looks, store_look
from catdog.runs.manifest import Identity, Manifest
from catdog.storage import MemoryStore
from catdog.storage.serialization import to_json
from catdog.sweep.plan import extend_manifest

IDENTITY = Identity(Recipe(precision="float32"), "0" * 16, None, 1)
LABELS = ("baseline", "se", "eca")


def sweep(**options: object) -> SweepConfig:
    given = {"variants": LABELS, "seeds": "30", "smallest_effect": 0.2, "until_decided": True} | options
    return dataclasses.replace(PRESETS["demo"], recipe=IDENTITY.recipe, **given)  # type: ignore[arg-type]


def plan(existing: Manifest | None, *looks: Look, **options: object) -> Manifest:
    return extend_manifest(existing, sweep(**options), IDENTITY, ("python", "jobs/sweep.py"), None, looks)


def look(planned: int, **outcomes: str) -> Look:
    return Look(planned, dict.fromkeys(outcomes, tuple(range(planned))), outcomes, "2026-01-01T20:00:00.000+00:00")


def test_a_run_plans_the_seeds_of_its_next_look_for_what_is_undecided() -> None:
    first = plan(None)
    assert first.declaration.looks == (6, 9, 12, 15, 20, 25, 30)
    assert {label: len(seeds) for label, seeds in first.seeds.items()} == dict.fromkeys(LABELS, 6)
    assert plan(first).seeds == first.seeds, "the same command, run again before the look"
    second = plan(first, look(6, se=HOPELESS, eca=UNDECIDED))
    assert {label: len(seeds) for label, seeds in second.seeds.items()} == {"baseline": 9, "se": 6, "eca": 9}
    decided = plan(second, look(6, se=HOPELESS, eca=UNDECIDED), look(9, eca="better"))
    assert decided.seeds == second.seeds
    assert Manifest.from_json(decided.to_json()) == decided
    assert "looks after 6, 9, 12, 15, 20, 25, 30 seeds" in decided.declared_lines[0]


@pytest.mark.parametrize(
    ("seeds", "looks", "expected"),
    [
        ("30", "10,20", (10, 20, 30)), ("10-19", None, (6, 7, 8, 10)), ("100", None, (20, 30, 40, 50, 67, 83, 100)),
        ("5", None, (5,)), ("12", "15,20", (12,)),
    ],
)  # fmt: skip
def test_looks_are_at_planned_numbers_of_seeds(seeds: str, looks: str | None, expected: tuple[int, ...]) -> None:
    manifest = plan(None, seeds=seeds, looks=looks)
    assert manifest.declaration.looks == expected
    assert manifest.seeds["se"] == sweep(seeds=seeds).seed_list[: expected[0]]


def test_what_is_decided_does_not_change_after_a_look() -> None:
    first, taken = plan(None), look(6, se=UNDECIDED, eca=UNDECIDED)
    assert plan(first, smallest_effect=0.3).declaration.smallest_effect == 0.3, "before the first look"
    for changed in (
        {"smallest_effect": 0.3}, {"primary": "eca"}, {"reference": "se", "primary": "eca"}, {"seeds": "40"},
        {"looks": "10,20"}, {"variants": (*LABELS, "gem")}, {"variants": LABELS[:2]},
    ):  # fmt: skip
        with pytest.raises(UserError, match=r"^run 'demo' was looked at, and what it is to decide stays: give its own"):
            plan(first, taken, **changed)


def test_seeds_beyond_the_design_extend_the_run_but_not_what_it_decides() -> None:
    first, taken = plan(None), look(6, se="better", eca=HOPELESS)
    more = plan(first, taken, until_decided=False, smallest_effect=None, seeds="40")
    assert len(more.seeds["se"]) == 40
    assert more.declared == first.declared


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"smallest_effect": None},
            "--until-decided: needs --smallest-effect, the difference in points that is too small",
        ),
        ({"until_decided": False, "looks": "6"}, "--looks: needs --until-decided"),
        ({"looks": "12,6"}, "--looks 12,6: must be rising numbers of seeds from 2, such as 12,15,20"),
        ({"looks": "1,6"}, "--looks 1,6: must be rising numbers"),
        ({"looks": "six"}, "--looks six: must be rising numbers"),
    ],
)
def test_mistakes_in_looks_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        sweep(**options)


def test_looks_are_read_back_in_order_and_a_damaged_one_is_named() -> None:
    store, looks = MemoryStore(), [look(6, se=UNDECIDED), look(12, se="worse, equivalent")]
    for one in reversed(looks):
        store_look(store, "demo", one)
    assert read_looks(store, "demo", LABELS) == looks
    twice, many = {"se": (0, 1, 1)}, {"se": tuple(range(7))}
    for damaged in (
        b'{"planned": 6}', to_json(look(6, se="the best of all")), to_json(look(0, se=UNDECIDED)),
        to_json(look(6, se="equivalent, better")), to_json(look(9, se=UNDECIDED)), to_json(look(6, gem=UNDECIDED)),
        to_json(look(6)),
        *(to_json(dataclasses.replace(look(6, se=UNDECIDED), seeds=seeds)) for seeds in (twice, many)),
    ):  # fmt: skip
        store.put("demo/looks/00006.json", damaged)
        with pytest.raises(
            UserError, match=r"^demo/looks/00006.json is damaged .*: restore it, or choose another --run"
        ):
            read_looks(store, "demo", LABELS)


def test_a_look_that_does_not_follow_from_the_one_before_is_named() -> None:
    first, second = look(6, se=UNDECIDED, eca="better"), look(12, se=UNDECIDED)
    other_seeds = dataclasses.replace(second, seeds={"se": tuple(range(1, 12))})
    for later in (look(12, se=UNDECIDED, eca=UNDECIDED), look(12, eca=UNDECIDED), other_seeds):
        store = MemoryStore()
        for one in (first, later):
            store_look(store, "demo", one)
        with pytest.raises(UserError, match=r"^demo/looks/00012.json is damaged \(it does not follow from the look"):
            read_looks(store, "demo", LABELS)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"seeds": (*range(29), 0)}, "its planned seeds are listed twice, or beyond 0 to 999999999"),
        ({"seeds": (*range(29), -1)}, "its planned seeds are listed twice, or beyond"),
        ({"smallest_effect": 1e300}, "the smallest effect is 1e+300"),
    ],
)
def test_a_manifest_that_declares_what_no_launch_could_is_damaged(changed: dict[str, object], message: str) -> None:
    manifest = plan(None)
    declared = (dataclasses.replace(manifest.declaration, **changed),)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=re.escape(message)):
        Manifest.from_json(dataclasses.replace(manifest, declared=declared).to_json())


def test_a_manifest_with_looks_out_of_order_is_damaged() -> None:
    manifest = plan(None)
    for looks in ((9, 6, 30), (6, 9)):
        declared = (dataclasses.replace(manifest.declaration, looks=looks),)
        with pytest.raises(ValueError, match="its looks are not at rising numbers of its seeds"):
            Manifest.from_json(dataclasses.replace(manifest, declared=declared).to_json())
