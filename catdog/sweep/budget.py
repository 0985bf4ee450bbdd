"""Keeps what a launch has used in the store while it runs, and closes the sweep when it has cost what it may."""

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from catdog.background import in_background
from catdog.errors import StoreError
from catdog.paths import RunPaths
from catdog.progress import SweepProgress
from catdog.records import Launch, to_json
from catdog.spending import Meter, launch_cost
from catdog.storage import Store

logger = logging.getLogger(__name__)

READ_SECONDS = 5.0
WRITE_SECONDS = 60.0


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
