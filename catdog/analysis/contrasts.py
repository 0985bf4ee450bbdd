"""Compare each variant with the baseline on the test images, and put the verdicts into words.

Trials of the same seed form a pair: they share the split, the mini-batch order and the augmentation. One contrast is
primary, named before the run (multi-attention − baseline), and tested on its own at 5 %. The others form a family,
corrected by Holm. "Better on this test set" generalises to other seeds, "better on new images" to other images as well.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from catdog.analysis.intervals import Interval, mean_interval, summarise, two_way_interval
from catdog.analysis.predictions import Predictions
from catdog.analysis.significance import (
    SIGNIFICANCE,
    correlation,
    detectable_difference,
    holm,
    probability_of_improvement,
    sign_flip_p,
    smallest_p,
)
from catdog.formatting import format_p, format_points, format_range, format_size
from catdog.runs.manifest import Manifest
from catdog.runs.results import TrialResult
from catdog.runs.status import RunStatus

REFERENCE, PRIMARY = "baseline", "multi-attention"
RESAMPLING_SEED = 0


@dataclass(frozen=True)
class Contrast:
    """A variant's test accuracy minus the reference's, seed by seed, in percentage points."""

    variant: str
    reference: str
    is_primary: bool
    seeds: tuple[int, ...]
    """Seeds whose trials are complete for both variants."""
    differences: tuple[float, ...]
    mean: float | None
    interval: Interval | None
    """95 % BCa interval of the mean, over seeds."""
    p: float | None
    """p-value of the sign-flip test."""
    p_adjusted: float | None
    """Holm-adjusted over all contrasts but the primary one, whose p stays as it is."""
    probability_of_improvement: float | None
    correlation: float | None
    """Between the paired accuracies."""
    interval_new_images: Interval | None
    """95 % interval of the mean, over seeds and test images."""
    detectable: float | None
    """The true difference that n pairs detect with 80 % power."""

    @property
    def n(self) -> int:
        """Return the number of pairs."""
        return len(self.seeds)

    @property
    def is_significant(self) -> bool:
        """Return whether the adjusted p is below 5 %."""
        return self.p_adjusted is not None and self.p_adjusted < SIGNIFICANCE

    @property
    def verdict(self) -> str:
        """Return the result as one plain sentence."""
        names = f"{self.variant} and {self.reference}"
        if self.mean is None:
            return f"{names} have no seed in common that is complete: nothing can be said."
        difference = format_points(self.mean)
        if self.n == 1:
            return f"{names} differ by {difference} points in one pair, which says nothing about other seeds."
        p = f"{'' if self.is_primary else 'Holm-adjusted '}p {_p(self.p_adjusted)}"
        figures = f"{_range('95 % interval ', self.interval)}{p}, n = {self.n} pairs"
        if self.is_significant:
            word = "better" if self.mean > 0 else "worse"
            size = f"{format_size(self.mean)} points ({figures})"
            return f"{self.variant} is {word} than {self.reference} on this test set by {size}{self._on_new_images()}."
        measured = f"{names} are not distinguishable: the difference is {difference} points ({figures})"
        if smallest_p(self.n) >= SIGNIFICANCE:
            return f"{measured}; with {self.n} pairs p cannot be below {smallest_p(self.n):.2g} (6 are needed)."
        if self.detectable is not None:
            return f"{measured}; {self.n} pairs detect {format_size(self.detectable)} points."
        return f"{measured}."

    def _on_new_images(self) -> str:
        if self.interval_new_images is None:
            return ""
        bounds = format_range(self.interval_new_images.low, self.interval_new_images.high)
        if self.interval_new_images.excludes_zero:
            return f", and on new images like these ({bounds})"
        return f"; whether on new images, too, is open ({bounds})"


def reference_of(labels: tuple[str, ...]) -> str:
    """Return the variant that the others are compared with: the baseline if there is one, else the first."""
    return REFERENCE if REFERENCE in labels else labels[0]


def primary_of(labels: tuple[str, ...]) -> str | None:
    """Return the primary contrast's variant: multi-attention, else the first other than the reference, else None."""
    others = [label for label in labels if label != reference_of(labels)]
    return PRIMARY if PRIMARY in others else next(iter(others), None)


def reference_in(manifest: Manifest) -> str:
    """Return what the run calls the variant that the others are compared with."""
    names = _names(manifest)
    return names[reference_of(tuple(names))]


