"""Simulate what docs/statistics.md promises, print the figures it quotes, and draw docs/statistics.png.

python docs/simulate_statistics.py

The tests run the same functions with fewer repetitions.
"""

import itertools
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from catdog.analysis.across_sets import moments_over_sets
from catdog.analysis.intervals import Interval, two_way_moments
from catdog.analysis.questions import Equivalence
from catdog.analysis.sequential import Walk
from catdog.analysis.sign_flips import SubsetMeans
from catdog.analysis.stopping import stop_of
from catdog.config.sweep_options import all_looks

Array = npt.NDArray[np.float64]
Scenario = Callable[[np.random.Generator, int], npt.NDArray[np.int8]]

POINT = 100 / 3669
"""One of the test images of Oxford-IIIT Pet, in percentage points."""
SD = 15.0
"""Of paired differences, in test images."""
SPREAD = SD * POINT
"""The same in points, 0.41: about that of the published runs."""


def _lognormal(rng: np.random.Generator, n: int) -> Array:
    return (rng.lognormal(0.0, 1.0, n) - np.exp(0.5)) / np.sqrt((np.e - 1) * np.e)


SHAPES: dict[str, Callable[[np.random.Generator, int], Array]] = {
    "normal": lambda rng, n: rng.normal(size=n),
    "t, 3 degrees of freedom": lambda rng, n: rng.standard_t(3, n) / np.sqrt(3),
    "lognormal": _lognormal,
}
"""Differences of mean 0 and standard deviation 1: symmetric, with long tails, and skewed."""


def differences(shape: str, n: int, rng: np.random.Generator, mean: float = 0.0) -> Array:
    """Return n paired differences in points, multiples of one test image."""
    return np.rint((mean + SPREAD * SHAPES[shape](rng, n)) / POINT) * POINT


def seeds_coverage(shape: str, n: int, repetitions: int) -> float:
    """Return how often the 95 % interval over n seeds holds the true mean."""
    rng = np.random.default_rng(n)
    intervals = (SubsetMeans.of(differences(shape, n, rng), rng).interval(0.05) for _ in range(repetitions))
    return float(np.mean([interval is not None and _holds(interval, 0.0) for interval in intervals]))


def false_equivalence(shape: str, n: int, margin: float, repetitions: int) -> float:
    """Return how often variants are called equivalent whose true difference is the smallest that matters."""
    rng, question = np.random.default_rng(n), Equivalence(margin)
    p_values = (question.p(SubsetMeans.of(differences(shape, n, rng, margin), rng)) for _ in range(repetitions))
    return float(np.mean([p < 0.05 for p in p_values]))


def splits_coverage(share: float, seeds: int, repetitions: int, resampled: bool) -> float:
    """Return how often the 95 % interval over seeds holds the true mean over splits.

    `share` of the variance of the differences is due to the split: one for all seeds, or each seed's own.
    """
    rng, held = np.random.default_rng([int(100 * share), seeds, resampled]), 0
    for _ in range(repetitions):
        luck_S = np.sqrt(share) * rng.normal(size=seeds if resampled else 1)
        drawn_S = np.rint(SD * (luck_S + np.sqrt(1 - share) * rng.normal(size=seeds))) * POINT
        interval = SubsetMeans.of(drawn_S, rng).interval(0.05)
        held += interval is not None and _holds(interval, 0.0)
    return held / repetitions


SPLIT_SHARES = (0.0, 0.05, 0.1, 0.25, 0.5)
"""Of the variance of differences, those that are simulated."""


def _additive(rng: np.random.Generator, seeds: int) -> npt.NDArray[np.int8]:
    """Luck of each seed and of each image, which add up, on 1,000 images."""
    chance_SN = 0.25 + rng.normal(0, 0.03, (seeds, 1)) + rng.normal(0, 0.08, (1, 1000))
    draw_SN = rng.random((seeds, 1000))
    return (draw_SN < chance_SN).astype(np.int8) - (draw_SN > 1 - (0.5 - chance_SN)).astype(np.int8)


def _margins(images: float, seeds_sd: float) -> Scenario:
    """Two networks whose margins on an image decide: few images are near enough to 0 for seeds to matter."""

    def draw(rng: np.random.Generator, seeds: int) -> npt.NDArray[np.int8]:
        difficulty_N, favours_N = rng.normal(3, 2, 800), rng.normal(0, images, 800)
        right = (
            difficulty_N + sign * favours_N / 2 + rng.normal(0, seeds_sd, (seeds, 1)) + rng.normal(0, 0.7, (seeds, 800))
            > 0
            for sign in (1, -1)
        )
        ours_SN, theirs_SN = (one.astype(np.int8) for one in right)
        return ours_SN - theirs_SN

    return draw


