"""The heads that a sweep can name: `VARIANTS` lists the package's, with class, parameters and what the name fixes.

This file does not import torch, so that typos are reported at once; `catdog.models.build_model` finds the head class by
its name. To add a head to the package, write one class in catdog/models/heads/ and one line in `VARIANTS`. Heads
outside the package are registered by `register_head`: in a file of the user's (`catdog.config.head_files`), or in an
installed package with an entry point of the group `catdog.heads`, named like the variant.
"""

import dataclasses
import importlib.metadata
import inspect
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from catdog.config.recipe import Recipe, parse_number
from catdog.errors import UserError, first_line
from catdog.formatting import shorten

Number = int | float
Value = Number | str
Head = TypeVar("Head", bound=type)


@dataclass(frozen=True)
class Parameter:
    """A parameter of a head: a number within [minimum, maximum], an integer if its default is one; or a text.

    A text is one of `choices`, or any names joined by '+' if there are none. The order of `stages` means nothing.
    """

    name: str
    default: Value
    minimum: Number = 0
    maximum: Number | None = None
    below_one: bool = False
    choices: tuple[str, ...] = ()
    later: bool = False
    """Whether the head's first version did not have it: its class has the same default, and a trial's hash does not
    depend on it there."""

    def parse(self, text: str, label: str) -> Value:
        """Return the value; raises `UserError`, quoting the variant's `label`, if it is not one of the parameter."""
        if isinstance(self.default, str):
            if self.choices and text not in self.choices:
                raise UserError(f"variant {label!r}: {self.name}={text}: choose from {', '.join(self.choices)}")
            if not re.fullmatch(r"[A-Za-z0-9_.-]+(\+[A-Za-z0-9_.-]+)*", text):
                raise UserError(f"variant {label!r}: {self.name}={shorten(text)}: give names joined by '+'")
            return text if self.choices or self.name != STAGES.name else _in_order(text, label)
        kind, noun = (int, "an integer") if isinstance(self.default, int) else (float, "a number")
        try:
            value = parse_number(kind, text) + 0  # -0.0 is 0.0
        except ValueError:
            raise UserError(f"variant {label!r}: {self.name}={text} is not {noun} in {self.range_text()}") from None
        upper_ok = value < 1 if self.below_one else self.maximum is None or value <= self.maximum
        if not (self.minimum <= value < math.inf and upper_ok):
            raise UserError(f"variant {label!r}: {self.name}={text} is outside {self.range_text()}")
        return value

    def range_text(self) -> str:
        """Return the range of valid values as an interval."""
        if self.below_one:
            return f"[{self.minimum}, 1)"
        return f"[{self.minimum}, ∞)" if self.maximum is None else f"[{self.minimum}, {self.maximum}]"


def _in_order(stages: str, label: str) -> str:
    """Return places in the one order in which a label names them: layer3 before layer4, features.3 before features.10.

    The order in the backbone, in which heads get them, is not known where labels are read.
    """
    names = stages.split("+")
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise UserError(f"variant {label!r}: stages={shorten(stages)}: {twice[0]} is named twice; keep one")
    return "+".join(sorted(names, key=lambda name: (re.sub(r"\d+", lambda digits: digits[0].zfill(9), name), name)))


DROPOUT = Parameter("dropout", 0.5, below_one=True)
NUM_MASKS = Parameter("num_masks", 4, minimum=1, maximum=1024)
HIDDEN = Parameter("hidden_features", 256, minimum=1, maximum=65536)
REDUCTION = Parameter("reduction", 16, minimum=1, maximum=65536)
QUERIES = Parameter("num_queries", 1, minimum=1, maximum=1024)
HEADS = Parameter("num_heads", 8, minimum=1, maximum=256)
HEAD_FEATURES = Parameter("head_features", 64, minimum=1, maximum=4096)
GAMMA = Parameter("gamma", 2.0, minimum=1, maximum=8)
"""The exponent of SimPool's generalised mean."""
P = Parameter("p", 3.0, minimum=1, maximum=100)
"""The exponent of GeM before training."""
LAMBDA = Parameter("lambda_divergence", 0.001, maximum=1_000_000)
"""The weight of the divergence loss. The recipe overrides its default, since the loss grows with the feature map."""
DIVERGENCE = Parameter("divergence", "sum", choices=("sum", "mean"), later=True)
"""Whether inner products of masks are sums over positions, as the article has them, or means: then one λ fits maps of
all sizes."""
DEPTH = Parameter("depth", 1, minimum=1, maximum=4)
KERNEL = Parameter("kernel_size", 7, minimum=1, maximum=31)
BRANCH_WEIGHT = Parameter("branch_weight", 1.0, maximum=1000)
STAGES = Parameter("stages", "all")
"""Places in the backbone: names joined by '+', in any order, or one of the groups in `catdog.models.stages`."""
MASKS = Parameter("masks", "trained", choices=("trained", "untrained", "swapped", "flat"), later=True)
"""The controls of every head with masks; see `catdog.models.heads.masked`."""
CONTROLS: Mapping[Value, str] = {
    "untrained": "control: masks never trained",
    "swapped": "control: scored with another image's masks",
    "flat": "control: each mask replaced by its mean",
}
"""What they do, in a few words."""


