"""Labels of variants: one canonical form each; a wrong label raises a helpful `UserError`."""

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catdog.config.head_registry import VARIANTS, Number
from catdog.config.recipe import Recipe
from catdog.config.variants import VariantSpec, format_number, multiply_out, parse_variant, parse_variants
from catdog.errors import UserError
from catdog.runs.manifest import Identity


@st.composite
def labels(draw: st.DrawFn) -> str:
    """Legal labels with parameters in any order and numbers in any notation that round-trips."""
    variant = VARIANTS[draw(st.sampled_from(list(VARIANTS)))]
    items = []
    for parameter in draw(st.permutations(variant.parameters)):
        value: Number
        if isinstance(parameter.default, str):
            texts = list(parameter.choices) or ["one", "one+two", "two+one"]
            if variant.name == "multi-attention-free":
                texts.remove("untrained")  # that is another variant's name
        elif isinstance(parameter.default, int):
            value = draw(st.integers(int(parameter.minimum), int(parameter.maximum)))
            texts = [str(value), f"{value:06d}", f"+{value}"]
        else:
            top = 1.0 if parameter.below_one else min(parameter.maximum, 1e6)
            value = draw(st.floats(parameter.minimum, top, exclude_max=True))
            texts = [repr(value), f"{value:.17e}", f"0{value!r}"]
            if parameter.name == "lambda_divergence" and value == 0:
                continue  # that is another variant's name
        if draw(st.booleans()):
            items.append(f"{parameter.name}={draw(st.sampled_from(texts))}")
    return f"{variant.name}:{','.join(items)}" if items else variant.name


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("multi-attention:lambda_divergence=0,divergence=mean", "multi-attention-free"),
        ("multi-attention-free:masks=untrained", "multi-attention-fixed"),
        ("multi-attention:lambda_divergence=0,masks=untrained", "multi-attention-fixed"),
        ("multi-attention:lambda_divergence=0,masks=flat", "multi-attention-free:masks=flat"),
    ],
)
def test_a_label_of_later_parameters_has_the_shortest_name(text: str, name: str) -> None:
    with pytest.raises(UserError, match=f"is the same model as '{name}': use that name"):
        parse_variant(text)
    assert parse_variant(name).label == name


def test_a_parameter_with_choices_lists_them() -> None:
    assert parse_variant("attention:masks=flat").arguments["masks"] == "flat"
    with pytest.raises(UserError, match="masks=flt: choose from trained, untrained, swapped, flat"):
        parse_variant("attention:masks=flt")


def test_a_later_parameter_at_its_default_changes_neither_label_nor_arguments() -> None:
    assert parse_variant("attention:masks=trained") == parse_variant("attention")
    assert set(parse_variant("attention").arguments) == {"activation", "dropout"}


PIECES = [
    *VARIANTS,
    ":",
    "=",
    ",",
    "num_masks",
    "dropout",
    "lambda_divergence",
    "0",
    "-1",
    "1e999",
    "nan",
    "9" * 400,
    "٣",
    " ",
]


@pytest.mark.parametrize("name", VARIANTS)
def test_the_name_of_a_variant_is_its_label(name: str) -> None:
    spec = parse_variant(name)
    assert (spec.label, spec.name, spec.folder) == (name, name, name)


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("baseline:dropout=0.5", "baseline"),
        ("multi-attention:num_masks=4", "multi-attention"),
        (
            "multi-attention:lambda_divergence=0.10,num_masks=8",
            "multi-attention:num_masks=8,lambda_divergence=0.1",
        ),
        ("multi-attention:dropout=.2,num_masks=+2", "multi-attention:num_masks=2,dropout=0.2"),
        ("multi-attention:lambda_divergence=1e-05", "multi-attention:lambda_divergence=1e-5"),
        ("multi-attention:lambda_divergence=2.0", "multi-attention:lambda_divergence=2"),
        ("multi-attention:lambda_divergence=1E3", "multi-attention:lambda_divergence=1000"),
        ("se:reduction=008", "se:reduction=8"),
        ("attention:dropout=0", "attention:dropout=0"),
        ("attention:dropout=-0.0", "attention:dropout=0"),
        ("cbam:stages=layer4+layer3", "cbam:stages=layer3+layer4"),
        ("cbam:stages=features.10+features.3", "cbam:stages=features.3+features.10"),
    ],
)
def test_a_label_lists_changed_parameters_in_declared_order_in_their_shortest_form(text: str, label: str) -> None:
    assert parse_variant(text).label == label
    assert parse_variant(text) == parse_variant(label)


