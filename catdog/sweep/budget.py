"""What a run has used and what that cost: hours of GPUs, or of CPU cores where trials use no GPU.

Everything that is there while a sweep runs is paid for, idle or not; `Meter` integrates both what is there and what
trials use. Each launch of a sweep keeps a record of its own in the store, so that the sum survives the driver. The node
that runs the driver is not counted unless trials run on it.
"""

import dataclasses
import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from catdog.errors import StoreError
from catdog.runs.cost import Launch, launch_cost
from catdog.runs.paths import RunPaths
from catdog.storage import Store
from catdog.storage.serialization import to_json
from catdog.sweep.progress import SweepProgress
from catdog.system.cpu import in_background

logger = logging.getLogger(__name__)
READ_SECONDS = 5.0
WRITE_SECONDS = 60.0


class Meter:
    """Measures one launch of a sweep while it runs. Called from several threads."""

    def __init__(
        self,
        launch: Launch,
        units_per_trial: float,
        count_units: Callable[[], float],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`count_units` returns how many units the cluster has now."""
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
        with self._lock:
            self._running.setdefault((label, seed), self._clock())

    def ended(self, label: str, seed: int) -> None:
        with self._lock:
            began = self._running.pop((label, seed), None)
            if began is not None:
                self._busy_seconds[label] += (self._clock() - began) * self._units_per_trial

    def close(self) -> None:
        """No more trials are to start."""
        self._closed = True

    def read(self) -> Launch:
        """Return the launch up to now; what the cluster has now is what it had since the last reading."""
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
    """Reads the meter on a thread of its own. Trials that are running when the budget is spent go on to their end."""

    def __init__(
        self,
        meter: Meter,
        store: Store,
        paths: RunPaths,
        earlier: Sequence[Launch],
        max_cost: float | None,
        progress: SweepProgress,
    ) -> None:
        self._meter, self._store, self._paths, self._progress = meter, store, paths, progress
        self._earlier, self._max_cost = earlier, max_cost

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Meter what happens in the block; the launch is in the store when it ends, however it ends."""
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
            spent = sum(launch_cost(one, launch.hourly_price) for one in (*self._earlier, launch))
            if spent >= self._max_cost:
                self._meter.close()
                launch, write = self._meter.read(), True
                self._progress.notice = f"--max-cost {self._max_cost:g} is reached: no more trials start"
        if write:
            try:
                self._store.put(self._paths.launch(launch.name), to_json(launch))
            except StoreError as error:
                logger.warning("what the sweep has used could not be stored: %s", error)
