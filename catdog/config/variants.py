"""Labels of variants: a head with any of its parameters and any setting of the recipe.

`multi-attention:num_masks=8,lambda_divergence=0.1` changes parameters, `baseline:label_smoothing=0.1,image_size=288`
settings. Each variant has one canonical label: it lists only what differs from the head's defaults and from the run's
recipe, parameters in declared order, then settings in the recipe's order, each as its shortest text. A name may imply
settings (`multi-task`: the second task species); a label gives others (`multi-task:second_task=sex`). A short label in
front (`eight=multi-attention:num_masks=8`) is what tables call it; files and hashes do not depend on it.
"""

import dataclasses
import difflib
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_type_hints

from catdog.config.head_registry import Number, Value, Variant, known_heads, load_installed_head
from catdog.config.recipe import (
    NAMED_WEIGHTS,
    SHARED_SETTINGS,
    UNUSED_IF_FROZEN,
    UNUSED_IF_MODULES_ONLY,
    Recipe,
    kinds_of,
    parse_value,
)
from catdog.errors import UserError
from catdog.formatting import shorten

Setting = Number | str | bool | None
MOST_LETTERS = 200
"""Of a label, which is the name of a folder, too."""
_HINTS: Mapping[str, Any] = get_type_hints(Recipe)
_OWN = [name for name in _HINTS if name not in SHARED_SETTINGS]
"""The settings that a variant may have of its own."""


@dataclass(frozen=True)
class VariantSpec:
    """A variant with all its parameters resolved."""

    label: str
    name: str
    head: str
    arguments: Mapping[str, Value] = field(hash=False)
    """Of the head's class; without later parameters at their defaults."""
    short_label: str | None = field(default=None, compare=False)
    settings: Mapping[str, Setting] = field(default_factory=dict, hash=False)
    """Where its recipe differs from the run's."""

    @property
    def title(self) -> str:
        """Return what tables call the variant."""
        return self.short_label or self.label

    @property
    def head_label(self) -> str:
        """Return the label without the recipe's settings: the name and the head's parameters."""
        items = filter(None, self.label.partition(":")[2].split(","))
        own = [item for item in items if item.partition("=")[0] not in self.settings]
        return f"{self.name}:{','.join(own)}" if own else self.name

    @property
    def model(self) -> tuple[object, ...]:
        """Return what two variants have in common if they are the same model under two names."""
        arguments = dict(self.arguments)
        if not arguments.pop("train_masks", True):
            arguments["masks"] = "untrained"
        if arguments.get("lambda_divergence") == 0:
            arguments.pop("divergence", None)
        return self.head, arguments, self.settings

    @property
    def folder(self) -> str:
        """Return the label as a folder name."""
        return self.label.replace(":", "__").replace("/", "@")