SCENARIOS: dict[str, Scenario] = {
    "additive": _additive,
    "margins; seeds and images differ": _margins(0.5, 0.1),
    "margins; seeds differ": _margins(0.0, 0.3),
    "margins; images differ": _margins(2.0, 0.0),
    "margins; neither": _margins(0.0, 0.0),
}
"""All with a true difference of 0 over all seeds and images."""


def images_coverage(scenario: str, seeds: int, repetitions: int) -> float:
    """Return how often the 95 % interval over seeds and images holds the true mean."""
    rng = np.random.default_rng(seeds)
    found = (two_way_moments(SCENARIOS[scenario](rng, seeds)) for _ in range(repetitions))
    intervals = (moments and moments.interval() for moments in found)
    return float(np.mean([interval is None or _holds(interval, 0.0) for interval in intervals]))


SETS = (3, 2, 1)
"""Six sets on three datasets."""


def sets_coverage(images: float, seeds: int, repetitions: int, jointly: bool = True) -> float:
    """Return how often the 95 % interval of the mean over sets holds the true mean, over other seeds and images.

    An image favours a variant alike on all sets of its dataset, with standard deviation `images`. With `jointly` false,
    sets are taken for independent, which they are not.
    """
    rng, held = np.random.default_rng(seeds), 0
    for _ in range(repetitions):
        groups = [_sets_on_the_same_images(rng, sets, images, seeds) for sets in SETS]
        if not jointly:
            groups = [[one_SN] for group in groups for one_SN in group]
        moments = moments_over_sets(groups)
        interval = moments and moments.interval()
        held += interval is None or _holds(interval, 0.0)
    return held / repetitions


def _sets_on_the_same_images(
    rng: np.random.Generator, sets: int, images: float, seeds: int
) -> list[npt.NDArray[np.int8]]:
    """Luck of each set's seeds and of the images that they share, which add up, on 400 images."""
    luck_N = rng.normal(0, images, 400)
    chances_SN = (0.25 + rng.normal(0, 0.02, (seeds, 1)) + luck_N for _ in range(sets))
    draws = ((rng.random((seeds, 400)), chance_SN) for chance_SN in chances_SN)
    return [(draw < chance).astype(np.int8) - (draw > 0.5 + chance).astype(np.int8) for draw, chance in draws]


def false_alarms(contrasts: int, most: int, repetitions: int) -> float:
    """Return in how many sweeps of equal variants, looked at as planned, any contrast of a family is called different.

    As if all went on to the last look; trials of all variants share the reference's luck.
    """
    rng, ends = np.random.default_rng([contrasts, most]), all_looks(most)
    alarms = 0
    for _ in range(repetitions):
        luck_CS = rng.normal(0, np.sqrt(0.5), (contrasts + 1, most))
        walks = (Walk.of(np.rint(SD * (one - luck_CS[0])), ends, most) for one in luck_CS[1:])
        alarms += any(walk.rejects(0.05 / contrasts) for walk in walks)
    return alarms / repetitions


@dataclass(frozen=True)
class Stopped:
    """Sweeps of one contrast that stop when it is decided."""

    shares: dict[str, float]
    """Of sweeps, by outcome."""
    seeds: float
    """Mean number."""
    fixed: float
    """Share that is called better if all run to the end and are tested once."""
    too_far: float
    """How far the mean of those called better is above the true one, in standard deviations of the differences."""


def stopped(mean: float, smallest: float, most: int, repetitions: int) -> Stopped:
    """Return how sweeps end whose true difference and smallest effect are `mean` and `smallest` standard deviations."""
    rng = np.random.default_rng([int(1000 * mean), int(1000 * smallest), most])
    outcomes: Counter[str] = Counter()
    seeds, fixed, means = 0, 0, []
    for _ in range(repetitions):
        differences = np.rint(SD * rng.normal(mean, 1, most))
        outcome, end = stop_of(differences, SD * smallest, all_looks(most), 0.05)
        outcomes[outcome] += 1
        seeds += end
        fixed += SubsetMeans.of(differences, rng).p() < 0.05 and differences.sum() > 0
        means += [differences[:end].mean() / SD] if outcome == "better" else []
    shares = {outcome: count / repetitions for outcome, count in sorted(outcomes.items())}
    return Stopped(shares, seeds / repetitions, fixed / repetitions, float(np.mean(means)) - mean if means else np.nan)


def _holds(interval: Interval, value: float) -> bool:
    return interval.low <= value <= interval.high


