"""Keeps the stored report up to date while trials run: somebody may look in the middle of the night."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from catdog.errors import StoreError, UserError
from catdog.runs.paths import RunPaths
from catdog.runs.status import RunStatus, open_run
from catdog.storage import Store
from catdog.system.process import in_background

logger = logging.getLogger(__name__)

LEAST_SECONDS = 60.0
SHARE = 0.01
"""Of a core, which the driver may share with trials: a report that costs more is built less often."""


@contextmanager
def refresh_report(
    store: Store,
    run: str,
    refresh: Callable[[Store, RunStatus], object],
    least_seconds: float = LEAST_SECONDS,
    share: float = SHARE,
) -> Iterator[None]:
    """Call `refresh` with the run's status from time to time during the block, if trials have finished since."""

    def work(stop: threading.Event) -> None:
        pause, finished = least_seconds, -1
        while not stop.wait(pause):
            began = time.process_time()
            try:
                finished = _refresh_if_more(store, run, refresh, finished)
            except (StoreError, UserError) as error:
                logger.warning("the report could not be refreshed: %s", error)
            except Exception:  # skip this report, but keep refreshing
                logger.exception("the report could not be refreshed")
            pause = max(least_seconds, (time.process_time() - began) / share)  # what Tune did meanwhile is little

    with in_background(work, "refreshing"):
        yield


def _refresh_if_more(store: Store, run: str, refresh: Callable[[Store, RunStatus], object], finished: int) -> int:
    """Call `refresh` if other than `finished` trials have ended; returns how many have.

    What was read is large, so nothing holds it until the next time.
    """
    over = sum(key.endswith("/result.json") for key in store.list(RunPaths(run).trials))
    if over != finished:
        refresh(store, open_run(store, run, keep=True))
    return over