def parse_variant(text: str, recipe: Recipe | None = None, heads: Mapping[str, Variant] | None = None) -> VariantSpec:
    """Resolve a label, with or without a short one, in a run with this recipe.

    `heads` are those that labels may name: by default all that this process knows or finds installed.

    Raises `UserError` for an unknown variant, parameter or setting (listing the valid names), for a value out of range,
    for a setting that all variants share, and for a label that describes the same model as a simpler label of another
    variant.
    """
    recipe = recipe or Recipe()
    short_label, text = split_short_label(text)
    name, colon, listing = text.partition(":")
    if heads is None:
        if name not in known_heads():
            load_installed_head(name)
        heads = known_heads()
    if name not in heads:
        raise UserError(f"unknown variant {name!r}: choose from {', '.join(heads)}")
    variant = heads[name]
    if colon and not listing:
        raise UserError(f"variant {text!r}: nothing follows the colon; add parameter=value or leave it out")
    given: dict[str, Value] = {}
    settings: dict[str, Setting] = {}
    parameters = {parameter.name: parameter for parameter in variant.parameters}
    for item in listing.split(",") if listing else []:
        key, _, value = item.partition("=")
        if key in given or key in settings:
            raise UserError(f"variant {text!r}: {key} is given twice; keep one")
        if key in parameters:
            given[key] = parameters[key].parse(value, text)
        elif key in _HINTS:
            settings[key] = _parse_setting(text, key, value)
        else:
            raise UserError(
                f"variant {text!r}: unknown parameter or setting {shorten(key)!r}; perhaps "
                f"{difflib.get_close_matches(key, [*parameters, *_OWN], n=1, cutoff=0.0)[0]}; {name} has "
                f"{', '.join(parameters)}"
            )
    spec = _resolve(variant, given, recipe, settings)
    if len(spec.label) > MOST_LETTERS:
        raise UserError(f"variant {shorten(spec.label)!r}: its label has over {MOST_LETTERS} letters; change less")
    if spec.settings:
        _check_settings(spec.label, spec.settings, recipe)
    twins = [twin.label for other in heads.values() if (twin := _as_variant(spec, other, recipe)) is not None]
    shortest = min(twins, key=lambda label: label.count("="), default=spec.label)
    if shortest.count("=") < spec.label.count("="):
        raise UserError(f"variant {text!r} is the same model as {shortest!r}: use that name")
    return dataclasses.replace(spec, short_label=short_label)


def split_short_label(text: str) -> tuple[str | None, str]:
    """Return the short label, or None, and the label; raises `UserError` for a short label that tables cannot hold."""
    short_label, equals, label = text.partition("=")
    if not equals or ":" in short_label:
        return None, text
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9 ._+-]{0,39}", short_label) or short_label.endswith(" "):
        raise UserError(
            f"short label {shorten(short_label)!r} of variant {label!r}: use 1 to 40 letters, digits, spaces, "
            "'.', '_', '+' and '-', a letter or digit first"
        )
    if short_label in known_heads() and short_label != label.partition(":")[0]:
        raise UserError(f"short label {short_label!r} of variant {label!r}: is another variant's name; choose another")
    return short_label, label


def parse_variants(texts: Sequence[str], recipe: Recipe | None = None) -> tuple[VariantSpec, ...]:
    """Resolve a list of labels; raises `UserError` if it is empty or names a model, or a short label, twice."""
    if not texts:
        raise UserError(f"no variants: name at least one of {', '.join(known_heads())}")
    specs: dict[str, VariantSpec] = {}
    for text in texts:
        spec = parse_variant(text, recipe)
        if spec.label in specs:
            raise UserError(f"variant {text!r} is listed twice (its label is {spec.label!r}); name it once")
        if twin := next((other for other in specs.values() if other.model == spec.model), None):
            raise UserError(f"variant {text!r} is the same model as {twin.label!r}: name one of them")
        if spec.title in (other.title for other in specs.values()):
            raise UserError(f"variant {text!r}: its short label is taken; choose another")
        specs[spec.label] = spec
    return tuple(specs.values())


def multiply_out(texts: Sequence[str], grid: Sequence[str]) -> tuple[str, ...]:
    """Return the labels of all variants with all combinations of a grid's values; raises `UserError`.

    `grid` holds one `name=value,value,...` for each parameter or setting. A short label is followed by the values.
    """
    axes = []
    for text in grid:
        name, equals, values = text.partition("=")
        if not (name and equals and all(values.split(","))):
            raise UserError(f"--grid {shorten(text)}: give name=value,value,...")
        axes.append([(f"{name}={value}", value.replace("/", "-")) for value in values.split(",")])
    labels = []
    for text, point in itertools.product(texts, itertools.product(*axes)):
        short, label = split_short_label(text)
        items, values = ",".join(item for item, _ in point), " ".join(value for _, value in point)
        joined = f"{label}{',' if ':' in label else ':'}{items}" if point else label
        labels.append(joined if short is None else f"{short} {values}={joined}" if point else text)
    return tuple(labels)


