"""Look at a sweep that may stop early: which contrasts are decided, and which need more seeds?"""

import dataclasses

import numpy as np

from catdog.analysis.contrasts import compare
from catdog.analysis.power import conditional_power
from catdog.analysis.predictions import Predictions
from catdog.analysis.verdicts import Contrast
from catdog.formatting import now
from catdog.runs.looks import HOPELESS, UNDECIDED, Look, next_look
from catdog.runs.status import RunStatus

LEAST_POWER = 0.1
"""A contrast is hopeless if both questions have less than this chance of being answered at the last look."""


def take_look(run_status: RunStatus, predictions: Predictions | None) -> Look | None:
    """Return what the next look finds; None if none is left, or not all of its trials have ended.

    It counts the pairs of the planned seeds, whichever ended first; a trial that failed for good has ended, too.
    """
    manifest = run_status.manifest
    declared = manifest.declaration
    needed = next_look(declared, [manifest.spec(name).label for name in manifest.variants], run_status.looks)
    ended = {(one.planned.variant.label, one.planned.seed): one for one in run_status.trials if one.status != "missing"}
    if not needed.labels or any((label, seed) not in ended for label in needed.labels for seed in needed.seeds):
        return None
    counted = {key for key, one in ended.items() if one.result is not None}
    before = run_status.looks[-1].seeds if run_status.looks else {}
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
    chances = conditional_power(
        np.array(contrast.differences), looked.planned, contrast.smallest_effect, difference.level
    )
    return HOPELESS if max(chances) < LEAST_POWER else UNDECIDED
