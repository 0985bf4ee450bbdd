"""The plan of a run: it survives its file, grows by what is asked for, and refuses another recipe."""

import dataclasses
import re

import pytest

from catdog.config.presets import PRESETS
from catdog.config.recipe import Recipe
from catdog.config.sweep_options import SweepConfig
from catdog.config.variants import parse_variant
from catdog.errors import UserError
from catdog.runs.manifest import Identity, Manifest, result_format
from catdog.sweep.plan import extend_manifest
from tests.helpers.hand_made_run import EIGHT, MANIFEST


def test_a_manifest_survives_json_and_grows_by_union() -> None:
    assert Manifest.from_json(MANIFEST.to_json()) == MANIFEST
    grown = MANIFEST.extended(("se", "baseline"), (1, 7), ("more",))
    assert grown.variants == ("baseline", EIGHT, "attention", "se")
    assert grown.seeds == {"baseline": (0, 1, 2, 7), EIGHT: (0, 1, 2, 3), "attention": (0, 1), "se": (1, 7)}
    assert [(trial.variant.label, trial.seed) for trial in grown.planned()][:4] == [
        ("baseline", seed) for seed in (0, 1, 2, 7)
    ]
    assert grown.extended((), (), ("more",)) == grown


def test_the_setting_names_weights_only_where_the_backbone_does_not() -> None:
    def setting(**fields: object) -> str:
        identity = dataclasses.replace(MANIFEST.identity, recipe=Recipe(precision="float32", **fields))  # type: ignore[arg-type]
        return dataclasses.replace(MANIFEST, identity=identity).setting

    assert ", timm/tf_efficientnet_lite0 (pretrained, frozen), " in setting(
        backbone="timm/tf_efficientnet_lite0", weights="lite0", freeze=True
    )
    assert ", resnet34 (imagenet), " in setting(backbone="resnet34", weights="imagenet")
    assert ", tiny (from scratch), " in setting(backbone="tiny", weights="none")


def test_the_setting_tells_of_images_that_are_left_out() -> None:
    recipe = Recipe(precision="float32", backbone="tiny", weights="none", train_images_per_class=5, limit_images=100)
    few = dataclasses.replace(MANIFEST, identity=dataclasses.replace(MANIFEST.identity, recipe=recipe)).setting
    assert ", 5 training images of each breed, at most 100 images of each split, tiny (from scratch), " in few


def sweep_of(**fields: object) -> SweepConfig:
    recipe = Recipe(precision="float32")
    return dataclasses.replace(PRESETS["demo"], run="night", recipe=recipe, **fields)  # type: ignore[arg-type]


def test_asking_for_more_extends_a_run_and_asking_for_less_removes_nothing() -> None:
    identity = MANIFEST.identity
    first = extend_manifest(None, sweep_of(variants=("baseline",), seeds="2"), identity, ("first",))
    assert (first.variants, first.seeds) == (("baseline",), {"baseline": (0, 1)})
    assert first.versions["torch"]
    more = extend_manifest(first, sweep_of(variants=("se", "baseline"), seeds="1-3"), identity, ("second",))
    assert more.seeds == {"baseline": (0, 1, 2, 3), "se": (1, 2, 3)}
    assert more.variants == ("baseline", "se")
    less = extend_manifest(more, sweep_of(variants=("baseline",), seeds="1"), identity, ("third",))
    assert (less.variants, less.seeds) == (more.variants, more.seeds)
    assert less.commands == (("first",), ("second",), ("third",))
    assert extend_manifest(less, sweep_of(), identity, ("second",)).commands == less.commands


