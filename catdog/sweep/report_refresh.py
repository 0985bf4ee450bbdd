"""Keeps the stored report up to date while trials run: somebody may look in the middle of the night."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from catdog.errors import StoreError, UserError
from catdog.runs.paths import RunPaths
from catdog.runs.status import Known, RunStatus, open_run
from catdog.storage import Store
from catdog.system.process import in_background

logger = logging.getLogger(__name__)

LEAST_SECONDS = 60.0
SHARE = 0.01
"""Of a core, which the driver may share with trials: a report that costs more is made less often."""
LOADING_SECONDS = 2.0
"""Of a core, in which the first report loads matplotlib and more, once: they do not make the second one later."""
MOST_KEPT = 64_000_000
"""Bytes that are kept from one report to the next, so that only new trials are read: those of 2,000 trials on pets."""
Refresh = Callable[[Store, RunStatus], object]


@contextmanager
def refresh_report(
    store: Store,
    run: str,
    refresh: Refresh,
    least_seconds: float = LEAST_SECONDS,
    share: float = SHARE,
    most_kept: int = MOST_KEPT,
) -> Iterator[None]:
    """Call `refresh` with the run's status from time to time during the block, if trials have finished since."""

    def work(stop: threading.Event) -> None:
        pause, finished, known, loading = least_seconds, -1, Known(), LOADING_SECONDS
        while not stop.wait(pause):
            began = time.process_time()  # with what other threads do meanwhile, which is little beside a report
            try:
                finished = _refresh_if_more(store, run, refresh, finished, known)
            except (StoreError, UserError) as error:
                logger.warning("the report could not be refreshed: %s", error)
            except Exception:  # skip this report, but keep refreshing
                logger.exception("the report could not be refreshed")
            if known.kept_bytes > most_kept:  # of ten thousand trials it is half a gigabyte
                known = Known()
            pause, loading = max(least_seconds, (time.process_time() - began - loading) / share), 0.0

    with in_background(work, "refreshing"):
        yield


def _refresh_if_more(store: Store, run: str, refresh: Refresh, finished: int, known: Known) -> int:
    """Call `refresh` if other than `finished` trials have ended, or failed; returns how many have."""
    paths = RunPaths(run)
    over = sum(key.endswith("/result.json") for key in store.list(paths.trials)) + len(store.list(paths.failures))
    if over != finished:
        refresh(store, open_run(store, run, keep=True, known=known))
    return over
