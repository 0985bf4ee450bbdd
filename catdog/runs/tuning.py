"""How the variants of a run were tuned: the same budget over the same ranges for each, by Validation alone."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from catdog.config.sweep_options import format_seeds
from catdog.errors import NotFoundError, UserError
from catdog.runs.paths import RunPaths
from catdog.storage import Store
from catdog.storage.serialization import from_fields, read_json


@dataclass(frozen=True)
class Point:
    """One set of values that was tried for a variant."""

    label: str
    """Of the variant with these values."""
    values: Mapping[str, str]
    """As they stand in the label, by name."""
    accuracy: float | None = None
    """Mean Validation accuracy over the seeds, in percent; None until it is known, or if a trial diverged or failed."""


@dataclass(frozen=True)
class Tuning:
    """A search for the values of each variant: tuning.json of its run."""

    run: str
    budget: int
    """Points for each variant."""
    seeds: tuple[int, ...]
    """Of each point; no comparison may use them."""
    ranges: tuple[str, ...]
    variants: Mapping[str, tuple[Point, ...]] = field(default_factory=dict)
    """By the label of a variant before tuning: its points, in order."""

    def best(self, variant: str) -> Point | None:
        """Return a variant's point with the highest accuracy, the earliest on ties; None if no point has one."""
        scored = [point for point in self.variants[variant] if point.accuracy is not None]
        return max(scored, key=lambda point: point.accuracy or 0.0, default=None)

    def best_so_far(self, variant: str) -> list[float | None]:
        """Return the best accuracy after each point of a variant; None before the first that has one."""
        points = self.variants[variant]
        known = [
            [one.accuracy for one in points[:count] if one.accuracy is not None] for count in range(1, len(points) + 1)
        ]
        return [max(accuracies, default=None) for accuracies in known]

    def check_seeds(self, seeds: Iterable[int]) -> None:
        """Raise `UserError` if a comparison would use seeds that chose its settings."""
        if used := sorted(set(seeds) & set(self.seeds)):
            raise UserError(f"--seeds: {used[0]} is a seed that run {self.run!r} was tuned with; choose others")


def read_tuning(store: Store, run: str) -> Tuning | None:
    """Return a run's tuning, or None if it has none; raises `UserError` if it is damaged."""
    key = RunPaths(run).tuning
    try:
        tuning = from_fields(Tuning, read_json(store.get(key)))
        if tuning.run != run or any(len(points) > 100_000 for points in tuning.variants.values()):
            raise ValueError("it is another run's, or has too many points")
    except NotFoundError:
        return None
    except ValueError as error:
        raise UserError(f"{key} is damaged ({error}): restore it, or tune again under another --run") from None
    return tuning


def mean_accuracy(accuracies: Sequence[float | None], seeds: int) -> float | None:
    """Return the mean of a point's accuracies; None unless there is one for each seed."""
    known = [accuracy for accuracy in accuracies if accuracy is not None]
    return sum(known) / seeds if len(known) == seeds else None


def tuning_sentence(tuning: Tuning, labels: Sequence[str]) -> str:
    """Return what a report on the variants with these labels says of a tuning."""
    tried = " or ".join(map(str, sorted({len(points) for points in tuning.variants.values()})))
    ranges, seeds = ", ".join(tuning.ranges), format_seeds(tuning.seeds)
    lacking = sum(point.accuracy is None for points in tuning.variants.values() for point in points)
    best = {point.label for variant in tuning.variants if (point := tuning.best(variant)) is not None}
    others = [label for label in labels if label not in best]
    shown = ", ".join(others)
    return (
        f"Before this run, {tried} points were tried for each variant (run {tuning.run}), over {ranges}, with seeds "
        f"{seeds}, which no comparison uses; the point with the best mean Validation accuracy was taken. Test had no "
        f"part in it.{f' Points without an accuracy, in all: {lacking}.' if lacking else ''}"
        f"{f' Not tuned: {shown}.' if others else ''}"
    )