def main() -> None:
    """Print and draw everything; takes half an hour."""
    numbers, many = (6, 10, 20, 30), 4000
    over_seeds = {shape: [seeds_coverage(shape, n, many) for n in numbers] for shape in SHAPES}
    over_images = {name: [images_coverage(name, n, many) for n in (10, 30)] for name in SCENARIOS}
    for name, shares in {**over_seeds, **over_images}.items():
        print(f"{name:35}", "  ".join(f"{100 * share:.1f} %" for share in shares), flush=True)
    over_sets = {
        name: [sets_coverage(images, n, many, jointly) for n in (10, 30)]
        for name, (images, jointly) in {
            "six sets; images do not matter": (0.0, True),
            "six sets; they share images that matter": (0.08, True),
            "the same, as if they did not": (0.08, False),
        }.items()
    }
    for name, shares in over_sets.items():
        print(f"{name:40}", "  ".join(f"{100 * share:.1f} %" for share in shares), flush=True)
    for shape in SHAPES:
        shares = [false_equivalence(shape, n, 0.2, many) for n in numbers]
        print(
            f"equivalent at the margin, {shape:25}", "  ".join(f"{100 * share:.1f} %" for share in shares), flush=True
        )
    for contrasts, most in itertools.product((1, 3, 7), (30, 100)):
        share = false_alarms(contrasts, most, 10_000)
        print(f"false alarms, {contrasts} contrasts, {most} seeds at most: {100 * share:.2f} %", flush=True)
    over_splits = {
        seeds: [splits_coverage(share, seeds, many, resampled=False) for share in SPLIT_SHARES] for seeds in (10, 30)
    }
    for seeds, shares in over_splits.items():
        print(f"one split, {seeds:<24}", "  ".join(f"{100 * share:.1f} %" for share in shares), flush=True)
    shares = [splits_coverage(share, 30, many, resampled=True) for share in SPLIT_SHARES]
    print(f"each its own split, 30 {'':12}", "  ".join(f"{100 * share:.1f} %" for share in shares), flush=True)
    effects = (0.0, 0.25, 0.5, 0.75, 1.0)
    ends = {effect: stopped(effect, 0.5, 30, 10_000 if effect in (0.5, 1.0) else 2000) for effect in effects}
    for effect, end in ends.items():
        print(f"true difference {effect} SD, what matters 0.5 SD: {end}", flush=True)
    draw(over_seeds, over_images | over_sets, over_splits, ends)


def draw(
    over_seeds: dict[str, list[float]],
    over_images: dict[str, list[float]],
    over_splits: dict[int, list[float]],
    ends: dict[float, Stopped],
) -> None:
    """Draw docs/statistics.png."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 7), layout="constrained")
    panels = figure.subplots(2, 2).flat
    for panel, title, xs, found in (
        (panels[0], "over seeds", (6, 10, 20, 30), over_seeds),
        (panels[1], "over seeds and images", (10, 30), over_images),
    ):
        panel.axhline(95, color="#222222", linewidth=0.8)
        for name, shares in found.items():
            panel.plot(xs, [100 * share for share in shares], "o-", label=name)
        panel.set(title=f"Coverage {title}, %", xlabel="seeds", ylim=(75, 100), xticks=xs)
        panel.legend(fontsize=8, loc="lower left")
    panels[2].axhline(95, color="#222222", linewidth=0.8)
    for seeds, shares in over_splits.items():
        xs = [100 * share for share in SPLIT_SHARES]
        panels[2].plot(xs, [100 * share for share in shares], "o-", label=f"{seeds} seeds, one split")
    panels[2].set(title="Coverage of the mean over splits, %", xlabel="variance that is due to the split, %")
    panels[2].set(ylim=(0, 100), xticks=xs)
    panels[2].legend(fontsize=8, loc="lower left")
    for outcome in ("better", "equivalent"):
        panels[3].plot(list(ends), [100 * end.shares.get(outcome, 0.0) for end in ends.values()], "o-", label=outcome)
    without = [100 * end.fixed for end in ends.values()]
    panels[3].plot(list(ends), without, "--", color="#222222", label="better, without looks")
    panels[3].set_xticks(list(ends), [f"{effect}\n{end.seeds:.0f} seeds" for effect, end in ends.items()])
    panels[3].set(
        title="Sweeps with looks, at most 30 seeds, %", xlabel="true difference in SD, and mean seeds", ylim=(-2, 102)
    )
    panels[3].legend(fontsize=8, loc="center right")
    figure.savefig(Path(__file__).with_name("statistics.png"), dpi=110)


if __name__ == "__main__":
    main()
