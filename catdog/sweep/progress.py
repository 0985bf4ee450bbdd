"""The display of a running sweep: a live table on a terminal, a line every half minute elsewhere."""

import itertools
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import fmean, stdev

from rich.console import Console, Group
from rich.live import Live
from rich.styled import Styled

from catdog.formatting import NumbersTable, format_accuracy, format_seconds
from catdog.runs.history import at_places
from catdog.runs.status import RunStatus
from catdog.system.process import in_background

LINE_SECONDS = 30.0
MOST_SHOWN = 8
"""Variants, warnings or running trials that are listed one by one."""


@dataclass
class RunningTrial:
    """How far a running trial is, in epochs."""

    started: float = field(default_factory=time.monotonic)
    resumed_at: int | None = None
    """The epoch that its process began with; None until that has ended."""
    ended: int = 0
    epochs: int = 0
    state: str = "starting"
    seconds: float = 0.0
    """From its start to its latest epoch."""

    def end_epoch(self, epoch: int, epochs: int, val_accuracy: float) -> None:
        """Record a finished epoch."""
        self.resumed_at = epoch if self.resumed_at is None else self.resumed_at
        self.ended, self.epochs = epoch + 1, epochs
        self.state = f"epoch {self.ended}/{epochs}, validation {val_accuracy:.1f}"
        self.seconds = time.monotonic() - self.started

    @property
    def share(self) -> float:
        """Return the share of its epochs that have ended."""
        return self.ended / max(1, self.epochs)

    @property
    def whole_seconds(self) -> float | None:
        """Estimate how long such a trial takes from its first epoch; None before an epoch has ended."""
        return None if self.resumed_at is None else self.seconds * self.epochs / (self.ended - self.resumed_at)


@dataclass
class VariantProgress:
    """The progress of one variant's trials."""

    title: str
    planned: int = 0
    val: list[float] = field(default_factory=list)
    test: list[float] = field(default_factory=list)
    diverged: int = 0
    failed: int = 0
    running: dict[int, RunningTrial] = field(default_factory=dict)
    """By seed."""
    collapsed: dict[int, Mapping[str, Sequence[str]]] = field(default_factory=dict)
    """seed → what was wrong with its masks in its latest epoch → at which places."""

    @property
    def done(self) -> int:
        """Return how many trials are complete."""
        return len(self.val)


