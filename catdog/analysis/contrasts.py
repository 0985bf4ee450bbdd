"""Compare each variant with the reference on the test images.

Trials of the same seed form a pair: they share the split, the mini-batch order and the augmentation. The declared
primary contrast is tested alone at 5 %, the others together (Holm), and equivalence likewise. "On this test set"
generalises to other seeds, "on new images" to other images as well.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from catdog.analysis.intervals import Interval, Moments, summarise, two_way_moments
from catdog.analysis.power import detectable_difference
from catdog.analysis.predictions import Predictions
from catdog.analysis.questions import Difference, Equivalence, Evidence, FixedEvidence, Question, evidence_of
from catdog.analysis.sign_flips import SubsetMeans
from catdog.analysis.significance import (
    correlation,
    holm,
    holm_levels,
    probability_of_improvement,
)
from catdog.analysis.verdicts import Answer, Contrast, Looked
from catdog.runs.looks import UNDECIDED
from catdog.runs.manifest import Manifest
from catdog.runs.status import RunStatus

Array = npt.NDArray[np.float64]
Key = TypeVar("Key", bound=Hashable)

RESAMPLING_SEED = 0
Scores = tuple[Mapping[int, float], set[int]]
"""A variant's test accuracies in percent, by seed, and the seeds whose trials diverged."""


@dataclass(frozen=True)
class Sample:
    """The pairs of a contrast, accuracies in percent."""

    seeds: tuple[int, ...]
    """Complete on both sides."""
    ours_S: Array
    theirs_S: Array
    evidence: Evidence
    evidence_with_diverged: Evidence | None
    """With the seeds of which a trial diverged, its accuracy that of chance; None if there are none."""
    ended: tuple[int, ...]
    """The seeds, with those of which a trial diverged."""
    looked: Looked | None

    @property
    def diverged(self) -> int:
        """Return how many seeds are left out because a trial diverged."""
        return len(self.ended) - len(self.seeds)

    def answer(self, question: Question, level: float) -> tuple[Interval | None, str | None, bool]:
        """Return a question's interval, its answer at a level, and whether diverged trials would not change that."""
        interval, also = self.evidence.interval(question, level), self.evidence_with_diverged
        says = question.answer(interval)
        return interval, says, says is None or also is None or question.answer(also.interval(question, level)) == says


_NOTHING = np.empty(0)
_NO_PAIRS = Sample((), _NOTHING, _NOTHING, FixedEvidence(SubsetMeans(_NOTHING, _NOTHING, 1.0)), None, (), None)


def compare(run_status: RunStatus, predictions: Predictions | None) -> list[Contrast]:
    """Return each variant's contrast with the reference, in planned order."""
    names, declared = names_by_label(run_status.manifest), run_status.manifest.declaration
    reference, effect = names[declared.reference], declared.smallest_effect
    samples = paired(run_status, predictions, declared.reference, [one for one in names if one != declared.reference])
    difference_answers = _answers(Difference(), samples, declared.primary)
    equivalence_answers = {} if effect is None else _answers(Equivalence(effect), samples, declared.primary)
    moments = {label: _moments(predictions, names[label], reference, sample) for label, sample in samples.items()}
    new_images = _on_new_images(moments, samples, declared.primary)
    contrasts = []
    for label, name in names.items():
        if name == reference:
            continue
        sample, spread = samples.get(label, _NO_PAIRS), moments.get(label)
        differences = sample.ours_S - sample.theirs_S
        contrast = Contrast(
            variant=name,
            reference=reference,
            is_primary=label == declared.primary,
            seeds=sample.seeds,
            differences=tuple(differences.tolist()),
            mean=summarise(differences).mean,
            difference=difference_answers.get(label),
            equivalence=equivalence_answers.get(label),
            smallest_effect=effect,
            probability_of_improvement=probability_of_improvement(sample.ours_S, sample.theirs_S),
            correlation=correlation(sample.ours_S, sample.theirs_S),
            interval_new_images=new_images.get(label),
            images_add=spread is None or spread.images_add,
            detectable=detectable_difference(differences),
            ended=sample.ended,
            looked=sample.looked,
        )
        contrasts.append(contrast)
    return contrasts


def names_by_label(manifest: Manifest) -> dict[str, str]:
    """Return what the run calls each variant, by label: short labels change neither figures nor what is primary."""
    return {manifest.spec(name).label: name for name in manifest.variants}


def paired(
    run_status: RunStatus, predictions: Predictions | None, reference: str, labels: Sequence[str]
) -> dict[str, Sample]:
    """Return the pairs of each of these variants and a reference, by label; those that have none are left out."""
    names, chance = names_by_label(run_status.manifest), 0.0 if predictions is None else 100 / len(predictions.classes)
    theirs = _scores(run_status, names[reference])
    found = {
        one: _sample(run_status, one, reference, _scores(run_status, names[one]), theirs, chance) for one in labels
    }
    return {label: sample for label, sample in found.items() if sample is not None}


