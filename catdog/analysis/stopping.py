"""Look at a sweep that may stop early: which contrasts are decided, and which need more seeds?"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from catdog.analysis.contrasts import compare
from catdog.analysis.power import conditional_power
from catdog.analysis.predictions import Predictions
from catdog.analysis.questions import Difference, Equivalence
from catdog.analysis.sequential import Walk
from catdog.analysis.verdicts import Contrast
from catdog.formatting import now
from catdog.runs.looks import HOPELESS, UNDECIDED, Look, next_look
from catdog.runs.status import RunStatus

LEAST_POWER = 0.1
"""A contrast is hopeless if both questions have less than this chance of being answered at the last look."""
Array = npt.NDArray[np.float64]


def take_look(run_status: RunStatus, predictions: Predictions | None) -> Look | None:
    """Return what the next look finds; None if none is left, not all of its trials have ended, or most have failed.

    It counts the pairs of the planned seeds, whichever ended first; a trial that failed has ended, too. But where every
    contrast lacks more than half of the pairs that are new, something else is wrong: the same command tries again.
    """
    manifest = run_status.manifest
    declared = manifest.declaration
    needed = next_look(declared, [manifest.spec(name).label for name in manifest.variants], run_status.looks)
    ended = {(one.planned.variant.label, one.planned.seed): one for one in run_status.trials if one.status != "missing"}
    if not needed.labels or any((label, seed) not in ended for label in needed.labels for seed in needed.seeds):
        return None
    counted = {key for key, one in ended.items() if one.result is not None}
    before, taken = (run_status.looks[-1].seeds, run_status.looks[-1].planned) if run_status.looks else ({}, 0)
    seeds = {
        label: (
            *(old := before.get(label, ())),
            *(
                seed
                for seed in needed.seeds
                if seed not in old and {(label, seed), (declared.reference, seed)} <= counted
            ),
        )
        for label in needed.labels
        if label != declared.reference
    }
    new = max(len(pairs) - len(before.get(label, ())) for label, pairs in seeds.items())
    if 2 * new < len(needed.seeds) - taken:
        return None
    look = Look(len(needed.seeds), seeds, dict.fromkeys(seeds, UNDECIDED), now())
    contrasts = compare(dataclasses.replace(run_status, looks=[*run_status.looks, look]), predictions)
    by_label = {manifest.spec(one.variant).label: one for one in contrasts}
    return dataclasses.replace(look, outcomes={label: _outcome(by_label[label]) for label in seeds})


def _outcome(contrast: Contrast) -> str:
    """Return what a contrast is now: as its verdict says, or hopeless."""
    looked, difference = contrast.looked, contrast.difference
    if contrast.outcome != UNDECIDED or looked is None or looked.next is None or contrast.n < 2 or difference is None:
        return contrast.outcome
    assert contrast.smallest_effect is not None
    seen = np.array(contrast.differences)
    levels = difference.level, difference.level if contrast.equivalence is None else contrast.equivalence.level
    is_hopeless = _is_hopeless(seen, looked.planned, contrast.smallest_effect, *levels)
    return HOPELESS if is_hopeless else UNDECIDED


def stop_of(differences: Array, smallest_effect: float, looks: Sequence[int], level: float) -> tuple[str, int]:
    """Return how a sweep with these paired differences (n,) of all planned seeds would end, and after how many pairs.

    Of a contrast alone, tested at `level`; `looks` are numbers of pairs, the last is n.
    """
    planned = looks[-1]
    for number, end in enumerate(looks):
        for question in (Difference(), Equivalence(smallest_effect)):
            hypotheses = question.hypotheses(differences[:end])
            walks = (Walk.of(one, looks[: number + 1], planned, two_sided) for one, two_sided in hypotheses)
            if all(walk.rejects(level) for walk in walks):
                sign = "better" if differences[:end].sum() > 0 else "worse"
                return (sign if isinstance(question, Difference) else "equivalent"), end
        if end < planned and _is_hopeless(differences[:end], planned, smallest_effect, level, level):
            return HOPELESS, end
    return UNDECIDED, planned


@dataclass(frozen=True)
class EarlyStop:
    """How a contrast of a run that ran all its seeds would have ended with `--until-decided`."""

    run: str
    variant: str
    reference: str
    outcome: str
    """As the last look at it would have recorded it."""
    seeds: int
    planned: int
    hours: float
    """Of the variant's trials up to that look, one at a time."""
    hours_spent: float
    """Of all its trials, complete or diverged."""


def early_stops(
    run_status: RunStatus, predictions: Predictions | None, looks_of: Callable[[int], Sequence[int]]
) -> list[EarlyStop]:
    """Return how each contrast of a complete run would have ended early, then the reference's trials.

    The looks are taken as a sweep takes them, from the stored results. `looks_of` returns after how many of n seeds.
    None for a run that declared no smallest effect, looked itself, or gave its variants different seeds.
    """
    manifest = run_status.manifest
    declared, seeds = manifest.declaration, sorted(next(iter(manifest.seeds.values())))
    alike = all(sorted(one) == seeds for one in manifest.seeds.values())
    if declared.smallest_effect is None or declared.looks or not alike or not run_status.is_complete:
        return []
    planned = dataclasses.replace(declared, looks=tuple(looks_of(len(seeds))), seeds=tuple(seeds))
    looks: list[Look] = []
    run_status = dataclasses.replace(run_status, manifest=dataclasses.replace(manifest, declared=(planned,)))
    while (look := take_look(dataclasses.replace(run_status, looks=looks), predictions)) is not None:
        looks.append(look)
    ended = {label: (outcome, look.planned) for look in looks for label, outcome in look.outcomes.items()}
    last = max((end for _, end in ended.values()), default=0)
    found = []
    for label, (outcome, end) in (ended | {declared.reference: ("the reference", last)}).items():
        results = [one.result for one in run_status.trials if one.result and one.planned.variant.label == label]
        hours = {one.seed: one.seconds / 3600 for one in results}
        used = sum(hours.get(seed, 0.0) for seed in seeds[:end])
        of = (manifest.run, manifest.spec(label).title, manifest.spec(declared.reference).title)
        found.append(EarlyStop(*of, outcome, end, len(seeds), used, sum(hours.values())))
    return found


def _is_hopeless(differences: Array, planned: int, smallest_effect: float, *levels: float) -> bool:
    """Return whether neither question, of a difference and of equivalence, can be answered at its level."""
    return max(conditional_power(differences, planned, smallest_effect, *levels)) < LEAST_POWER
