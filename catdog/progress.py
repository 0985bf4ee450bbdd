"""What a user sees while a sweep runs: a live table on a terminal, a line every half minute elsewhere."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from catdog.aggregation import format_accuracy
from catdog.background import in_background
from catdog.ledger import Ledger
from catdog.statistics import summarise

LINE_SECONDS = 30.0


@dataclass
class VariantProgress:
    """The trials of one variant."""

    planned: int = 0
    val: list[float] = field(default_factory=list)
    test: list[float] = field(default_factory=list)
    diverged: int = 0
    failed: int = 0
    running: dict[int, str] = field(default_factory=dict)
    """seed → how far it is."""
    collapsed: dict[int, str] = field(default_factory=dict)
    """seed → what was wrong with its masks in its latest epoch."""

    @property
    def done(self) -> int:
        return len(self.val)


class SweepProgress:
    """Counts trials as they start and end; knows how to show itself. Called from the driver's thread."""

    def __init__(self, run: str, ledger: Ledger, slots: int) -> None:
        self.run = run
        self.slots = slots
        self.variants = {
            label: VariantProgress(len(ledger.manifest.seeds[label])) for label in ledger.manifest.variants
        }
        self._lock = threading.RLock()
        self._seconds: list[float] = []
        self._started = time.monotonic()
        self.retries = 0
        self._latest_retry = ""
        self.pending = 0
        self.notice = ""
        """What the user should know about the whole sweep."""
        for entry in ledger.entries:
            progress = self.variants[entry.trial.variant.label]
            if entry.result is not None and entry.result.status == "diverged":
                progress.diverged += 1
            elif entry.result is not None:
                progress.val.append(entry.result.val_accuracy or 0.0)
                progress.test.append(entry.result.test_accuracy or 0.0)

    def started(self, label: str, seed: int) -> None:
        with self._lock:
            self.variants[label].running[seed] = "starting"

    def epoch(self, label: str, seed: int, epoch: int, epochs: int, val_accuracy: float, collapse: str = "") -> None:
        """A trial ended an epoch; `collapse` says what is wrong with its masks, if anything is."""
        with self._lock:
            variant = self.variants[label]
            variant.running[seed] = f"epoch {epoch + 1}/{epochs}, validation {val_accuracy:.1f}"
            if collapse:
                variant.collapsed[seed] = collapse
            else:
                variant.collapsed.pop(seed, None)

    def finished(self, label: str, seed: int, val: float, test: float, seconds: float) -> None:
        with self._lock:
            self._end(label, seed, seconds)
            self.variants[label].val.append(val)
            self.variants[label].test.append(test)

    def diverged(self, label: str, seed: int, seconds: float) -> None:
        with self._lock:
            self._end(label, seed, seconds)
            self.variants[label].diverged += 1

    def failed(self, label: str, seed: int) -> None:
        with self._lock:
            self._end(label, seed, None)
            self.variants[label].failed += 1

    def left_out(self, label: str, seed: int) -> None:
        """A trial was not started, because no more were to start."""
        with self._lock:
            self._end(label, seed, None)

    def interrupted(self, label: str, seed: int, why: str) -> None:
        """A trial's process or node was lost, or the store stayed away; it will start again."""
        with self._lock:
            self.variants[label].running.pop(seed, None)
            self.retries += 1
            self._latest_retry = f"{label} seed {seed}: {why}"[:160]

    @property
    def eta_seconds(self) -> float | None:
        """How long the pending trials will take, from those that ended since the start; None before the first."""
        with self._lock:
            if not self._seconds:
                return None
            left = self.pending * sum(self._seconds) / len(self._seconds)
            return left / max(1, min(self.slots, self.pending))

    def line(self) -> str:
        """Return the state as one line."""
        with self._lock:
            done, failed, running, planned = self._totals()
            parts = [f"{self.run}: {done}/{planned} done, {running} running, {failed} failed"]
            if self.retries:
                parts.append(self._retried)
            parts += [
                f"{label} test {format_accuracy(s.mean, s.std)} (n={s.n})"
                for label, variant in self.variants.items()
                if (s := summarise(variant.test)).n
            ]
            parts += self._warnings()
            eta = self.eta_seconds
            parts.append(
                f"ETA {format_seconds(eta)}"
                if eta is not None
                else f"{format_seconds(time.monotonic() - self._started)} so far"
            )
            return " | ".join(parts)

    def __rich__(self) -> Group:
        with self._lock:
            table = Table(box=None, pad_edge=False, header_style="bold")
            for name in ("variant", "done", "running", "failed", "Validation", "Test"):
                table.add_column(name, justify="left" if name == "variant" else "right")
            for label, variant in self.variants.items():
                val, test = summarise(variant.val), summarise(variant.test)
                table.add_row(
                    label,
                    f"{variant.done}/{variant.planned}",
                    str(len(variant.running)),
                    str(variant.failed + variant.diverged),
                    format_accuracy(val.mean, val.std),
                    format_accuracy(test.mean, test.std),
                )
            current = [
                Text(f"  {label} seed {seed}: {state}", style="dim")
                for label, variant in self.variants.items()
                for seed, state in variant.running.items()
            ]
            eta = self.eta_seconds
            elapsed = format_seconds(time.monotonic() - self._started)
            footer = f"{elapsed} elapsed" + (f", about {format_seconds(eta)} to go" if eta is not None else "")
            footer += f", {self._retried}" if self.retries else ""
            warnings = [Text(f"  {warning}", style="yellow") for warning in self._warnings()]
            return Group(table, *current[:8], *warnings, Text(footer, style="dim"))

    def _end(self, label: str, seed: int, seconds: float | None) -> None:
        self.variants[label].running.pop(seed, None)
        self.pending -= 1
        if seconds is not None:
            self._seconds.append(seconds)

    @property
    def _retried(self) -> str:
        return f"{self.retries} started again (latest: {self._latest_retry})"

    def _warnings(self) -> list[str]:
        return [self.notice] * bool(self.notice) + [
            f"{label}: {what} in {count} of its trials"
            for label, variant in self.variants.items()
            for what, count in Counter(variant.collapsed.values()).items()
        ]

    def _totals(self) -> tuple[int, int, int, int]:
        variants = self.variants.values()
        return (
            sum(v.done for v in variants),
            sum(v.failed + v.diverged for v in variants),
            sum(len(v.running) for v in variants),
            sum(v.planned for v in variants),
        )


@contextmanager
def showing(progress: SweepProgress, console: Console) -> Iterator[None]:
    """Show the progress while the block runs."""
    if console.is_terminal:
        with Live(progress, console=console, refresh_per_second=2, transient=True):
            yield
        return

    def print_lines(stop: threading.Event) -> None:
        while not stop.wait(LINE_SECONDS):
            console.print(progress.line(), soft_wrap=True, highlight=False, markup=False)

    with in_background(print_lines, "progress"):
        yield


def format_seconds(seconds: float) -> str:
    """Return a duration for people: 45 s, 2.5 min, 12 min, 3.4 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.{1 if seconds < 570 else 0}f} min"
    return f"{seconds / 3600:.1f} h"
