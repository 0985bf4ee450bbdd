"""Labels of variants: `NAME` or `NAME:parameter=value,...`, as in `multi-attention:num_masks=8,lambda_divergence=0.1`.

Each variant has one canonical label: it lists only the parameters that differ from their defaults, in declared order,
each as its shortest number. A short label in front (`eight=multi-attention:num_masks=8`) is what tables call it; files
and hashes do not depend on it.
"""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from catdog.config.head_registry import Number, Variant, known_heads, load_installed_head
from catdog.errors import UserError
from catdog.formatting import shorten


@dataclass(frozen=True)
class VariantSpec:
    """A variant with all its parameters resolved."""

    label: str
    name: str
    head: str
    arguments: Mapping[str, Number | str] = field(hash=False)
    short_label: str | None = field(default=None, compare=False)

    @property
    def title(self) -> str:
        """Return what tables call the variant."""
        return self.short_label or self.label

    @property
    def folder(self) -> str:
        """Return the label as a folder name."""
        return self.label.replace(":", "__")


def parse_variant(
    text: str, defaults: Mapping[str, Number] | None = None, heads: Mapping[str, Variant] | None = None
) -> VariantSpec:
    """Resolve a label, with or without a short one; `defaults` are those that the recipe sets (`lambda_divergence`).

    `heads` are those that labels may name: by default all that this process knows or finds installed.

    Raises `UserError` for an unknown variant or parameter (listing the valid names), for a value out of range, and for
    a label that describes the same model as a simpler label of another variant.
    """
    defaults = defaults or {}
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
    given: dict[str, Number] = {}
    parameters = {parameter.name: parameter for parameter in variant.parameters}
    for item in listing.split(",") if listing else []:
        key, _, value = item.partition("=")
        if key not in parameters:
            raise UserError(f"variant {text!r}: unknown parameter {key!r}; {name} has {', '.join(parameters)}")
        if key in given:
            raise UserError(f"variant {text!r}: {key} is given twice; keep one")
        given[key] = parameters[key].parse(value, text)
    spec = _resolve(variant, given, defaults)
    for other in heads.values():
        twin = _as_variant(spec, other, defaults)
        if twin is not None and twin.label.count("=") < spec.label.count("="):
            raise UserError(f"variant {text!r} is the same model as {twin.label!r}: use that name")
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
    if short_label in known_heads():
        raise UserError(f"short label {short_label!r} of variant {label!r}: is a variant's name; choose another")
    return short_label, label


def parse_variants(texts: tuple[str, ...], defaults: Mapping[str, Number] | None = None) -> tuple[VariantSpec, ...]:
    """Resolve a list of labels; raises `UserError` if it is empty or names a model, or a short label, twice."""
    if not texts:
        raise UserError(f"no variants: name at least one of {', '.join(known_heads())}")
    specs: dict[str, VariantSpec] = {}
    for text in texts:
        spec = parse_variant(text, defaults)
        if spec.label in specs:
            raise UserError(f"variant {text!r} is listed twice (its label is {spec.label!r}); name it once")
        if spec.title in (other.title for other in specs.values()):
            raise UserError(f"variant {text!r}: its short label is taken; choose another")
        specs[spec.label] = spec
    return tuple(specs.values())


def format_number(value: Number) -> str:
    """Return the shortest text that reads back as `value`: 0.1, 8, 1e-05 as 1e-5."""
    if isinstance(value, int) or value == int(value):
        return str(int(value))
    mantissa, _, exponent = repr(value).partition("e")
    return f"{mantissa}e{int(exponent)}" if exponent else mantissa


def _resolve(variant: Variant, given: Mapping[str, Number], defaults: Mapping[str, Number]) -> VariantSpec:
    values: dict[str, Number] = {}
    differing = []
    for parameter in variant.parameters:
        default = defaults.get(parameter.name, parameter.default)
        values[parameter.name] = given.get(parameter.name, default)
        if values[parameter.name] != default:
            differing.append(f"{parameter.name}={format_number(values[parameter.name])}")
    label = f"{variant.name}:{','.join(differing)}" if differing else variant.name
    return VariantSpec(label, variant.name, variant.head, {**variant.fixed, **values})


def _as_variant(spec: VariantSpec, other: Variant, defaults: Mapping[str, Number]) -> VariantSpec | None:
    """Return the spec of `other` that describes the same model as `spec`, or None if there is none."""
    names = {parameter.name for parameter in other.parameters}
    given = {key: value for key, value in spec.arguments.items() if key in names and not isinstance(value, str)}
    twin = _resolve(other, given, defaults)
    return twin if (twin.head, twin.arguments) == (spec.head, spec.arguments) else None
