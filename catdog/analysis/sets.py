"""The sets that a comparison across backbones, datasets and recipes is about.

A set is a run, or those of its variants that share settings of the recipe under which the reference's head ran, too: a
run of `baseline`, `attention`, `baseline:backbone=resnet50` and `attention:backbone=resnet50` is two sets, in both of
which `attention` is compared with `baseline`. A variant without such a reference is compared with the run's own.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from catdog.analysis.predictions import Predictions
from catdog.errors import UserError
from catdog.runs.manifest import Identity, Manifest
from catdog.runs.status import RunStatus


@dataclass(frozen=True)
class ComparedSet:
    """Variants that were compared with one reference, under one recipe and on the same images."""

    run_status: RunStatus
    """With variants by label."""
    predictions: Predictions | None
    reference: str
    """Label of the reference in the run."""
    contenders: Mapping[str, str]
    """By the name that a contender has in all sets, its label without the set's settings: its label in the run."""
    of_several: bool
    """Whether the run has other sets."""

    @property
    def manifest(self) -> Manifest:
        """Return the plan of the run."""
        return self.run_status.manifest

    @property
    def run(self) -> str:
        """Return the name of the run."""
        return self.manifest.run

    @cached_property
    def name(self) -> str:
        """Return the run's name, and in one of several sets the settings that are the set's own."""
        settings = self.manifest.spec(self.reference).settings if self.of_several else ()
        items = self.reference.partition(":")[2].split(",")
        return " ".join([self.run, *(item for item in items if item.partition("=")[0] in settings)])

    @cached_property
    def head(self) -> str:
        """Return the name that the reference has in all sets."""
        return self.manifest.spec(self.reference).head_label

    @cached_property
    def identity(self) -> Identity:
        """Return what identifies the trials of the set, besides their heads and seeds."""
        return self.manifest.identity.of(self.manifest.spec(self.reference))

    @property
    def smallest_effect(self) -> float | None:
        """Return the smallest difference that matters, as the run declared it."""
        return self.manifest.declaration.smallest_effect


def sets_of(run_status: RunStatus, predictions: Predictions | None) -> list[ComparedSet]:
    """Return the sets of a run, its own reference's first; with planned looks, the run as it is.

    A run with a single variant is no set.
    """
    manifest, declared = run_status.manifest, run_status.manifest.declaration
    base, *others = sorted(map(manifest.spec, manifest.variants), key=lambda one: one.label != declared.reference)
    settings = {one.label: frozenset(one.settings.items()) for one in (base, *others)}
    compared = {settings[one.label] for one in others if one.head_label != base.head_label}
    same_head = [] if declared.looks else [one.label for one in others if one.head_label == base.head_label]
    references = {settings[base.label]: base.label}
    references |= {settings[label]: label for label in same_head if settings[label] in compared}
    contenders: dict[str, dict[str, str]] = {label: {} for label in references.values()}
    for one in others:
        if one.label not in contenders:
            reference = references.get(settings[one.label])
            found = contenders[reference or base.label]
            name = one.label if reference is None else one.head_label
            found[f"{name} (recipe of the run)" if name in found else name] = one.label
    sets = {label: found for label, found in contenders.items() if found}
    return [ComparedSet(run_status, predictions, label, found, len(sets) > 1) for label, found in sets.items()]


def check_sets(sets: Sequence[ComparedSet]) -> None:
    """Raise `UserError` unless all sets have the same reference, and no two are one set."""
    for one, other in itertools.combinations(sets, 2):
        if one.head != other.head:
            raise UserError(
                f"runs {one.run} and {other.run}: their references differ ({one.head}, {other.head}): declare the same "
                "one (--reference of the sweep), or leave one out"
            )
        if one.run != other.run and not one.identity.differences(other.identity):
            raise UserError(
                f"{one.name} and {other.name}: are the same set (dataset, backbone and recipe): sweep them as one "
                "run, or leave one out"
            )
