"""Optimisers and losses of one's own, registered by an imported file as heads are."""

import re
from collections.abc import Callable
from typing import Any, TypeVar

from catdog.config.recipe import LOSS, OPTIMIZERS, Recipe
from catdog.errors import UserError
from catdog.formatting import shorten

Function = TypeVar("Function", bound=Callable[..., Any])

EXTERNAL_OPTIMIZERS: dict[str, Callable[[list[dict[str, Any]]], Any]] = {}
"""By name: torch's parameter groups, with learning rate and weight decay, → a `torch.optim.Optimizer`."""
EXTERNAL_LOSSES: dict[str, Callable[[Any, Any], Any]] = {}
"""By name: logits (B, K) and targets, classes (B,) or shares (B, K) if images are mixed, → the mean loss, a scalar."""


def register_optimizer(name: str) -> Callable[[Function], Function]:
    """Return a decorator that makes an optimiser known as `--optimizer name`; see `EXTERNAL_OPTIMIZERS`.

    Raises:
        UserError: the name is taken, or no name.
    """
    return _registering("optimizer", name, OPTIMIZERS, EXTERNAL_OPTIMIZERS)


def register_loss(name: str) -> Callable[[Function], Function]:
    """Return a decorator that makes a training loss known as `--loss name`; see `EXTERNAL_LOSSES`.

    Raises:
        UserError: the name is taken, or no name.
    """
    return _registering("loss", name, (LOSS,), EXTERNAL_LOSSES)


def check_registered(recipe: Recipe) -> None:
    """Raise `UserError` if no imported file has registered the recipe's optimiser or loss."""
    for option, name, known in (
        ("--optimizer", recipe.optimizer, [*OPTIMIZERS, *EXTERNAL_OPTIMIZERS]),
        ("--loss", recipe.loss, [LOSS, *EXTERNAL_LOSSES]),
    ):
        if name not in known:
            raise UserError(f"{option} {shorten(name)}: choose from {', '.join(known)}, or --import a file with it")


def uses_imports(recipe: Recipe) -> bool:
    """Return whether imported files may determine a trial's numbers, besides its head: what they registered."""
    names = (recipe.optimizer, recipe.loss, recipe.backbone)
    return names[0] not in OPTIMIZERS or names[1] != LOSS or names[2].startswith("timm/")


def _registering(
    kind: str, name: str, taken: tuple[str, ...], registry: dict[str, Any]
) -> Callable[[Function], Function]:
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,59}", name) or name in taken:
        raise UserError(f"{kind} {shorten(name)!r}: use small letters, digits and '-', and no name that is taken")

    def register(function: Function) -> Function:
        registry[name] = function
        return function

    return register
