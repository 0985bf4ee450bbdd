"""A contrast of two variants, and what may be said of it in words."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from catdog.analysis.intervals import Interval, bounds
from catdog.analysis.power import POWER
from catdog.analysis.significance import SIGNIFICANCE, smallest_p
from catdog.formatting import counted, format_p, format_points, format_range, format_size
from catdog.runs.looks import HOPELESS, UNDECIDED

ON_TEST_SET, ON_NEW_IMAGES = "on this test set", "on new images"
"""What an interval is about: other seeds on the same images, or on other images like them."""
BY_CHANCE = "the difference varies between images no more than chance explains"
"""Why new images add no uncertainty, where they do not."""
LEAST_CORRELATION, PAIRS_TO_TELL = 0.1, 10
"""Below, pairing by seed takes less than a tenth off the variance of a difference."""


@dataclass(frozen=True)
class Answer:
    """The answer to one of the questions about a contrast (`analysis.questions`)."""

    p: float
    p_adjusted: float
    """Holm-adjusted over all contrasts but the primary one, whose p stays as it is."""
    level: float
    """The level of the family's step: the adjusted p is below 5 % exactly if p is below this."""
    interval: Interval | None
    """Of the mean over seeds, compatible with the adjusted p; None if there are too few pairs for one."""
    says: str | None
    """`better`, `worse` or `equivalent` if the adjusted p is below 5 %."""
    stands: bool
    """Whether it would say the same with diverged trials at chance accuracy: none may win by diverging."""


@dataclass(frozen=True)
class Looked:
    """How far a sweep that may stop early has looked at a contrast."""

    planned: int
    """Seeds at most."""
    next: int | None
    """Seeds up to the next look; None after the last."""
    after: int | None
    """Seeds that were to end before its last look; None before the first."""
    seeds: tuple[tuple[int, ...], ...]
    """Those that had ended on both sides, complete or diverged, at each of its looks."""
    outcome: str
    """As its last look recorded it: never taken back."""
    exploratory: int
    """Pairs that ended after it was decided or after the last look, and are not counted."""