def test_the_order_of_places_is_neither_in_the_hash_nor_in_the_list_of_variants() -> None:
    identity = Identity(Recipe(precision="float32"), "0" * 16, None, 1)
    texts = [f"stage-attention:stages={stages}" for stages in ("layer4+layer2+layer3", "layer2+layer3+layer4")]
    assert len({identity.trial_hash(parse_variant(text), 0) for text in texts}) == 1
    with pytest.raises(
        UserError, match=r"is listed twice \(its label is 'stage-attention:stages=layer2\+layer3\+layer4'"
    ):
        parse_variants(texts)
    with pytest.raises(UserError, match=r"stages=layer3\+layer3: layer3 is named twice; keep one"):
        parse_variant("cbam:stages=layer3+layer3")


def test_the_recipe_sets_the_default_weight_of_the_divergence_loss() -> None:
    defaults = Recipe(lambda_divergence=1e-4)
    plain = parse_variant("multi-attention", defaults)
    assert plain.arguments["lambda_divergence"] == 1e-4
    assert parse_variant("multi-attention:lambda_divergence=0.0001", defaults) == plain
    assert (
        parse_variant("multi-attention:lambda_divergence=0.001", defaults).label
        == "multi-attention:lambda_divergence=0.001"
    )


@given(labels())
def test_a_canonical_label_parses_to_itself(text: str) -> None:
    spec = parse_variant(text)
    again = parse_variant(spec.label)
    assert again == spec
    assert repr(dict(again.arguments)) == repr(dict(spec.arguments))  # -0.0 would hash differently from 0.0


@given(labels(), st.data())
def test_the_order_of_parameters_does_not_matter(text: str, data: st.DataObject) -> None:
    name, colon, listing = text.partition(":")
    shuffled = data.draw(st.permutations(listing.split(",")))
    assert parse_variant(f"{name}{colon}{','.join(shuffled)}") == parse_variant(text)


@given(labels(), labels())
def test_labels_are_equal_only_for_the_same_model(first: str, second: str) -> None:
    a, b = parse_variant(first), parse_variant(second)
    assert (a.label == b.label) == ((a.name, a.arguments) == (b.name, b.arguments))


@given(labels())
def test_the_folder_of_a_variant_is_a_valid_name_on_any_file_system(text: str) -> None:
    folder = parse_variant(text).folder
    assert ":" not in folder
    assert "/" not in folder
    assert len(folder) <= 200


@given(st.one_of(st.text(), st.lists(st.sampled_from(PIECES), max_size=12).map("".join)))
def test_any_text_gives_a_variant_or_a_user_error(text: str) -> None:
    try:
        spec = parse_variant(text)
    except UserError:
        return
    assert parse_variant(spec.label) == spec
    assert "/" not in spec.folder
    assert not spec.folder.startswith(".")


@pytest.mark.parametrize(
    "parameters", ["lambda_divergence=0", "lambda_divergence=-0.0", "num_masks=8,lambda_divergence=0"]
)
def test_a_label_equivalent_to_another_variant_is_rejected_as_a_duplicate(parameters: str) -> None:
    twin = "multi-attention-free:num_masks=8" if "8" in parameters else "multi-attention-free"
    with pytest.raises(UserError, match=f"same model as '{twin}'"):
        parse_variant(f"multi-attention:{parameters}")


def test_listing_the_same_model_twice_is_rejected() -> None:
    assert [spec.label for spec in parse_variants(("se", "baseline"))] == ["se", "baseline"]
    with pytest.raises(UserError, match=r"'multi-attention:num_masks=4' is listed twice .*; name it once"):
        parse_variants(("baseline", "multi-attention", "multi-attention:num_masks=4"))
    with pytest.raises(UserError, match="name at least one of baseline, attention"):
        parse_variants(())


@pytest.mark.parametrize(
    ("text", "label", "settings"),
    [
        ("multi-task", "multi-task", {"second_task": "species"}),
        ("multi-task:second_task=species", "multi-task", {"second_task": "species"}),
        ("multi-task:second_task=sex", "multi-task:second_task=sex", {"second_task": "sex"}),
        (
            "multi-task:second_task_weight=0.5",
            "multi-task:second_task_weight=0.5",
            {"second_task": "species", "second_task_weight": 0.5},
        ),
        ("attention:second_task=species", "attention:second_task=species", {"second_task": "species"}),
    ],
)
def test_a_name_may_imply_settings_that_its_label_changes(text: str, label: str, settings: dict[str, object]) -> None:
    spec = parse_variant(text)
    assert (spec.label, spec.settings) == (label, settings)
    assert multiply_out(("multi-task",), ("second_task=species,sex",)) == (
        "multi-task:second_task=species",
        "multi-task:second_task=sex",
    )


