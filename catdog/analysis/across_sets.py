"""Effects across sets: backbones, datasets and recipes on which the same variants were compared.

Each set has its own pairs, test and interval; p is adjusted over all of them (Holm), for the primary contender apart
from the others. That a variant is better on *all* sets is one claim, which no set may contradict: its p is the largest
of the sets' p, without a correction for their number (an intersection-union test, Berger 1982). No figure here speaks
of other sets.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from catdog.analysis.contrasts import Sample, answer_family, image_differences, paired
from catdog.analysis.intervals import Interval, Moments, two_way_moments, weighted_moments
from catdog.analysis.questions import Difference, Equivalence, Question
from catdog.analysis.sets import ComparedSet
from catdog.analysis.significance import SIGNIFICANCE, holm, holm_levels
from catdog.analysis.verdicts import Answer, outcome_of

FEWEST_SETS_FOR_A_MEAN = 5


@dataclass(frozen=True)
class Effect:
    """A contender minus the reference on one set, Test accuracy in percentage points."""

    of: ComparedSet
    contender: str
    pairs: Sample | None
    """None if they have no seed in common."""
    difference: Answer | None
    """Adjusted over all sets of the primary contender, or of all others; so is `equivalence`. None for fewer than two
    pairs, of which nothing can be said."""
    equivalence: Answer | None

    @property
    def n(self) -> int:
        """Return the number of pairs."""
        return 0 if self.pairs is None else len(self.pairs.seeds)

    @property
    def mean(self) -> float | None:
        """Return the mean difference."""
        return None if self.pairs is None else float((self.pairs.ours_S - self.pairs.theirs_S).mean())

    @cached_property
    def interval(self) -> Interval | None:
        """Return the 95 % interval of the mean over seeds, of this set alone."""
        return None if self.pairs is None else self.pairs.evidence.interval(Difference(), SIGNIFICANCE)

    @property
    def outcome(self) -> str:
        """Return what the adjusted p says, in the words of a contrast's outcome."""
        return outcome_of(self.difference, self.equivalence)

    @property
    def image_differences_SN(self) -> npt.NDArray[np.int8] | None:
        """Return the difference on each test image; None where predictions are missing."""
        if self.pairs is None or self.of.predictions is None:
            return None
        return image_differences(
            self.of.predictions, self.of.contenders[self.contender], self.of.reference, self.pairs.seeds
        )


@dataclass(frozen=True)
class AcrossSets:
    """A contender's effects on all sets that it ran on."""

    title: str
    """What tables call it: its short label, or its label without what is set for a whole set."""
    reference: str
    is_primary: bool
    sets: tuple[str, ...]
    """The names of all sets that were compared."""
    effects: tuple[Effect, ...]
    difference: Answer
    """That it is better, or worse, on all sets that it ran on."""
    equivalence: Answer | None
    """None unless each of its sets declared a smallest effect."""
    mean: Moments | None
    """Of the sets' effects; None for fewer than five sets."""
    left_out: int
    """Pairs that the mean leaves out: sets with the same test images count equally many each."""

    @property
    def outcome(self) -> str:
        """Return what holds on all sets."""
        return outcome_of(self.difference, self.equivalence)


def compare_sets(sets: Sequence[ComparedSet]) -> list[AcrossSets]:
    """Return each contender's effects, those of the primary contender first."""
    primary = _primary(sets)
    found = _effects(sets, primary)
    names = sorted(dict.fromkeys(one.contender for one in found), key=lambda name: name != primary)
    effects = {name: tuple(one for one in found if one.contender == name) for name in names}
    different = _on_all({name: [(Difference(), one) for one in ones] for name, ones in effects.items()}, primary)
    margins = {
        name: [(Equivalence(margin), one) for one in ones if (margin := one.of.smallest_effect) is not None]
        for name, ones in effects.items()
    }
    equivalent = _on_all({name: ones for name, ones in margins.items() if len(ones) == len(effects[name])}, primary)
    titles = _titles(effects)
    references = {one.manifest.spec(one.reference).short_label or one.head for one in sets}
    reference = references.pop() if len(references) == 1 else sets[0].head
    means = {name: _mean(ones) for name, ones in effects.items()}
    return [
        AcrossSets(
            titles[name],
            reference,
            is_primary=name == primary,
            sets=tuple(one.name for one in sets),
            effects=ones,
            difference=different[name],
            equivalence=equivalent.get(name),
            mean=means[name][0],
            left_out=means[name][1],
        )
        for name, ones in effects.items()
    ]


def _effects(sets: Sequence[ComparedSet], primary: str | None) -> list[Effect]:
    """Return the effects of all contenders on all sets: those of the primary one are a family, as the others are."""
    pairs: dict[tuple[str, str], Sample] = {}
    for one in sets:
        found = paired(one.run_status, one.predictions, one.reference, list(one.contenders.values()))
        pairs |= {(one.name, name): found[label] for name, label in one.contenders.items() if label in found}
    told = {key: sample for key, sample in pairs.items() if len(sample.seeds) > 1}
    margins = {one.name: Equivalence(one.smallest_effect) for one in sets if one.smallest_effect is not None}
    differences: dict[tuple[str, str], Answer] = {}
    equivalences: dict[tuple[str, str], Answer] = {}
    for is_primary in (True, False):
        family = {key: sample for key, sample in told.items() if (key[1] == primary) == is_primary}
        differences |= answer_family({key: (Difference(), sample) for key, sample in family.items()})
        equivalences |= answer_family({key: (margins[key[0]], one) for key, one in family.items() if key[0] in margins})
    return [
        Effect(one, name, pairs.get(key := (one.name, name)), differences.get(key), equivalences.get(key))
        for one in sets
        for name in one.contenders
    ]