@dataclass(frozen=True)
class Variant:
    """A named model: its head class (or a function that returns a head), parameters, and fixed arguments.

    `head` is `module.Class` in catdog.models.heads, or the key of a class in `HEAD_CLASSES`.
    """

    name: str
    head: str
    parameters: tuple[Parameter, ...]
    fixed: Mapping[str, Value] = field(default_factory=dict)
    settings: Mapping[str, Value | None] = field(default_factory=dict)
    """Settings of the recipe that the name implies; a label may give others."""
    code: str = ""
    """Which code it is, of a head from outside the package: a digest, or a package's name and version."""
    about: str = field(default="", compare=False)
    """What it computes, in a few words for a reader of a report; of a head from outside, its docstring's first line."""


VARIANTS: dict[str, Variant] = {
    variant.name: variant
    for variant in (
        Variant("baseline", "pooled.PlainHead", (DROPOUT,), about="plain mean over the image, no mask"),
        Variant(
            "attention",
            "attention.AttentionHead",
            (DROPOUT, MASKS),
            {"activation": "sigmoid"},
            about="one sigmoid mask over the image",
        ),
        Variant(
            "multi-attention",
            "attention.MultiAttentionHead",
            (NUM_MASKS, LAMBDA, HIDDEN, DROPOUT, DIVERGENCE, MASKS),
            about="sigmoid masks, kept apart by a loss",
        ),
        Variant(
            "attention-relu",
            "attention.AttentionHead",
            (DROPOUT, MASKS),
            {"activation": "relu"},
            about="one ReLU mask over the image",
        ),
        Variant(
            "attention-softmax",
            "attention.AttentionHead",
            (DROPOUT, MASKS),
            {"activation": "softmax"},
            about="one softmax mask over the image",
        ),
        Variant(
            "se",
            "pooled.squeeze_excitation",
            (REDUCTION, DROPOUT, dataclasses.replace(STAGES, default="none", later=True)),
            about="weights for channels, no mask",
        ),
        Variant(
            "eca",
            "staged.StagedHead",
            (STAGES, DROPOUT),
            {"module": "eca"},
            about="weights for channels behind each stage, no mask",
        ),
        Variant(
            "cbam",
            "staged.StagedHead",
            (REDUCTION, KERNEL, STAGES, DROPOUT, MASKS),
            {"module": "cbam"},
            about="weights for channels and a mask behind each stage",
        ),
        Variant(
            "residual-attention",
            "staged.StagedHead",
            (DEPTH, STAGES, DROPOUT, MASKS),
            {"module": "residual"},
            about="a mask behind each stage of the backbone",
        ),
        Variant(
            "abn",
            "staged.AttentionBranchHead",
            (BRANCH_WEIGHT, dataclasses.replace(STAGES, default="before-last"), DROPOUT, MASKS),
            about="a second classifier’s class maps become a mask",
        ),
        Variant(
            "stage-attention",
            "stage_reading.StageReadingHead",
            (STAGES, DROPOUT, MASKS),
            about="a softmax mask over the map of each stage",
        ),
        Variant(
            "multi-attention-free",
            "attention.MultiAttentionHead",
            (NUM_MASKS, HIDDEN, DROPOUT, MASKS),
            {"lambda_divergence": 0.0},
            about="sigmoid masks, not kept apart",
        ),
        Variant(
            "multi-attention-fixed",
            "attention.MultiAttentionHead",
            (NUM_MASKS, HIDDEN, DROPOUT),
            {"lambda_divergence": 0.0, "train_masks": False},
            about="random masks, never trained",
        ),
        Variant(
            "query",
            "attention_pooling.QueryHead",
            (QUERIES, HEADS, HEAD_FEATURES, DROPOUT, MASKS),
            about="softmax masks by learned queries",
        ),
        Variant(
            "ep",
            "attention_pooling.EfficientProbingHead",
            (dataclasses.replace(QUERIES, default=8), dataclasses.replace(REDUCTION, default=1), DROPOUT, MASKS),
            about="softmax masks by queries, each for a slice of the channels",
        ),
        Variant(
            "simpool",
            "attention_pooling.SimPoolHead",
            (GAMMA, DROPOUT, MASKS),
            about="a softmax mask by the image’s own mean",
        ),
        Variant(
            "abmil",
            "attention_pooling.GatedAttentionHead",
            (dataclasses.replace(HIDDEN, default=128), DROPOUT, MASKS),
            about="a softmax mask by gated scores",
        ),
        Variant("gem", "pooled.GeneralisedMeanHead", (P, DROPOUT), about="generalised mean over the image, no mask"),
        Variant("max", "pooled.MaxHead", (DROPOUT,), about="maximum over the image, no mask"),
        Variant(
            "multi-task",
            "pooled.PlainHead",
            (DROPOUT,),
            settings={"second_task": "species"},
            about="baseline with a second classifier",
        ),
    )
}

