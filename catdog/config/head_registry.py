"""The heads that a sweep can name: `VARIANTS` lists each with its class, its parameters and what its name fixes.

This file does not import torch, so that typos are reported at once; `catdog.models.build_model` finds the head class by
its name. To add a head, write one class in catdog/models/heads/ and one line in `VARIANTS`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from catdog.config.recipe import parse_number
from catdog.errors import UserError

Number = int | float


@dataclass(frozen=True)
class Parameter:
    """A parameter of a head within [minimum, maximum], an integer if its default is one."""

    name: str
    default: Number
    minimum: Number = 0
    maximum: Number = math.inf
    below_one: bool = False

    def parse(self, text: str, label: str) -> Number:
        """Return the value; raises `UserError`, quoting the variant's `label`, if it is not a number in range."""
        kind, noun = (int, "an integer") if isinstance(self.default, int) else (float, "a number")
        try:
            value = parse_number(kind, text) + 0  # -0.0 is 0.0
        except ValueError:
            raise UserError(f"variant {label!r}: {self.name}={text} is not {noun} in {self.range_text()}") from None
        upper_ok = value < 1 if self.below_one else value <= self.maximum
        if not (self.minimum <= value < math.inf and upper_ok):
            raise UserError(f"variant {label!r}: {self.name}={text} is outside {self.range_text()}")
        return value

    def range_text(self) -> str:
        """Return the range of valid values as an interval."""
        if self.below_one:
            return f"[{self.minimum}, 1)"
        return f"[{self.minimum}, {self.maximum}]" if math.isfinite(self.maximum) else f"[{self.minimum}, ∞)"


DROPOUT = Parameter("dropout", 0.5, below_one=True)
NUM_MASKS = Parameter("num_masks", 4, minimum=1, maximum=1024)
HIDDEN = Parameter("hidden_features", 256, minimum=1, maximum=65536)
REDUCTION = Parameter("reduction", 16, minimum=1, maximum=65536)
LAMBDA = Parameter("lambda_divergence", 0.001, maximum=1_000_000)
"""The weight of the divergence loss. The recipe overrides its default, since the loss grows with the feature map."""


@dataclass(frozen=True)
class Variant:
    """A named model: its head class (`module.Class` in catdog.models.heads), parameters, and fixed arguments."""

    name: str
    head: str
    parameters: tuple[Parameter, ...]
    fixed: Mapping[str, Number | str] = field(default_factory=dict)


VARIANTS: dict[str, Variant] = {
    variant.name: variant
    for variant in (
        Variant("baseline", "pooled.PlainHead", (DROPOUT,)),
        Variant("attention", "attention.AttentionHead", (DROPOUT,), {"activation": "sigmoid"}),
        Variant("multi-attention", "attention.MultiAttentionHead", (NUM_MASKS, LAMBDA, HIDDEN, DROPOUT)),
        Variant("attention-relu", "attention.AttentionHead", (DROPOUT,), {"activation": "relu"}),
        Variant("attention-softmax", "attention.AttentionHead", (DROPOUT,), {"activation": "softmax"}),
        Variant("se", "pooled.SqueezeExcitationHead", (REDUCTION, DROPOUT)),
        Variant(
            "multi-attention-free",
            "attention.MultiAttentionHead",
            (NUM_MASKS, HIDDEN, DROPOUT),
            {"lambda_divergence": 0.0},
        ),
        Variant(
            "multi-attention-fixed",
            "attention.MultiAttentionHead",
            (NUM_MASKS, HIDDEN, DROPOUT),
            {"lambda_divergence": 0.0, "train_masks": False},
        ),
    )
}
