"""What may be said of a variant across sets, in words."""

from collections.abc import Sequence

from catdog.analysis.across_sets import AcrossSets, Effect
from catdog.analysis.verdicts import ON_NEW_IMAGES, p_words, withheld_words
from catdog.formatting import counted, format_points, format_range, format_size
from catdog.runs.looks import UNDECIDED

MOST_NAMES = 4
"""Sets that a sentence names; of more it says how many."""
_ORDER = ("better", "better, equivalent", "worse", "worse, equivalent", "equivalent", UNDECIDED)


def sentence(one: AcrossSets) -> str:
    """Return the verdict as a sentence, without numbers but for those of sets and for the smallest effect."""
    count, reference = len(one.effects), one.reference
    who = one.title if count == len(one.sets) else f"{one.title}, which ran on {count} of the {len(one.sets)} sets,"
    if one.outcome != UNDECIDED:
        return f"{who} is {_claim(one.outcome, reference)} on {_all_sets(one)}{_within(one)}."
    few, told = _few(one), [effect for effect in one.effects if effect.n > 1]
    if not told:
        return f"{who} against {reference}: nothing can be said."
    nothing = f"; nothing can be said on {_names(few)}" if few else ""
    found = {outcome: [effect for effect in told if effect.outcome == outcome] for outcome in _ORDER}
    (first, those), *others = [(outcome, effects) for outcome, effects in found.items() if effects]
    if first == UNDECIDED:
        return f"{who} against {reference}: undecided on {_names(those) if few else _all_sets(one)}{nothing}."
    names = f" ({_names(those)})" if len(those) <= MOST_NAMES else ""
    parts = [f"{_claim(first, reference)}{_less(first)} on {len(those)} of {counted(count, 'set')}{names}"]
    parts += [f"{_claim(outcome, reference)}{_less(outcome)} on {_names(effects)}" for outcome, effects in others]
    *before, last = parts
    return f"{who} is {', '.join(before)}, and {last}{nothing}." if before else f"{who} is {last}{nothing}."


def figures(one: AcrossSets) -> list[str]:
    """Return the numbers behind the verdict, and what does not fit it, a sentence each."""
    means = [effect.mean for effect in one.effects if effect.mean is not None]
    if not means:
        return ["On no set have they a seed in common that is complete."]
    least, most = format_points(min(means)), format_points(max(means))
    sizes = least if least == most else f"From {least} to {most}"
    adjusted, place = "" if one.is_primary else "Holm-adjusted ", _all_sets(one)
    if _few(one):
        text = f"{sizes} points; fewer than two pairs say nothing of other seeds"
    else:
        text = f"{sizes} points; better or worse on {place}: {adjusted}{p_words(one.difference.p_adjusted)}"
        if one.equivalence is not None:
            text += f"; equivalent: {adjusted}{p_words(one.equivalence.p_adjusted)}"
    lines = [f"{text}."]
    if one.mean is not None and (interval := one.mean.interval()) is not None:
        without = f", without {counted(one.left_out, 'pair')} that not all sets on the same images have"
        lines.append(
            f"The mean of these {len(one.effects)} sets{without * bool(one.left_out)} is "
            f"{format_points(100 * one.mean.mean)} points; its 95 % interval is "
            f"{format_range(interval.low, interval.high)} {ON_NEW_IMAGES}."
        )
    claimed = set(one.outcome.split(", ")) - {UNDECIDED}
    if alone := [effect for effect in one.effects if not claimed <= set(effect.outcome.split(", "))]:
        lines.append(f"Set by set, corrected for the number of tests, that stays open on {_names(alone)}.")
    answers = [(effect.of.name, _diverged(effect), effect.difference, effect.equivalence) for effect in one.effects]
    answers += [(place, sum(map(_diverged, one.effects)), one.difference, one.equivalence)] if len(one.sets) > 1 else []
    withheld = {where: withheld_words(diverged, *asked) for where, diverged, *asked in answers}
    return lines + [f"On {where} it is {words}." for where, words in withheld.items() if words]


def _claim(outcome: str, reference: str) -> str:
    word = outcome.partition(",")[0]
    return word if word == UNDECIDED else f"{word} {'to' if word == 'equivalent' else 'than'} {reference}"


def _less(outcome: str) -> str:
    return ", by less than matters," if "," in outcome else ""


def _within(one: AcrossSets) -> str:
    """Return what is called equivalent on all sets, after a claim."""
    if "equivalent" not in one.outcome:
        return ""
    margins = {effect.of.smallest_effect for effect in one.effects}
    size = f"the {format_size(margins.pop() or 0)} points that matter" if len(margins) == 1 else "what matters on each"
    return f": within {size}" if one.outcome == "equivalent" else f", by less than {size}"


def _all_sets(one: AcrossSets) -> str:
    """Return what all sets are called on which the contender ran."""
    count = len(one.effects)
    if count == 1:
        return one.effects[0].of.name
    every = "both" if count == 2 else "all"
    if count < len(one.sets):
        return f"{every} of them"
    return f"{every} sets" if count == 2 else f"{every} {count} sets"


def _names(effects: Sequence[Effect]) -> str:
    names = [effect.of.name for effect in effects]
    return ", ".join(names) if len(names) <= MOST_NAMES else counted(len(names), "set")


def _few(one: AcrossSets) -> list[Effect]:
    """Return the sets with fewer than two pairs, of which nothing can be said."""
    return [effect for effect in one.effects if effect.n < 2]


def _diverged(effect: Effect) -> int:
    return 0 if effect.pairs is None else effect.pairs.diverged