def test_a_run_gets_further_second_tasks_but_no_other_labels_of_one_that_it_has() -> None:
    plain, species, other = (
        dataclasses.replace(MANIFEST.identity, groups=groups) for groups in ({}, {"species": "a"}, {"species": "b"})
    )
    spec, task = MANIFEST.spec("baseline"), parse_variant("multi-task")
    assert plain.trial_hash(spec, 0) == species.trial_hash(spec, 0)
    assert species.trial_hash(task, 0) != other.trial_hash(task, 0)
    first = extend_manifest(None, sweep_of(variants=("baseline",), seeds="2"), plain, ())
    grown = extend_manifest(first, sweep_of(variants=("multi-task",), seeds="2"), species, ())
    assert Manifest.from_json(grown.to_json()).identity.groups == {"species": "a"}
    assert extend_manifest(grown, sweep_of(variants=("se",), seeds="2"), plain, ()).identity.groups == {"species": "a"}
    with pytest.raises(UserError, match=r"exists with another recipe \(the labels of species changed: a → b"):
        extend_manifest(grown, sweep_of(variants=("multi-task",), seeds="2"), other, ())


def test_short_labels_are_kept_and_name_one_variant_each() -> None:
    identity = MANIFEST.identity
    first = extend_manifest(None, sweep_of(variants=("baseline", f"eight={EIGHT}"), seeds="2"), identity, ())
    assert (first.variants, first.short_labels) == (("baseline", EIGHT), {EIGHT: "eight"})
    assert Manifest.from_json(first.to_json()) == first
    assert first.spec("eight") == first.spec(EIGHT)
    assert [trial.name for trial in first.planned()][1:3] == ["baseline seed 1", "eight seed 0"]
    plain = extend_manifest(None, sweep_of(variants=("baseline", EIGHT), seeds="2"), identity, ())
    assert plain.planned() == first.planned()
    hashes = [identity.trial_hash(trial.variant, trial.seed) for trial in first.planned()]
    assert hashes == [identity.trial_hash(trial.variant, trial.seed) for trial in plain.planned()]
    assert [t.variant.folder for t in first.planned()] == [t.variant.folder for t in plain.planned()]
    more = extend_manifest(first, sweep_of(variants=("wide=baseline", "se"), seeds="1"), identity, ())
    assert more.short_labels == {EIGHT: "eight", "baseline": "wide"}
    with pytest.raises(UserError, match=r"^--variants: 'eight' would name .*se.*; choose another"):
        extend_manifest(first, sweep_of(variants=("eight=se",), seeds="1"), identity, ())


def test_a_variant_with_settings_may_be_called_by_its_head_if_no_other_variant_is() -> None:
    def planned(existing: Manifest | None, *variants: str) -> Manifest:
        return extend_manifest(existing, sweep_of(variants=variants, seeds="1"), MANIFEST.identity, ())

    tuned = planned(None, "baseline", "se=se:learning_rate=0.5")
    assert tuned.spec("se").label == "se:learning_rate=0.5"
    for first, then in [(tuned, "se"), (planned(None, "baseline", "se"), "se=se:learning_rate=0.5")]:
        with pytest.raises(UserError, match="'se' would name"):
            planned(first, "baseline", then)
    with pytest.raises(UserError, match="another variant's name"):
        planned(None, "baseline", "se=attention")


@pytest.mark.parametrize("short_labels", [{"se": "x"}, {"baseline": "se"}, {"baseline": "<b>"}, {"baseline": ""}])
def test_a_manifest_with_odd_short_labels_cannot_be_used(short_labels: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="short label"):
        Manifest.from_json(dataclasses.replace(MANIFEST, short_labels=short_labels).to_json())


def test_another_recipe_under_the_same_name_is_refused_with_the_difference() -> None:
    other = dataclasses.replace(MANIFEST.identity, recipe=Recipe(precision="float32", epochs=3), threads=2)
    with pytest.raises(UserError, match=r"run 'night' exists with another recipe \(threads: 1 → 2; epochs: 10 → 3\)"):
        extend_manifest(MANIFEST, sweep_of(), other, ())


def test_recipes_whose_numbers_have_changed_have_a_higher_result_format() -> None:
    assert result_format(Recipe(weights="none")) == 3
    assert result_format(Recipe(freeze=True)) == 3
    assert result_format(Recipe(compile=True)) == 4
    assert result_format(Recipe()) == 5
    assert result_format(Recipe(weights="none", cutmix=1.0, compile=True)) == 5


