"""The places of a network that have masks: its head, and stages of its backbone by their names.

What is about the head's masks bears its plain name, what is about a stage's ends in the stage's: the arrays `masks` and
`masks@layer3`, the columns `mask_entropy` and `mask_entropy@layer3`.
"""

import re
from collections.abc import Iterable, Mapping
from typing import TypeVar

from catdog.formatting import shorten

T = TypeVar("T")

HEAD = "head"
MOST_PLACES = 64
FINEST = 28
"""Rows and columns of a stage's masks on whole splits: finer masks are averaged over areas to this size.

A mask of 56 × 56 cells on 8,192 images takes 51 MB of float16, one of 28 × 28 a quarter.
"""


def by_place(head: T | None, stages: Mapping[str, T] | None) -> dict[str, T]:
    """Return what belongs to each place, the head first; raises `ValueError` for a name that no stage has."""
    return ({} if head is None else {HEAD: head}) | {_stage(name): one for name, one in (stages or {}).items()}


def at_place(name: str, place: str) -> str:
    """Return the name of an array or column about the masks of one place."""
    return name if place == HEAD else f"{name}@{place}"


def places_of(names: Iterable[object], name: str) -> list[str]:
    """Return the places for which `names` has `name`, in order; raises `ValueError` if no network has such places."""
    parts = [str(one).partition("@") for one in dict.fromkeys(names)]
    places = [_stage(stage) if at else HEAD for base, at, stage in parts if base == name]
    if len(places) > MOST_PLACES:
        raise ValueError(f"{name} of {len(places)} places; the most is {MOST_PLACES}")
    return places


def _stage(name: str) -> str:
    if name == HEAD or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,39}", name):
        raise ValueError(f"{shorten(repr(name))} is no name of a stage")
    return name
