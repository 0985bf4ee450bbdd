"""Contrasts between runs: what another backbone, recipe or dataset does to the same variant.

Of each variant that ran in the first run and in another: the other's Test accuracy minus the first's. Where both runs
have the same images and splits, trials are paired by seed and tested by sign flips, as the contrasts within a run;
seeds of one run alone are left out. Elsewhere, and where both runs have more seeds than the few that they share, the
two samples of trials are taken as independent: Welch's t test, which assumes that means are nearly normal. p is
adjusted over all contrasts between runs (Holm). No figure here speaks of other images.
"""

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy

from catdog.analysis.contrasts import RESAMPLING_SEED
from catdog.analysis.intervals import CONFIDENCE, FEWEST_FOR_AN_INTERVAL, Interval, are_equal
from catdog.analysis.questions import Difference
from catdog.analysis.sign_flips import SubsetMeans
from catdog.analysis.significance import SIGNIFICANCE, holm, smallest_p
from catdog.formatting import counted
from catdog.runs.manifest import Identity, Manifest
from catdog.runs.status import RunStatus

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class BetweenRuns:
    """A variant in another run minus the same variant in the first, Test accuracy in percentage points."""

    variant: str
    """What tables of the first run call it."""
    run: str
    first: str
    n: tuple[int, int]
    """Trials of the other and of the first; pairs, if they are paired."""
    unpaired: str | None
    """Why trials cannot be paired by seed; None if they are."""
    mean: float
    interval: Interval | None
    """95 %, of this contrast alone."""
    p: float | None
    """None where there are too few trials, or where a run may have ended because of its results."""
    p_adjusted: float | None


def compare_runs(runs: Sequence[RunStatus]) -> list[BetweenRuns]:
    """Return the contrasts of all other runs with the first one, by variant as there, then by run.

    A variant is the same that tables call the same, or else that is the same model with another short label.
    """
    first, *others = runs
    titles = _titles(first.manifest)
    found = [
        _contrast(title, other, first, (labels[title], label))
        for title, label in titles.items()
        for other, labels in ((other, _same(titles, _titles(other.manifest))) for other in others)
        if title in labels
    ]
    contrasts = [one for one in found if one is not None]
    adjusted = iter(holm([one.p for one in contrasts if one.p is not None]))
    return [one if one.p is None else dataclasses.replace(one, p_adjusted=next(adjusted)) for one in contrasts]


def _titles(manifest: Manifest) -> dict[str, str]:
    """Return the label of each variant, by what tables call it."""
    return {manifest.short_labels.get(label, label): label for label in manifest.variants}


def _same(ours: Mapping[str, str], theirs: Mapping[str, str]) -> dict[str, str]:
    """Return the labels in another run of the variants that both have, by what our tables call them."""
    left = {label for title, label in theirs.items() if title not in ours}
    same = {title: label for title, label in ours.items() if title not in theirs and label in left}
    return same | {title: label for title, label in theirs.items() if title in ours}


def _contrast(name: str, other: RunStatus, first: RunStatus, labels: tuple[str, str]) -> BetweenRuns | None:
    """Return the contrast of a variant, by its labels in both runs, p not adjusted; None without trials in one."""
    ours, theirs = _scores(other, labels[0]), _scores(first, labels[1])
    if not (ours and theirs):
        return None
    shared = sorted(ours.keys() & theirs.keys())
    unpaired = _unpaired(other.manifest.identity, first.manifest.identity)
    are_few = smallest_p(len(shared)) >= SIGNIFICANCE  # whatever they are, p cannot be small
    if unpaired is None and are_few and len(shared) < min(len(ours), len(theirs)):
        unpaired = f"{counted(len(shared), 'seed')} in common" if shared else "no seed in common"
    if unpaired is None:
        ours, theirs = ({seed: one[seed] for seed in shared} for one in (ours, theirs))
    both = np.array(list(ours.values())), np.array(list(theirs.values()))
    stops = any(one.manifest.declaration.looks for one in (other, first))
    interval, p = (None, None) if stops else (_independent(*both) if unpaired else _paired(*both, name, other))
    return BetweenRuns(
        name,
        other.manifest.run,
        first.manifest.run,
        (len(ours), len(theirs)),
        unpaired,
        float(both[0].mean() - both[1].mean()),
        interval,
        p,
        None,
    )


def _scores(run_status: RunStatus, label: str) -> Mapping[int, float]:
    """Return the Test accuracy of a variant's complete trials, by seed."""
    return {one.seed: one.test_accuracy for one in run_status.results(label) if one.test_accuracy is not None}


def _unpaired(one: Identity, other: Identity) -> str | None:
    """Return why equal seeds of two runs are not the same luck; None if they are, as far as the data go."""
    if one.fingerprint != other.fingerprint:
        return "other images"
    names = ("split_seed", "resamples_split", "limit_images", "train_images_per_class")
    splits = [tuple(getattr(i.recipe, name) for name in names) for i in (one, other)]
    return None if splits[0] == splits[1] else "another split"


def _paired(ours_S: Array, theirs_S: Array, name: str, other: RunStatus) -> tuple[Interval | None, float | None]:
    if len(ours_S) < 2:
        return None, None  # one pair says nothing of other seeds
    rng = np.random.default_rng([RESAMPLING_SEED, *f"{name} in {other.manifest.run}".encode()])
    means = SubsetMeans.of(ours_S - theirs_S, rng)
    return Difference().interval(means, SIGNIFICANCE), Difference().p(means)


def _independent(ours: Array, theirs: Array) -> tuple[Interval | None, float | None]:
    if min(len(ours), len(theirs)) < FEWEST_FOR_AN_INTERVAL or (are_equal(ours) and are_equal(theirs)):
        return None, None
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Precision loss", RuntimeWarning)  # where all trials of one run are equal
        test = scipy.stats.ttest_ind(ours, theirs, equal_var=False)
    low, high = test.confidence_interval(CONFIDENCE)
    return Interval(float(low), float(high)), float(test.pvalue)
