"""Keeps the report in the store up to date while trials run: somebody may look in the middle of the night."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from catdog.aggregation import open_ledger
from catdog.errors import StoreError, UserError
from catdog.ledger import Ledger
from catdog.storage import Store

logger = logging.getLogger(__name__)

LEAST_SECONDS = 300.0
SHARE = 0.02
"""Of the time: a report that takes long is made less often, since the driver may share its cores with trials."""


class Refreshing:
    """Calls a function with where the run stands, on a thread of its own."""

    def __init__(
        self,
        store: Store,
        run: str,
        refresh: Callable[[Store, Ledger], object],
        least_seconds: float = LEAST_SECONDS,
    ) -> None:
        self._store, self._run, self._refresh, self._least_seconds = store, run, refresh, least_seconds
        self._stop = threading.Event()

    @contextmanager
    def often(self) -> Iterator[None]:
        """Refresh now and then while the block runs; nothing is being written any more when it has ended."""
        thread = threading.Thread(target=self._work, daemon=True, name="refreshing")
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()

    def _work(self) -> None:
        pause, finished = self._least_seconds, -1
        while not self._stop.wait(pause):
            started = time.monotonic()
            try:
                ledger = open_ledger(self._store, self._run)
                if (over := sum(entry.result is not None for entry in ledger.entries)) != finished:
                    self._refresh(self._store, ledger)
                    finished = over
            except (StoreError, UserError) as error:
                logger.warning("the report could not be refreshed: %s", error)
            pause = max(self._least_seconds, (time.monotonic() - started) / SHARE)