def _sample(
    run_status: RunStatus, label: str, reference: str, our_scores: Scores, their_scores: Scores, chance: float
) -> Sample | None:
    """Return the pairs of a contrast; None if there are none."""
    (ours, our_diverged), (theirs, their_diverged) = our_scores, their_scores
    ended = tuple(sorted((ours.keys() | our_diverged) & (theirs.keys() | their_diverged)))
    looked = _looked(run_status, label, len(ended))
    if looked is not None and looked.seeds:
        ended = tuple(seed for seed in looked.seeds[-1] if seed in ended)
    seeds = tuple(seed for seed in ended if seed in ours and seed in theirs)
    if not seeds:
        return None
    # One random stream per contrast, so that its figures do not depend on the other contrasts.
    rng = np.random.default_rng([RESAMPLING_SEED, *f"{label} - {reference}".encode()])

    def evidence(of: tuple[int, ...]) -> Evidence:
        differences = np.array([ours.get(seed, chance) - theirs.get(seed, chance) for seed in of])
        return evidence_of(differences, of, looked, rng)

    return Sample(
        seeds,
        np.array([ours[seed] for seed in seeds]),
        np.array([theirs[seed] for seed in seeds]),
        evidence(seeds),
        evidence(ended) if len(ended) > len(seeds) else None,
        ended,
        looked,
    )


def _looked(run_status: RunStatus, label: str, pairs: int) -> Looked | None:
    """Return how a contrast was looked at; None if the number of its seeds was settled before."""
    declared, looks = run_status.manifest.declaration, [one for one in run_status.looks if label in one.outcomes]
    if not declared.looks or (run_status.looks and not looks):
        return None  # a variant that was added to a run after its first look is compared as in any other
    left = next((one for one in declared.looks if not looks or one > looks[-1].planned), None)
    is_over = bool(looks) and (left is None or looks[-1].outcomes[label] != UNDECIDED)
    return Looked(
        planned=len(declared.seeds),
        next=left,
        after=looks[-1].planned if looks else None,
        seeds=tuple(look.seeds[label] for look in looks),
        outcome=looks[-1].outcomes[label] if looks else UNDECIDED,
        exploratory=max(0, pairs - len(looks[-1].seeds[label])) if is_over else 0,
    )


def _scores(run_status: RunStatus, name: str) -> Scores:
    of_variant = [result for result in run_status.finished.values() if result.variant == name]
    scores = {one.seed: one.test_accuracy for one in of_variant if one.test_accuracy is not None}
    return scores, {one.seed for one in of_variant if one.status == "diverged"}


def _answers(question: Question, samples: Mapping[str, Sample], primary: str | None) -> dict[str, Answer]:
    """Answer a question for every contrast, family by family."""
    return {
        label: answer
        for family in _families(samples, primary)
        for label, answer in answer_family({label: (question, samples[label]) for label in family}).items()
    }


def _families(samples: Mapping[str, Sample], primary: str | None) -> list[list[str]]:
    """Return which contrasts are tested together: the primary one alone, the others as a family.

    Those that were added after the first look are another family: they do not change what was decided.
    """
    kinds: dict[tuple[bool, bool], list[str]] = {}
    for label, sample in samples.items():
        kinds.setdefault((label == primary, sample.looked is None), []).append(label)
    return list(kinds.values())


def _on_new_images(
    moments: Mapping[str, Moments | None], samples: Mapping[str, Sample], primary: str | None
) -> dict[str, Interval | None]:
    """Return the intervals on new images, Holm-adjusted by p of their own: that is another claim than over seeds."""
    intervals = {}
    for family in _families(samples, primary):
        alphas, found = [samples[label].evidence.alpha for label in family], [moments[label] for label in family]
        p_values = [1.0 if one is None else one.p for one in found]
        levels = holm_levels(p_values, alphas)
        for label, one, alpha, level in zip(family, found, alphas, levels, strict=True):
            intervals[label] = None if one is None else one.interval(alpha(level))
    return intervals


def answer_family(asked: Mapping[Key, tuple[Question, Sample]]) -> dict[Key, Answer]:
    """Answer the questions of a family, Holm-adjusted."""
    p_values = [sample.evidence.p(question) for question, sample in asked.values()]
    answers = {}
    for key, p, adjusted, level in zip(asked, p_values, holm(p_values), holm_levels(p_values), strict=True):
        question, sample = asked[key]
        answers[key] = Answer(p, adjusted, level, *sample.answer(question, level))
    return answers


def _moments(predictions: Predictions | None, name: str, reference: str, sample: Sample) -> Moments | None:
    images_SN = None if predictions is None else image_differences(predictions, name, reference, sample.seeds)
    return None if images_SN is None else two_way_moments(images_SN)


def image_differences(
    predictions: Predictions, name: str, reference: str, seeds: Sequence[int]
) -> npt.NDArray[np.int8] | None:
    """Return the difference on each test image (S, N): 1 where only the variant is right, -1 where only the reference.

    None if a seed has no predictions.
    """
    ours_SN, theirs_SN = (_correct(predictions, one, seeds) for one in (name, reference))
    return None if ours_SN is None or theirs_SN is None else ours_SN - theirs_SN


def _correct(predictions: Predictions, label: str, seeds: Sequence[int]) -> npt.NDArray[np.int8] | None:
    """Return which test images the trials of these seeds got right (S, N); None if a seed has no predictions."""
    rows = {seed: row for row, seed in enumerate(predictions.seeds[label])}
    if not set(seeds) <= rows.keys():
        return None
    return predictions.correct_SN(label)[[rows[seed] for seed in seeds]].astype(np.int8)