def test_settings_that_make_a_variant_another_one_are_told_its_name() -> None:
    for text, twin in (
        ("baseline:second_task=species", "multi-task"),
        ("baseline:second_task=species,dropout=0.1", "multi-task:dropout=0.1"),
        ("multi-task:second_task=none", "baseline"),
    ):
        with pytest.raises(UserError, match=f"is the same model as '{twin}': use that name"):
            parse_variant(text)
    both = Recipe(second_task="species")
    assert parse_variant("multi-task", both).settings == parse_variant("baseline", both).settings == {}
    with pytest.raises(UserError, match="'multi-task' is the same model as 'baseline': name one of them"):
        parse_variants(("baseline", "multi-task"), both)
    with pytest.raises(UserError, match="'multi-task:second_task=sex' is the same model as 'baseline:second_task=sex'"):
        parse_variants(("baseline:second_task=sex", "multi-task:second_task=sex"))


def test_a_weight_without_a_second_task_has_no_effect_and_is_refused() -> None:
    with pytest.raises(UserError, match=r"second_task_weight 2\.0: has no effect without second_task"):
        parse_variant("baseline:second_task_weight=2")
    assert parse_variant("baseline", Recipe(second_task="sex", second_task_weight=2.0)).label == "baseline"


@pytest.mark.parametrize(
    "text", ["", "attentoin", "Baseline", " baseline", "multi-attention_free", "multi-attention\n"]
)
def test_an_unknown_variant_lists_the_legal_names(text: str) -> None:
    with pytest.raises(UserError) as error:
        parse_variant(text)
    assert all(name in str(error.value) for name in VARIANTS)


@pytest.mark.parametrize(
    "text", ["multi-attention:mask=8", "multi-attention:NUM_MASKS=8", "multi-attention:num_masks=8,"]
)
def test_an_unknown_parameter_lists_the_legal_ones(text: str) -> None:
    unknown = text.partition(":")[2].split(",")[-1].partition("=")[0]
    with pytest.raises(UserError, match=f" {unknown!r}; .* has num_masks, lambda_divergence, hidden_features, dropout"):
        parse_variant(text)