def _names(manifest: Manifest) -> dict[str, str]:
    """Return what the run calls each variant, by label: short labels change neither figures nor what is primary."""
    return {manifest.spec(name).label: name for name in manifest.variants}


def compare(run_status: RunStatus, predictions: Predictions | None) -> list[Contrast]:
    """Return each variant's contrast with the reference, in planned order."""
    labels = run_status.manifest.variants
    reference = reference_in(run_status.manifest)
    contrasts = [_contrast(run_status, predictions, label, reference) for label in labels if label != reference]
    family = [contrast for contrast in contrasts if not contrast.is_primary and contrast.p is not None]
    adjusted = dict(
        zip(
            (contrast.variant for contrast in family),
            holm([contrast.p for contrast in family if contrast.p is not None]),
            strict=True,
        )
    )
    return [
        dataclasses.replace(contrast, p_adjusted=adjusted.get(contrast.variant, contrast.p)) for contrast in contrasts
    ]


def contrasts_table(contrasts: Sequence[Contrast]) -> pd.DataFrame:
    """Return contrasts.csv: one row per contrast, differences in percentage points."""
    return pd.DataFrame(
        [
            {
                "variant": contrast.variant,
                "reference": contrast.reference,
                "primary": contrast.is_primary,
                "n": contrast.n,
                "difference": contrast.mean,
                "difference_low": contrast.interval.low if contrast.interval else None,
                "difference_high": contrast.interval.high if contrast.interval else None,
                "p": contrast.p,
                "p_adjusted": contrast.p_adjusted,
                "probability_of_improvement": contrast.probability_of_improvement,
                "correlation": contrast.correlation,
                "new_images_low": contrast.interval_new_images.low if contrast.interval_new_images else None,
                "new_images_high": contrast.interval_new_images.high if contrast.interval_new_images else None,
                "detectable": contrast.detectable,
                "verdict": contrast.verdict,
            }
            for contrast in contrasts
        ]
    )


def _contrast(run_status: RunStatus, predictions: Predictions | None, variant: str, reference: str) -> Contrast:
    ours, theirs = _scored(run_status, variant), _scored(run_status, reference)
    seeds = tuple(sorted(ours.keys() & theirs.keys()))
    ours_S = np.array([ours[seed].test_accuracy for seed in seeds], dtype=np.float64)
    theirs_S = np.array([theirs[seed].test_accuracy for seed in seeds], dtype=np.float64)
    differences = ours_S - theirs_S
    # One random stream per contrast, so that its figures do not depend on the other contrasts.
    labels = {name: label for label, name in _names(run_status.manifest).items()}
    rng = np.random.default_rng([RESAMPLING_SEED, *f"{labels[variant]} - {labels[reference]}".encode()])
    new_images = None
    if predictions is not None and seeds:
        ours_SN, theirs_SN = (_correct(predictions, label, seeds) for label in (variant, reference))
        if ours_SN is not None and theirs_SN is not None:
            new_images = two_way_interval(ours_SN - theirs_SN, rng)
    return Contrast(
        variant=variant,
        reference=reference,
        is_primary=labels[variant] == primary_of(tuple(labels.values())),
        seeds=seeds,
        differences=tuple(differences.tolist()),
        mean=summarise(differences).mean,
        interval=mean_interval(differences, rng),
        p=sign_flip_p(differences, rng),
        p_adjusted=None,
        probability_of_improvement=probability_of_improvement(ours_S, theirs_S),
        correlation=correlation(ours_S, theirs_S),
        interval_new_images=new_images,
        detectable=detectable_difference(differences),
    )


def _scored(run_status: RunStatus, label: str) -> Mapping[int, TrialResult]:
    return {result.seed: result for result in run_status.results(label)}


def _correct(predictions: Predictions, label: str, seeds: tuple[int, ...]) -> npt.NDArray[np.int8] | None:
    """Return which test images the trials of these seeds got right (S, N); None if a seed has no predictions."""
    rows = {seed: row for row, seed in enumerate(predictions.seeds[label])}
    if not set(seeds) <= rows.keys():
        return None
    return predictions.correct_SN(label)[[rows[seed] for seed in seeds]].astype(np.int8)


def _p(p: float | None) -> str:
    assert p is not None
    text = format_p(p)
    return text if text.startswith("<") else f"= {text}"


def _range(name: str, interval: Interval | None) -> str:
    return "" if interval is None else f"{name}{format_range(interval.low, interval.high)}, "