class SweepProgress:
    """Counts trials as they start and end, and shows them as one line or as a live table.

    The driver's thread writes, the display's thread reads, under `lock`.
    """

    def __init__(self, run: str, run_status: RunStatus, slots: int, *, hides_test: bool = False) -> None:
        self.run = run
        self.slots = slots
        self.hides_test = hides_test
        """As in a tuning, which Validation alone decides."""
        self.variants = {
            label: VariantProgress(run_status.manifest.spec(label).title, len(run_status.manifest.seeds[label]))
            for label in run_status.manifest.variants
        }
        self.lock = threading.RLock()
        self._seconds: list[float] = []
        self._started = time.monotonic()
        self.retries = 0
        self.latest_retry = ""
        self.pending = 0
        self.notice = ""
        """What the user should know about the whole sweep."""
        for trial in run_status.trials:
            progress = self.variants[trial.planned.variant.label]
            if trial.result is not None and trial.result.status == "diverged":
                progress.diverged += 1
            elif trial.result is not None:
                progress.val.append(trial.result.val_accuracy or 0.0)
                progress.test.append(trial.result.test_accuracy or 0.0)

    def started(self, label: str, seed: int) -> None:
        """Record that a trial started."""
        with self.lock:
            self.variants[label].running[seed] = RunningTrial()

    def epoch(
        self, label: str, seed: int, epoch: int, epochs: int, val_accuracy: float, collapse: Mapping[str, Sequence[str]]
    ) -> None:
        """Record a finished epoch; `collapse` says what is wrong with the trial's masks, at which places."""
        with self.lock:
            variant = self.variants[label]
            variant.running.setdefault(seed, RunningTrial()).end_epoch(epoch, epochs, val_accuracy)
            variant.collapsed[seed] = collapse

    def finished(self, label: str, seed: int, val: float, test: float, seconds: float) -> None:
        """Record a complete trial."""
        with self.lock:
            self._end(label, seed, seconds)
            self.variants[label].val.append(val)
            self.variants[label].test.append(test)

    def diverged(self, label: str, seed: int, seconds: float) -> None:
        """Record a trial whose loss was not finite."""
        with self.lock:
            self._end(label, seed, seconds)
            self.variants[label].diverged += 1

    def failed(self, label: str, seed: int) -> None:
        """Record a trial that failed for good."""
        with self.lock:
            self._end(label, seed, None)
            self.variants[label].failed += 1

    def left_out(self, label: str, seed: int) -> None:
        """Record a trial that was not started because the launch is closed."""
        with self.lock:
            self._end(label, seed, None)

    def interrupted(self, label: str, seed: int, why: str) -> None:
        """Record a trial that will be retried: its process or node was lost, or the store was unavailable."""
        with self.lock:
            self.variants[label].running.pop(seed, None)
            self.retries += 1
            self.latest_retry = f"{self.variants[label].title} seed {seed}: {why}"[:160]

    @property
    def seconds(self) -> float:
        """Return how long the sweep has been running."""
        return time.monotonic() - self._started

    @property
    def eta_seconds(self) -> float | None:
        """Estimate how long the pending trials will take from those that ended, or else from the epochs that ended.

        None before the first epoch.
        """
        with self.lock:
            running = [trial for variant in self.variants.values() for trial in variant.running.values()]
            seconds = self._seconds or [trial.whole_seconds for trial in running if trial.whole_seconds is not None]
            if not seconds:
                return None
            left = self.pending - sum(trial.share for trial in running)
            return left * fmean(seconds) / max(1, min(self.slots, self.pending))

    def _end(self, label: str, seed: int, seconds: float | None) -> None:
        self.variants[label].running.pop(seed, None)
        self.pending -= 1
        if seconds is not None:
            self._seconds.append(seconds)

    def line(self) -> str:
        """Return the state as one line."""
        with self.lock:
            variants = self.variants.values()
            done, planned = sum(v.done for v in variants), sum(v.planned for v in variants)
            running, failed = sum(len(v.running) for v in variants), sum(v.failed + v.diverged for v in variants)
            parts = [f"{self.run}: {done}/{planned} done, {running} running, {failed} failed"]
            if not done and (states := self._states()):
                parts.append(max(states)[1])
            if self.retries:
                parts.append(self._retries)
            shown = {v.title: v.val if self.hides_test else v.test for v in variants}
            what = "validation" if self.hides_test else "test"
            parts += _first(
                f"{title} {what} {_mean_and_std(accuracies)} (n={len(accuracies)})"
                for title, accuracies in shown.items()
                if accuracies
            )
            parts += _first(self._warnings())
            eta = self.eta_seconds
            parts.append(f"ETA {format_seconds(eta)}" if eta is not None else f"{format_seconds(self.seconds)} so far")
            return " | ".join(parts)

    def __rich__(self) -> Group:
        with self.lock:
            variants = self.variants.values()
            columns = {
                "variant": [variant.title for variant in variants],
                "done": [f"{variant.done}/{variant.planned}" for variant in variants],
                "running": [str(len(variant.running)) for variant in variants],
                "failed": [str(variant.failed + variant.diverged) for variant in variants],
                "Validation": [_mean_and_std(variant.val) for variant in variants],
            }
            if not self.hides_test:
                columns["Test"] = [_mean_and_std(variant.test) for variant in variants]
            table = NumbersTable(columns, optional=("failed", "running"), has_frame=False)
            current = [Styled(f"  {state}", "dim") for _, state in self._states()]
            eta = self.eta_seconds
            footer = f"{format_seconds(self.seconds)} elapsed"
            footer += f", about {format_seconds(eta)} to go" if eta is not None else ""
            footer += f", {self._retries}" if self.retries else ""
            warnings = [Styled(f"  {warning}", "yellow") for warning in _first(self._warnings())]
            return Group(table, *current[:MOST_SHOWN], *warnings, Styled(footer, "dim"))

    @property
    def _retries(self) -> str:
        return f"{self.retries} started again (latest: {self.latest_retry})"

    def _states(self) -> list[tuple[float, str]]:
        """Return the share of its epochs that have ended, and a text, for each running trial."""
        return [
            (trial.share, f"{variant.title} seed {seed}: {trial.state}")
            for variant in self.variants.values()
            for seed, trial in variant.running.items()
        ]

    def _warnings(self) -> list[str]:
        notice, variants = self.notice, self.variants.values()
        return [notice] * bool(notice) + [
            f"{variant.title}: {'; '.join(_collapses(list(variant.collapsed.values())))} of its trials"
            for variant in variants
            if any(variant.collapsed.values())
        ]


def _collapses(trials: Sequence[Mapping[str, Sequence[str]]]) -> list[str]:
    """Return a text for each kind of mask collapse, with all its places, and the number of trials that have it."""
    texts = []
    for wrong in dict.fromkeys(itertools.chain.from_iterable(trials)):
        places = [trial[wrong] for trial in trials if wrong in trial]
        where = at_places(itertools.chain.from_iterable(places))
        texts.append(f"{wrong}{where} in {len(places)}")
    return texts


def _first(texts: Iterable[str]) -> list[str]:
    """Return as many texts as a reader takes in, and how many others there are."""
    shown = list(texts)
    return shown if len(shown) <= MOST_SHOWN else [*shown[:MOST_SHOWN], f"and {len(shown) - MOST_SHOWN} more"]


def _mean_and_std(accuracies: list[float]) -> str:
    mean = fmean(accuracies) if accuracies else None
    return format_accuracy(mean, stdev(accuracies) if len(accuracies) > 1 else None)


@contextmanager
def show_progress(progress: SweepProgress, console: Console) -> Iterator[None]:
    """Show the progress while the block runs."""
    if console.is_terminal:
        with Live(progress, console=console, refresh_per_second=2, transient=True):
            yield
        return

    def print_lines(stop: threading.Event) -> None:
        while not stop.wait(LINE_SECONDS):
            console.print(progress.line(), soft_wrap=True)

    with in_background(print_lines, "progress"):
        yield