def _primary(sets: Sequence[ComparedSet]) -> str | None:
    """Return the contender that is primary in every run; None if they differ."""
    primary: dict[str, str | None] = {one.run: None for one in sets}
    for one in sets:
        for name, label in one.contenders.items():
            if label == one.manifest.declaration.primary:
                primary[one.run] = name
    names = set(primary.values())
    return names.pop() if len(names) == 1 else None


def _titles(effects: Mapping[str, Sequence[Effect]]) -> dict[str, str]:
    """Return each contender's short label, if it has the same one in all sets and no other has it; else its name."""
    found = {
        name: {one.of.manifest.spec(one.of.contenders[name]).short_label for one in ones}
        for name, ones in effects.items()
    }
    short = {name: labels.pop() for name, labels in found.items() if len(labels) == 1}
    taken = [*effects, *short.values()]
    return {
        name: label if (label := short.get(name)) is not None and taken.count(label) == 1 else name for name in effects
    }


def _on_all(asked: Mapping[str, Sequence[tuple[Question, Effect]]], primary: str | None) -> dict[str, Answer]:
    """Answer for each contender what is asked of all its sets: the primary one at 5 % alone, the others by Holm.

    Of a set with fewer than two pairs nothing can be said, nor of all: such a contender is none of the family.
    """
    answers = dict.fromkeys(asked, Answer(1.0, 1.0, SIGNIFICANCE, None, None, True))
    tested = [name for name, ones in asked.items() if all(effect.n > 1 for _, effect in ones)]
    for family in ([name for name in tested if name == primary], [name for name in tested if name != primary]):
        p_values = [_largest_p(asked[name]) for name in family]
        for name, p, adjusted, level in zip(family, p_values, holm(p_values), holm_levels(p_values), strict=True):
            found = [effect.pairs.answer(question, level) for question, effect in asked[name] if effect.pairs]
            says = {one for _, one, _ in found}
            answers[name] = Answer(
                p, adjusted, level, None, says.pop() if len(says) == 1 else None, all(stands for *_, stands in found)
            )
    return answers


def _largest_p(asked: Sequence[tuple[Question, Effect]]) -> float:
    """Return the p of the claim that the same is true of all sets, which have pairs; 1 if their signs differ."""
    signs = {np.sign(effect.mean or 0.0) for question, effect in asked if isinstance(question, Difference)}
    if len(signs) > 1:
        return 1.0
    return max(effect.pairs.evidence.p(question) for question, effect in asked if effect.pairs)


def _mean(effects: Sequence[Effect]) -> tuple[Moments | None, int]:
    """Return the moments of the mean over sets, and how many pairs it leaves out.

    None for few sets, or without all predictions.

    Nor where sets share only some of their test images (`--limit-images`): how far they vary together is unknown. Nor
    where a run has looks: it may have ended because its mean was large.
    """
    if len(effects) < FEWEST_SETS_FOR_A_MEAN or any(one.of.manifest.declaration.looks for one in effects):
        return None, 0
    groups: dict[tuple[str, ...], list[tuple[Sequence[int], npt.NDArray[np.int8]]]] = {}
    datasets: dict[tuple[str, ...], set[str]] = {}
    for effect in effects:
        differences_SN = effect.image_differences_SN
        if differences_SN is None or effect.of.predictions is None or effect.pairs is None:
            return None, 0
        images = tuple(effect.of.predictions.images_N.tolist())
        groups.setdefault(images, []).append((effect.pairs.seeds, differences_SN))
        datasets.setdefault(images, set()).add(effect.of.identity.fingerprint)
    if sum(map(len, datasets.values())) > len(set().union(*datasets.values())):
        return None, 0
    joined = [_joined_by_seed(group) for group in groups.values()]
    kept = sum(len(group) * min(map(len, group)) for group in joined)
    return moments_over_sets(joined), sum(effect.n for effect in effects) - kept


def _joined_by_seed(group: Sequence[tuple[Sequence[int], npt.NDArray[np.int8]]]) -> list[npt.NDArray[np.int8]]:
    """Return the differences (S, N) of sets: first of the seeds that all of them have, then of those that no other has.

    A seed may be the same luck on every set: one that only some of them have would stand beside another seed.
    """
    sets, joined = Counter(seed for seeds, _ in group for seed in seeds), []
    for seeds, differences_SN in group:
        shared = [row for row, seed in enumerate(seeds) if sets[seed] == len(group)]
        own = [row for row, seed in enumerate(seeds) if sets[seed] == 1 < len(group)]
        joined.append(differences_SN[[*shared, *own]])
    return joined


def moments_over_sets(groups: Iterable[Sequence[npt.NDArray[np.int8]]]) -> Moments | None:
    """Return the moments of the mean over sets, over other seeds and other images of these sets.

    Each group holds the differences (S, N) of sets with the same N test images, row by row of the same seed if they
    share it, for as many rows as the one with the fewest: an image that favours a variant on one of them may favour it
    on all. Other groups are independent. None if those of any group are all 0, or of fewer than three seeds.
    """
    groups = list(groups)
    sets, parts = sum(map(len, groups)), []
    for group in groups:
        pairs = min(map(len, group))
        moments = two_way_moments(np.mean([one_SN[:pairs] for one_SN in group], axis=0))
        if moments is None:
            return None
        parts.append((len(group) / sets, moments))
    return weighted_moments(parts)