def format_number(value: Number) -> str:
    """Return the shortest text that reads back as `value`: 0.1, 8, 1e-05 as 1e-5."""
    if isinstance(value, int) or value == int(value):
        return str(int(value))
    mantissa, _, exponent = repr(value).partition("e")
    return f"{mantissa}e{int(exponent)}" if exponent else mantissa


def _parse_setting(text: str, name: str, value: str) -> Setting:
    try:
        if name in SHARED_SETTINGS:
            raise ValueError(f"no variant can change it: {SHARED_SETTINGS[name]}")
        if value == "none" and type(None) in kinds_of(_HINTS[name]):
            return None
        parsed: Setting = parse_value(_HINTS[name], value)
        if name == "weights" and value not in NAMED_WEIGHTS:
            raise ValueError(f"{shorten(value)!r}: choose from {', '.join(NAMED_WEIGHTS)}")
        if isinstance(parsed, float) and not math.isfinite(parsed):
            raise ValueError(f"{shorten(value)!r} is not a finite number")
        if isinstance(parsed, str) and not re.fullmatch(r"[A-Za-z0-9_./-]+", parsed):
            raise ValueError(f"{shorten(parsed)!r}: use letters, digits, '_', '.', '-' and '/'")
    except ValueError as error:
        raise UserError(f"variant {text!r}: {name}: {error}") from None
    return parsed + 0.0 if isinstance(parsed, float) else parsed  # -0.0 is 0.0


def _check_settings(label: str, settings: Mapping[str, Setting], recipe: Recipe) -> None:
    """Raise `UserError` unless the recipe can be so for one variant."""
    if "precision" in settings and "auto" in (recipe.precision, settings["precision"]):
        raise UserError(f"variant {label!r}: precision: give --precision float32 or bfloat16, not auto, for the others")
    try:
        changed = recipe.changed(**settings)
    except UserError as error:
        raise UserError(f"variant {label!r}: {error}") from None
    if changed.resamples_split != recipe.resamples_split:
        raise UserError(f"variant {label!r}: vary: {SHARED_SETTINGS['resample_split']}")
    unused = UNUSED_IF_FROZEN if changed.freeze else UNUSED_IF_MODULES_ONLY if changed.train_modules_only else ()
    if without_effect := [name for name in unused if name in settings]:
        raise UserError(f"variant {label!r}: {without_effect[0]} has no effect with a frozen backbone; leave it out")


def _resolve(
    variant: Variant, given: Mapping[str, Value], recipe: Recipe, settings: Mapping[str, Setting]
) -> VariantSpec:
    values: dict[str, Value] = {}
    differing = []
    for parameter in variant.parameters:
        default = recipe.lambda_divergence if parameter.name == "lambda_divergence" else parameter.default
        value = given.get(parameter.name, default)
        if value != default:
            differing.append(f"{parameter.name}={_format_setting(value)}")
        if value != default or not parameter.later:
            values[parameter.name] = value
    usual = {**{name: getattr(recipe, name) for name in _HINTS}, **variant.settings}
    differing += [
        f"{name}={_format_setting(settings[name])}"
        for name in _HINTS
        if name in settings and settings[name] != usual[name]
    ]
    all_settings = {**usual, **settings}
    own = {name: all_settings[name] for name in _HINTS if all_settings[name] != getattr(recipe, name)}
    label = f"{variant.name}:{','.join(differing)}" if differing else variant.name
    return VariantSpec(label, variant.name, variant.head, {**variant.fixed, **values}, settings=own)


def _format_setting(value: Setting) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return format_number(value)
    return value if isinstance(value, str) else str(value).lower()


def _as_variant(spec: VariantSpec, other: Variant, recipe: Recipe) -> VariantSpec | None:
    """Return the spec of `other` that describes the same model as `spec`, or None if there is none."""
    names = {parameter.name for parameter in other.parameters}
    given = {key: value for key, value in spec.arguments.items() if key in names}
    twin = _resolve(other, given, recipe, spec.settings)
    return twin if twin.model == spec.model else None