@dataclass(frozen=True)
class LogLoss:
    """The Test log-losses of a contrast, in nats: a secondary endpoint, from which no verdict comes."""

    n: int
    """Pairs: those of the contrast whose log-losses are both known."""
    ours: float
    """Mean over the pairs, as `theirs`."""
    theirs: float
    p: float
    """Of no difference, two-sided; unadjusted, as the interval is."""
    interval: Interval | None
    """95 % interval of the mean difference, over seeds."""
    says: str | None
    """`lower` or `higher` if p is below 5 %, and also with trials left out at the log-loss of chance."""

    @property
    def mean(self) -> float:
        """Return ours minus theirs: below zero is better."""
        return self.ours - self.theirs


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
    difference: Answer | None
    """Two-sided; its 95 % interval excludes zero exactly if the adjusted p is below 5 %."""
    equivalence: Answer | None
    """Two one-sided tests at ± the smallest effect, whose 90 % interval lies between exactly if the adjusted p is below
    5 %; None if no smallest effect was declared."""
    smallest_effect: float | None
    probability_of_improvement: float | None
    correlation: float | None
    """Between the paired accuracies."""
    interval_new_images: Interval | None
    """95 % interval of the mean, over seeds and test images, Holm-adjusted by a p of its own."""
    detectable: float | None
    """The true difference that n pairs detect with 80 % power, tested alone."""
    ended: tuple[int, ...]
    """`seeds`, and those that are left out because a trial diverged."""
    looked: Looked | None = None
    """None if the number of seeds was settled before."""
    log_loss: LogLoss | None = None
    """None if no pair has one, and before the first look."""
    images_add: bool = True
    """Whether images differ by more than chance, so that the interval on new images is wider."""

    @property
    def n(self) -> int:
        """Return the number of pairs."""
        return len(self.seeds)

    @property
    def diverged(self) -> int:
        """Return how many seeds are left out because a trial diverged."""
        return len(self.ended) - self.n

    @property
    def interval(self) -> Interval | None:
        """Return the 95 % interval of the mean, over seeds."""
        return None if self.difference is None else self.difference.interval

    @property
    def interval_equivalence(self) -> Interval | None:
        """Return the 90 % interval of the mean, over seeds."""
        return None if self.equivalence is None else self.equivalence.interval

    @property
    def outcome(self) -> str:
        """Return `better`, `worse` or `equivalent`, joined by a comma if two hold; else `undecided`."""
        if self.looked is not None and self.looked.outcome not in (UNDECIDED, HOPELESS):
            return self.looked.outcome
        return outcome_of(self.difference, self.equivalence)

    @property
    def words(self) -> str:
        """Return the verdict as a sentence, without numbers but for the smallest effect."""
        if self.n < 2:
            return f"{self.variant} against {self.reference}: nothing can be said."
        if self.outcome == UNDECIDED:
            is_hopeless = self.looked is not None and self.looked.outcome == HOPELESS
            more = ", and more seeds would hardly decide it" * is_hopeless
            return f"{self.variant} against {self.reference}: undecided{more}."
        matters = f"the {format_size(self.smallest_effect or 0)} points that matter"
        if self.outcome == "equivalent":
            return f"{self.variant} is equivalent to {self.reference} on this test set: within {matters}."
        better, _, equivalent = self.outcome.partition(", ")
        less = f", by less than {matters}" if equivalent else ""
        return f"{self.variant} is {better} than {self.reference} on this test set{less}{self._on_new_images}."

    @property
    def figures(self) -> str:
        """Return the numbers behind the verdict, as sentences."""
        if self.mean is None or self.difference is None:
            return "The two have no seed in common that is complete."
        size = f"{format_points(self.mean)} percentage points"
        if self.n == 1:
            return f"The difference is {size} in one pair, which says nothing of other seeds."
        figures = f"The mean difference is {size}, n = {self.n} pairs"
        if self.looked is not None and self.looked.after is None:
            return f"{figures}.{_stopping(self.looked)}"
        figures += f"; {self._adjusted}{p_words(self.difference.p_adjusted)}.{self._intervals}"
        withheld = withheld_words(self.diverged, self.difference, self.equivalence)
        if withheld:
            figures += f" {self.variant} is {withheld}."
        if self.looked is not None:
            return figures + _stopping(self.looked)
        return figures if withheld else figures + self._reach(self.difference.level)

    @property
    def verdict(self) -> str:
        """Return the verdict in words, and its figures."""
        return f"{self.words} {self.figures}"

    @property
    def is_pairing_idle(self) -> bool:
        """Return whether the accuracies of one seed hardly correlate, in enough pairs to tell."""
        return self.correlation is not None and self.n >= PAIRS_TO_TELL and self.correlation < LEAST_CORRELATION

    @property
    def _on_new_images(self) -> str:
        if self.interval_new_images is None:
            return ""
        if self.interval_new_images.excludes_zero and not self.diverged:
            return ", and on new images like these"
        return "; whether on new images, too, is open"

    @property
    def _adjusted(self) -> str:
        return "" if self.is_primary else "Holm-adjusted "

    @property
    def _intervals(self) -> str:
        found = {ON_TEST_SET: self.interval, ON_NEW_IMAGES: self.interval_new_images}
        ranges = [f"{_range(interval)} {where}" for where, interval in found.items() if interval is not None]
        why = "" if self.images_add or len(ranges) < 2 else f", which add no uncertainty: {BY_CHANCE}"
        text = f" Its {self._adjusted}95 % interval is {' and '.join(ranges)}{why}." if ranges else ""
        if self.equivalence is not None:
            text += f" Equivalence: {_figures('90 %', self.equivalence)}."
        return text

    def _reach(self, level: float) -> str:
        """Return what so many pairs can find, if they found nothing."""
        if smallest_p(self.n) >= level:
            tests = round(SIGNIFICANCE / level)
            smallest, needed = min(1.0, tests * smallest_p(self.n)), 1 + math.ceil(-math.log2(level))
            among = f" as one of {tests} tests" if tests > 1 else ""
            return f" With {self.n} pairs p cannot be below {smallest:.2g}{among} ({needed} are needed)."
        if self.outcome != UNDECIDED or self.detectable is None:
            return ""
        size, alone = format_size(self.detectable), " if tested alone" if level < SIGNIFICANCE else ""
        runs = f"{100 * POWER:.0f} % of runs with {self.n} pairs"
        return f" Were the true difference {size} points, {runs} would find it{alone}."


