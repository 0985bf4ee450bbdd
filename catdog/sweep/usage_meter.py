"""A run's usage and cost: GPU-hours, or core-hours if trials use no GPU.

Everything that is up while trials run is paid for, idle or not; `Meter` integrates both the units that are up and those
that trials use. Packing, features and probes before them, and looks and reports after, are not counted. Each launch
keeps its own record in the store, so the sum survives the driver. The driver's node is not counted unless trials run on
it.
"""

import dataclasses
import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from catdog.errors import StoreError
from catdog.runs.cost import Launch, total_cost
from catdog.runs.paths import RunPaths
from catdog.storage import Store
from catdog.storage.serialization import to_json
from catdog.sweep.notifications import Notifier
from catdog.sweep.progress import SweepProgress
from catdog.system.process import in_background

logger = logging.getLogger(__name__)
READ_SECONDS = 5.0
WRITE_SECONDS = 60.0


class Meter:
    """Measures one launch of a sweep while it runs. Thread-safe."""

    def __init__(
        self,
        launch: Launch,
        units_per_trial: float,
        count_units: Callable[[], float],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`count_units` returns the number of units the cluster has now."""
        self._launch = launch
        self._units_per_trial = units_per_trial
        self._count_units = count_units
        self._clock = clock
        self._lock = threading.Lock()
        self._began = self._read_at = clock()
        self._running: dict[tuple[str, int], float] = {}
        self._unit_seconds = 0.0
        self._busy_seconds: defaultdict[str, float] = defaultdict(float)
        self._closed = False

    def started(self, label: str, seed: int) -> None:
        """Record that a trial started."""
        with self._lock:
            self._running.setdefault((label, seed), self._clock())

    def ended(self, label: str, seed: int) -> None:
        """Record that a trial ended."""
        with self._lock:
            began = self._running.pop((label, seed), None)
            if began is not None:
                self._busy_seconds[label] += (self._clock() - began) * self._units_per_trial

    def close(self) -> None:
        """Mark the launch as closed: no more trials start."""
        self._closed = True

    def read(self) -> Launch:
        """Return the launch so far, as if the cluster had had its current units since the last reading."""
        units = self._count_units()
        with self._lock:
            now = self._clock()
            self._unit_seconds += units * (now - self._read_at)
            self._read_at = now
            busy = dict(self._busy_seconds)
            for (label, _), began in self._running.items():
                busy[label] = busy.get(label, 0.0) + (now - began) * self._units_per_trial
            return dataclasses.replace(
                self._launch,
                seconds=now - self._began,
                unit_hours=self._unit_seconds / 3600,
                busy_hours={label: seconds / 3600 for label, seconds in busy.items()},
                closed=self._closed,
            )


class Budget:
    """Reads the meter on its own thread. When the budget is spent, running trials finish and no more start."""

    def __init__(
        self,
        meter: Meter,
        store: Store,
        paths: RunPaths,
        earlier: Sequence[Launch],
        max_cost: float | None,
        progress: SweepProgress,
        notifier: Notifier,
    ) -> None:
        self._meter, self._store, self._paths, self._progress = meter, store, paths, progress
        self._notifier = notifier
        self._earlier, self._max_cost = earlier, max_cost

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Meter the block and store the launch when it exits, even with an exception."""
        self._step(write=True)
        try:
            with in_background(self._watch, "budget"):
                yield
        finally:
            self._step(write=True)

    def _watch(self, stop: threading.Event) -> None:
        written = time.monotonic()
        while not stop.wait(READ_SECONDS):
            due = time.monotonic() - written >= WRITE_SECONDS
            self._step(write=due)
            if due:
                written = time.monotonic()

    def _step(self, write: bool) -> None:
        launch = self._meter.read()
        if self._max_cost is not None and not launch.closed:
            spent = total_cost((*self._earlier, launch), launch.hourly_price)
            if spent >= self._max_cost:
                self._meter.close()
                launch, write = self._meter.read(), True
                self._progress.notice = f"--max-cost {self._max_cost:g} is reached: no more trials start"
                self._notifier.send("cost", self._progress.notice, lambda: [self._progress.line()])
        if write:
            try:
                self._store.put(self._paths.launch(launch.name), to_json(launch))
            except StoreError as error:
                logger.warning("the sweep's usage could not be stored: %s", error)