RANGES = {"num_masks": "[1, 1024]", "lambda_divergence": "[0, 1000000]", "hidden_features": "[1, 65536]",
          "dropout": "[0, 1)", "reduction": "[1, 65536]"}  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        "multi-attention:num_masks=0",
        "multi-attention:num_masks=-1",
        "multi-attention:num_masks=4.0",
        "multi-attention:num_masks=1e1",
        "multi-attention:num_masks=",
        "multi-attention:num_masks",
        f"multi-attention:num_masks={'9' * 400}",
        f"multi-attention:num_masks={'9' * 5000}",
        "multi-attention:lambda_divergence=-0.1",
        "multi-attention:lambda_divergence=nan",
        "multi-attention:lambda_divergence=inf",
        "multi-attention:lambda_divergence=1e300",
        "multi-attention:hidden_features=0",
        "attention:dropout=1.5",
        "attention:dropout=1",
        "attention:dropout=-0.1",
        "attention:dropout=nan",
        "se:reduction=0",
    ],
)
def test_a_value_out_of_range_is_rejected_with_its_name(text: str) -> None:
    name = text.partition(":")[2].partition("=")[0]
    with pytest.raises(UserError, match=rf"{name}=.* is (outside|not an integer in) {re.escape(RANGES[name])}$"):
        parse_variant(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("baseline:", "'baseline:': nothing follows the colon; add parameter=value"),
        ("baseline:dropout=0.1,dropout=0.2", "dropout is given twice; keep one"),
        ("multi-attention-free:lambda_divergence=0", "multi-attention alone"),
    ],
)
def test_other_malformed_labels_are_rejected(text: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        parse_variant(text)


@given(st.one_of(st.integers(0, 10**6), st.floats(0, 1e6)))
def test_a_formatted_number_reads_back_as_itself(value: Number) -> None:
    text = format_number(value)
    assert float(text) == value
    assert len(text) <= len(repr(value))
    assert math.isfinite(float(text))


def test_parameters_fixed_by_the_name_are_among_the_arguments_of_the_head() -> None:
    free, fixed = (parse_variant(f"multi-attention-{kind}") for kind in ("free", "fixed"))
    assert free.arguments["lambda_divergence"] == fixed.arguments["lambda_divergence"] == 0
    assert fixed.arguments["train_masks"] is False
    assert "train_masks" not in free.arguments
    assert isinstance(free, VariantSpec)


@pytest.mark.parametrize(
    ("text", "label", "settings"),
    [
        ("baseline:label_smoothing=.10", "baseline:label_smoothing=0.1", {"label_smoothing": 0.1}),
        ("baseline:label_smoothing=0", "baseline", {}),
        ("baseline:label_smoothing=-0.0,epochs=010", "baseline", {}),
        ("attention:backbone=resnet50", "attention:backbone=resnet50", {"backbone": "resnet50"}),
        (
            "multi-attention:flip=false,image_size=288,num_masks=8",
            "multi-attention:num_masks=8,image_size=288,flip=false",
            {"flip": False, "image_size": 288},
        ),
        ("se:gradient_clip=1.0", "se:gradient_clip=1", {"gradient_clip": 1.0}),
        ("se:gradient_clip=none", "se", {}),
        (
            "se:vary=init,precision=bfloat16",
            "se:precision=bfloat16,vary=init",
            {"precision": "bfloat16", "vary": "init"},
        ),
    ],
)
def test_any_setting_of_the_recipe_can_be_a_variant(text: str, label: str, settings: dict[str, object]) -> None:
    recipe = Recipe(precision="float32")
    spec = parse_variant(text, recipe)
    assert (spec.label, spec.settings) == (label, settings)
    assert parse_variant(label, recipe) == spec


def test_what_differs_is_said_against_the_recipe_of_the_run() -> None:
    recipe = Recipe(label_smoothing=0.1)
    assert parse_variant("baseline:label_smoothing=0.1", recipe).label == "baseline"
    assert parse_variant("baseline:label_smoothing=0", recipe).label == "baseline:label_smoothing=0"


def test_each_label_has_a_folder_of_its_own() -> None:
    label = "baseline:backbone=timm/resnet18,weights=none"
    assert parse_variant(label).label == label
    assert parse_variant(label).folder == "baseline__backbone=timm@resnet18,weights=none"


@pytest.mark.parametrize(
    ("text", "named", "recipe"),
    [
        ("baseline:split_seed=1", "no variant can change it: all trials of a seed share the split", Recipe()),
        ("baseline:resample_split=true", "no variant can change it: all trials of a seed share the split", Recipe()),
        ("baseline:vary=split", "vary: all trials of a seed share the split", Recipe()),
        ("baseline:vary=init", "resample_split: vary init already says", Recipe(resample_split=True)),
        ("baseline:dataset=drawn", "no variant can change it: all trials of a run share the images", Recipe()),
        ("baseline:probe_images=2", "no variant can change it", Recipe()),
        ("baseline:lambda_divergence=1", "parameter of multi-attention", Recipe()),
        ("baseline:label_smothing=0.1", "perhaps label_smoothing", Recipe()),
        ("multi-attention:num_mask=2", "perhaps num_masks", Recipe()),
        ("baseline:epochs=0", "'baseline:epochs=0': epochs 0: must be from 1 to 100000", Recipe()),
        ("baseline:label_smoothing=nan", "not a finite number", Recipe()),
        ("baseline:flip=yes", "neither true nor false", Recipe()),
        ("baseline:weights=/tmp/weights.pt", "choose from imagenet", Recipe()),
        ("baseline:backbone=a b", "use letters, digits", Recipe()),
        ("baseline:backbone=", "use letters, digits", Recipe()),
        ("baseline:backbone=tiny", "add weights none", Recipe()),
        ("baseline:precision=float32", "not auto", Recipe()),
        ("baseline:precision=auto", "not auto", Recipe(precision="float32")),
        ("baseline:crop_scale=0.5", "no effect with a frozen backbone", Recipe(freeze=True)),
        ("baseline:freeze=true,backbone_learning_rate=1", "no effect with a frozen backbone", Recipe()),
        (f"baseline:backbone={'x' * 300}", "has over 200 letters", Recipe()),
        (f"eca:stages={'+'.join(f'features.{i}' for i in range(20))}", "has over 200 letters", Recipe()),
    ],
)
def test_a_setting_that_no_variant_can_have_is_refused(text: str, named: str, recipe: Recipe) -> None:
    with pytest.raises(UserError, match=named) as caught:
        parse_variant(text, recipe)
    assert "--" not in str(caught.value) or "--precision" in str(caught.value)


def test_a_grid_multiplies_variants_by_all_combinations() -> None:
    labels = multiply_out(
        ("baseline", "eight=multi-attention:num_masks=8"), ("learning_rate=1e-3,2e-3", "backbone=a/b")
    )
    assert labels == (
        "baseline:learning_rate=1e-3,backbone=a/b",
        "baseline:learning_rate=2e-3,backbone=a/b",
        "eight 1e-3 a-b=multi-attention:num_masks=8,learning_rate=1e-3,backbone=a/b",
        "eight 2e-3 a-b=multi-attention:num_masks=8,learning_rate=2e-3,backbone=a/b",
    )
    assert [spec.label for spec in parse_variants(labels)][:2] == [
        "baseline:backbone=a/b,learning_rate=0.001",
        "baseline:backbone=a/b",
    ]
    assert multiply_out(("baseline", "e=se"), ()) == ("baseline", "e=se")


@pytest.mark.parametrize("axis", ["", "learning_rate", "learning_rate=", "learning_rate=1,", "=1"])
def test_a_grid_that_cannot_be_read_is_refused(axis: str) -> None:
    with pytest.raises(UserError, match=f"^--grid {axis}: give name=value,value"):
        multiply_out(("baseline",), (axis,))