EXTERNAL: dict[str, Variant] = {}
"""The heads of this process that are not the package's."""
HEAD_CLASSES: dict[str, type] = {}
"""Their classes, by `Variant.head`."""


def register_head(name: str, *parameters: Parameter) -> Callable[[Head], Head]:
    """Return a decorator that makes a head known as the variant `name`.

    The class is called with `in_channels`, `num_classes` and its parameters by keyword, and its instances with features
    (B, C, H, W); they return a `catdog.models.ModelOutput`, whose masks must not be negative. A class with a parameter
    `stages`, a text, is also called with `places` (see docs/heads.md).

    Raises:
        UserError: the name is taken or no name of a variant, or the class does not take these arguments.
    """

    def register(head: Head) -> Head:
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,59}", name):
            raise UserError(f"head {shorten(name)!r}: use small letters, digits and '-', a letter or digit first")
        if name in VARIANTS or name in EXTERNAL:
            raise UserError(f"head {name!r}: there is a variant of this name: choose another")
        resolved = []
        for parameter in parameters:
            is_taken = parameter.name in ("in_channels", "num_classes", "places")
            if is_taken or type(parameter.default) not in (int, float, str):
                raise UserError(
                    f"head {name!r}: {parameter.name}: not a parameter with a number or text as its default"
                )
            if parameter.name in Recipe.__dataclass_fields__.keys() - {LAMBDA.name}:
                raise UserError(f"head {name!r}: {parameter.name} is a setting of every recipe: choose another name")
            resolved.append(dataclasses.replace(parameter, default=parameter.parse(str(parameter.default), name)))
        given: dict[str, object] = {parameter.name: parameter.default for parameter in resolved}
        if STAGES.name in given:
            if not isinstance(given[STAGES.name], str):
                raise UserError(f"head {name!r}: stages: names places of the backbone: give a text as its default")
            given["places"] = {}
        try:
            inspect.signature(head).bind(in_channels=1, num_classes=1, **given)
        except TypeError as error:
            wanted = ", ".join(["in_channels", "num_classes", *given])
            raise UserError(f"head {name!r}: its class must take {wanted} by keyword ({error})") from None
        key = f"external {name}"
        about = (head.__doc__ or "").strip().partition("\n")[0]
        EXTERNAL[name], HEAD_CLASSES[key] = Variant(name, key, tuple(resolved), about=about), head
        return head

    return register


def known_heads() -> dict[str, Variant]:
    """Return all heads of this process by name, the package's first."""
    return VARIANTS | EXTERNAL


def load_installed_head(name: str) -> None:
    """Register the head that an installed package offers under this name, if one does; raises `UserError`."""
    for entry_point in importlib.metadata.entry_points(group="catdog.heads", name=name):
        try:
            entry_point.load()
            if name in EXTERNAL and entry_point.dist is not None:
                code = f"{entry_point.dist.name} {entry_point.dist.version}"
                EXTERNAL[name] = dataclasses.replace(EXTERNAL[name], code=code)
        except Exception as error:
            raise UserError(
                f"variant {name!r}: {entry_point.value} cannot be imported ({first_line(error)})"
            ) from error
