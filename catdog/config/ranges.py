"""Ranges to tune over: `learning_rate=1e-4..1e-2`, or the values of a choice, `schedule=one-cycle,cosine`."""

import dataclasses
import itertools
from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import get_type_hints

from catdog.config.head_registry import known_heads
from catdog.config.recipe import Recipe, kinds_of, parse_number
from catdog.config.variants import VariantSpec, format_number, parse_variant
from catdog.errors import UserError
from catdog.formatting import shorten

MOST_CHECKED = 5000
"""Combinations of the ranges' ends that are checked before anything runs."""
DIGITS = 3
"""Significant digits of a tried number: more would only lengthen the labels."""


@dataclass(frozen=True)
class Range:
    """The values that a setting of the recipe, or a parameter of all heads, may take."""

    name: str
    choices: tuple[str, ...] = ()
    """The values in words; none: a range of numbers."""
    low: float = 0.0
    high: float = 0.0
    is_integer: bool = False

    @property
    def is_logarithmic(self) -> bool:
        """Return whether numbers are drawn by their order of magnitude: if the range spans a factor of 10 or more."""
        return 0 < 10 * self.low <= self.high

    @property
    def text(self) -> str:
        """Return the range as a user writes it."""
        values = ",".join(self.choices) or f"{format_number(self.low)}..{format_number(self.high)}"
        return f"{self.name}={values}"

    def word(self, value: float | str) -> str:
        """Return a value in the range as it stands in a label."""
        if isinstance(value, str):
            return value
        rounded = round(value) if self.is_integer else float(f"{value:.{DIGITS}g}")
        return format_number(min(max(rounded, self.low), self.high))

    @property
    def ends(self) -> tuple[str, ...]:
        """Return the values that must be legal for all others to be."""
        return self.choices or (self.word(self.low), self.word(self.high))


def parse_ranges(texts: Sequence[str], specs: Sequence[VariantSpec], recipe: Recipe) -> tuple[Range, ...]:
    """Read ranges for these variants; none: learning rate and weight decay around the recipe's, by a factor of ten.

    Raises:
        UserError: a range cannot be read, or a variant cannot take its values.
    """
    integers = {
        one.name for spec in specs for one in known_heads()[spec.name].parameters if isinstance(one.default, int)
    } | {name for name, hint in get_type_hints(Recipe).items() if int in kinds_of(hint)}
    found = tuple(map(_parse, texts)) or _around(recipe, {name for spec in specs for name in spec.settings})
    ranges = tuple(dataclasses.replace(one, is_integer=one.name in integers) for one in found)
    if len({one.name for one in ranges}) < len(ranges):
        raise UserError("--ranges: a name is given twice; keep one")
    for spec in specs:
        for values in itertools.islice(itertools.product(*(one.ends for one in ranges)), MOST_CHECKED):
            try:
                parse_variant(with_values(spec, dict(zip((one.name for one in ranges), values, strict=True))), recipe)
            except UserError as error:
                raise UserError(f"--ranges: {error}") from None
    return ranges


def with_values(spec: VariantSpec, values: dict[str, str]) -> str:
    """Return the label of a variant with these values, too."""
    items = ",".join(f"{name}={value}" for name, value in values.items())
    return f"{spec.label}{',' if ':' in spec.label else ':'}{items}"


def _around(recipe: Recipe, taken: Container[str]) -> tuple[Range, ...]:
    trains_backbone = not (recipe.freeze or recipe.train_modules_only)
    names = ["learning_rate", "weight_decay", *(["backbone_learning_rate"] if trains_backbone else [])]
    values = {name: getattr(recipe, name) for name in names}
    found = {name: value for name, value in values.items() if value > 0 and name not in taken}
    return tuple(Range(name, low=value / 10, high=min(10 * value, 9.0)) for name, value in found.items())


def _parse(text: str) -> Range:
    name, equals, values = text.partition("=")
    low, dots, high = values.partition("..")
    if not (name and equals and all(values.split(","))):
        raise UserError(f"--ranges {shorten(text)}: give name=low..high, or name=value,value,...")
    if not dots:
        return Range(name, tuple(values.split(",")))
    try:
        numbers = Range(name, low=parse_number(float, low), high=parse_number(float, high))
    except ValueError as error:
        raise UserError(f"--ranges {shorten(text)}: {error}") from None
    if not -1e12 < numbers.low < numbers.high < 1e12:
        raise UserError(f"--ranges {shorten(text)}: {low} is not below {high}, or a bound makes no sense")
    return numbers
