"""The secondary endpoint of a contrast: Test log-loss, minus the mean log-probability of the true class, in nats.

Accuracy counts right answers; log-loss also sees how sure they were. It is compared seed by seed by the same test as
accuracy, without a correction for the number of contrasts, and no verdict comes from it.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from catdog.analysis.contrasts import RESAMPLING_SEED
from catdog.analysis.predictions import Predictions
from catdog.analysis.questions import Difference, Evidence, evidence_of
from catdog.analysis.significance import SIGNIFICANCE
from catdog.analysis.verdicts import Contrast, LogLoss, p_words
from catdog.formatting import counted, format_points, format_range
from catdog.runs.looks import UNDECIDED
from catdog.runs.manifest import Manifest

DIGITS = 4
"""Decimals of a log-loss."""
OPPOSITE = {"better": "higher", "worse": "lower"}


def with_log_losses(
    contrasts: Sequence[Contrast], manifest: Manifest, predictions: Predictions | None
) -> list[Contrast]:
    """Return the contrasts with their log-losses, as far as there are predictions."""
    if predictions is None:
        return list(contrasts)
    chance, found = math.log(len(predictions.classes)), []
    for one in contrasts:
        ours, theirs = (predictions.log_losses[name] for name in (one.variant, one.reference))
        name = f"log-loss: {manifest.spec(one.variant).label} - {manifest.spec(one.reference).label}"
        rng = np.random.default_rng([RESAMPLING_SEED, *name.encode()])  # accuracies draw from another stream
        found.append(dataclasses.replace(one, log_loss=_log_loss(one, ours, theirs, chance, rng)))
    return found


def _log_loss(
    contrast: Contrast,
    ours: Mapping[int, float],
    theirs: Mapping[int, float],
    chance: float,
    rng: np.random.Generator,
) -> LogLoss | None:
    seeds = [seed for seed in contrast.seeds if seed in ours and seed in theirs]
    if not seeds or (contrast.looked is not None and contrast.looked.after is None):
        return None

    def evidence(of: Sequence[int]) -> Evidence:
        differences = np.array([ours.get(seed, chance) - theirs.get(seed, chance) for seed in of])
        return evidence_of(differences, of, contrast.looked, rng)

    known = evidence(seeds)
    interval = known.interval(Difference(), SIGNIFICANCE)
    answer = Difference().answer(interval)
    if len(seeds) < len(contrast.ended):
        with_all = evidence(contrast.ended).interval(Difference(), SIGNIFICANCE)
        answer = answer if answer == Difference().answer(with_all) else None  # none may win by trials that are left out
    return LogLoss(
        n=len(seeds),
        ours=float(np.mean([ours[seed] for seed in seeds])),
        theirs=float(np.mean([theirs[seed] for seed in seeds])),
        p=known.p(Difference()),
        interval=interval,
        says=None if answer is None else OPPOSITE[answer],
    )


def log_loss_figures(contrast: Contrast) -> str | None:
    """Return the difference of a contrast's log-losses, as a phrase; None if no pair has one."""
    found = contrast.log_loss
    if found is None:
        return None
    interval = found.interval and f"95 % interval {format_range(found.interval.low, found.interval.high, DIGITS)}, "
    figures = f"{format_points(found.mean, DIGITS)} nats, n = {counted(found.n, 'pair')}"
    return f"{figures}; {interval or ''}unadjusted {p_words(found.p)}"


def log_loss_line(contrast: Contrast) -> str | None:
    """Return a sentence if log-loss tells variants apart that accuracy does not, or the other way round; else None."""
    accuracy, *_ = contrast.outcome.split(", ")
    says = None if contrast.log_loss is None else contrast.log_loss.says
    if says is None or (accuracy != UNDECIDED and OPPOSITE.get(accuracy) != says):
        return None
    return (
        f"{contrast.variant} against {contrast.reference}: {accuracy} by accuracy, but Test log-loss, a secondary "
        f"endpoint, is {says} ({log_loss_figures(contrast)})."
    )