def outcome_of(*answers: Answer | None) -> str:
    """Return what those say that stand, joined by a comma; else `undecided`."""
    stand = [answer.says for answer in answers if answer is not None and answer.stands and answer.says is not None]
    return ", ".join(stand) or UNDECIDED


def withheld_words(diverged: int, *answers: Answer | None) -> str | None:
    """Return what is not said because of diverged seeds; None if nothing is withheld."""
    withheld = [answer.says for answer in answers if answer and answer.says and not answer.stands]
    if not withheld:
        return None
    seeds = counted(diverged, "diverged seed")
    return f"not called {' or '.join(withheld)}: with {seeds} at chance accuracy it would not be"


def pairing_line(contrasts: Sequence[Contrast]) -> str | None:
    """Return the contrasts that gain nothing from pairing by seed, in a sentence; None if all gain."""
    found = [one for one in contrasts if one.is_pairing_idle]
    idle = ", ".join(f"{one.variant} − {one.reference} ({one.correlation:.2f})" for one in found)
    if not idle:
        return None
    return (
        f"Pairing by seed gained hardly anything for {idle.replace('(-', '(−')}: the accuracies of one seed hardly "
        "correlate."
    )


def contrasts_table(contrasts: Sequence[Contrast]) -> pd.DataFrame:
    """Return contrasts.csv: one row per contrast, differences in percentage points."""
    may_stop = any(contrast.looked for contrast in contrasts)
    return pd.DataFrame(
        [
            {
                "variant": contrast.variant,
                "reference": contrast.reference,
                "primary": contrast.is_primary,
                "n": contrast.n,
                "difference": contrast.mean,
                **bounds("difference", contrast.interval),
                **_p_values("p", contrast.difference),
                "probability_of_improvement": contrast.probability_of_improvement,
                "correlation": contrast.correlation,
                **bounds("new_images", contrast.interval_new_images),
                "detectable": contrast.detectable,
                "verdict": contrast.verdict,
                "outcome": contrast.outcome,
                "smallest_effect": contrast.smallest_effect,
                **bounds("equivalence", contrast.interval_equivalence),
                **_p_values("p_equivalence", contrast.equivalence),
                "diverged": contrast.diverged,
                "level": contrast.difference and contrast.difference.level,
                **({"looked_after": contrast.looked and contrast.looked.after} if may_stop else {}),
                **_log_loss(contrast.log_loss),
            }
            for contrast in contrasts
        ]
    )


def _stopping(looked: Looked) -> str:
    if looked.after is None:
        return f" Not looked at yet: the first look is after {looked.next} seeds, of at most {looked.planned}."
    later = f" {counted(looked.exploratory, 'later pair')} not counted." if looked.exploratory else ""
    if looked.outcome == UNDECIDED:
        return f" Looked at after {looked.after} of at most {looked.planned} seeds.{later}"
    what = "Given up" if looked.outcome == HOPELESS else "Decided"
    text = f" {what} after {looked.after} of at most {looked.planned} seeds: p and intervals allow for looking early"
    if looked.next is not None and looked.outcome != HOPELESS:
        text += f", the mean is likely too {'near to' if looked.outcome == 'equivalent' else 'far from'} zero"
    return f"{text}.{later}"


def _p_values(name: str, answer: Answer | None) -> dict[str, float | None]:
    p, adjusted = (None, None) if answer is None else (answer.p, answer.p_adjusted)
    return {name: p, f"{name}_adjusted": adjusted}


def _log_loss(found: LogLoss | None) -> dict[str, float | None]:
    mean, interval, p = (None, None, None) if found is None else (found.mean, found.interval, found.p)
    return {"log_loss": mean, **bounds("log_loss", interval), "p_log_loss": p}


def _figures(confidence: str, answer: Answer) -> str:
    p = p_words(answer.p_adjusted)
    return p if answer.interval is None else f"{confidence} interval {_range(answer.interval)}, {p}"


def p_words(value: float) -> str:
    """Return a p as `p = 0.083`, or `p < 0.001`."""
    p = format_p(value)
    return f"p {p}" if p.startswith("<") else f"p = {p}"


def _range(interval: Interval) -> str:
    return format_range(interval.low, interval.high)