def declared(existing: Manifest | None = None, **options: object) -> Manifest:
    identity = Identity(Recipe(precision="float32"), "0" * 16, None, 1)
    return extend_manifest(existing, sweep_of(**options), identity, ("python", "jobs/sweep.py"))


@pytest.mark.parametrize(
    ("labels", "reference", "primary"),
    [
        (("baseline", "attention", "multi-attention"), "baseline", "multi-attention"),
        (("se", "attention"), "se", "attention"),
        (("multi-attention", "attention"), "multi-attention", "attention"),
        (("se", "multi-attention", "baseline"), "baseline", "multi-attention"),
        (("baseline",), "baseline", None),
    ],
)
def test_without_options_the_labels_say_what_is_primary(
    labels: tuple[str, ...], reference: str, primary: str | None
) -> None:
    manifest = declared(variants=labels)
    assert (manifest.declaration.reference, manifest.declaration.primary) == (reference, primary)
    earlier = dataclasses.replace(manifest, declared=())
    assert earlier.declaration == dataclasses.replace(manifest.declaration, declared_at=None)
    assert earlier.declared_lines[0].startswith("Nothing was declared; the variants' names make it primary contrast ")


def test_the_first_launch_declares_and_a_later_one_keeps_or_changes_it_visibly() -> None:
    first = declared(variants=("baseline", "small=se:reduction=8"), smallest_effect=0.2)
    assert first.declaration.primary == "se:reduction=8"
    more = declared(first, variants=("multi-attention",))
    assert more.declared == first.declared, "a later multi-attention does not become primary"
    assert more.declared_lines == [
        "Declared before the first trial: primary contrast se:reduction=8 − baseline, smallest effect that matters "
        "0.20 points."
    ]
    changed = declared(more, variants=("multi-attention",), primary="multi-attention", reference="small")
    assert [(one.reference, one.primary, one.smallest_effect) for one in changed.declared] == [
        ("baseline", "se:reduction=8", 0.2),
        ("se:reduction=8", "multi-attention", 0.2),
    ]
    assert changed.declared_lines[1].startswith("Changed on 20")
    assert declared(changed, variants=("baseline",)).declared == changed.declared
    assert Manifest.from_json(changed.to_json()) == changed


def test_a_run_of_an_earlier_version_is_declared_when_it_is_extended() -> None:
    earlier = dataclasses.replace(declared(variants=("attention", "se")), declared=())
    extended = declared(earlier, variants=("baseline", "multi-attention"))
    assert (extended.declaration.reference, extended.declaration.primary) == ("attention", "se")
    assert extended.declared_lines[0].startswith("Declared on 20")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"primary": "baseline"}, "--primary baseline: is the reference: choose another variant, or a --reference"),
        ({"primary": "cbam"}, "--primary cbam: is no variant of run 'night': choose from baseline, se"),
        ({"reference": "eca"}, "--reference eca: is no variant of run 'night'"),
        ({"reference": "nonsense"}, "--reference nonsense: is no variant of run 'night': choose from baseline, se"),
    ],
)
def test_what_is_declared_must_be_of_the_run(options: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        declared(variants=("baseline", "se"), **options)
    with pytest.raises(UserError, match=r"--smallest-effect 0.0: must be a number of points above 0"):
        sweep_of(smallest_effect=0.0)


def test_a_manifest_that_declares_what_it_does_not_plan_is_damaged() -> None:
    manifest = declared(variants=("baseline", "se"))
    for wrong in ({"primary": "baseline"}, {"reference": "gone"}, {"smallest_effect": -1.0}):
        damaged = dataclasses.replace(
            manifest,
            declared=(dataclasses.replace(manifest.declaration, **wrong),),  # type: ignore[arg-type]
        )
        with pytest.raises(ValueError, match=r"declared|smallest effect"):
            Manifest.from_json(damaged.to_json())
