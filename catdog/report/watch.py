"""Follow a run from its store: a view redrawn in place on a terminal, a line for each change elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.styled import Styled

from catdog.errors import StoreError, UserError, first_line
from catdog.formatting import now, readable_time
from catdog.report.terminal import counts_line, status_parts
from catdog.runs.status import Known, RunStatus, open_run
from catdog.storage import Store

LEAST_SECONDS, MOST_SECONDS = 5.0, 60.0
"""From one look to the next."""
SHARE = 0.05
"""Of the time, spent looking: listing the files of ten thousand trials takes seconds."""

Show = Callable[[RunStatus | None, str], None]
"""Shows a run's status, and what is wrong with the store, if anything."""


def watch_run(
    console: Console, store: Store, run: str, is_swept: Callable[[], bool], least_seconds: float = LEAST_SECONDS
) -> RunStatus:
    """Show where a run stands until it is complete or, twice in a row, not swept; returns its last status.

    A store that does not answer is asked again, for ever if it has answered before.

    Raises:
        UserError: there is no such run, or the store refuses from the start.
    """
    known, run_status, idle = Known(), None, 0
    store.set_retrying(False)  # it is asked again here, and that can be seen
    with _view(console, store.url) as show:
        while True:
            started, problem = time.monotonic(), ""
            try:
                idle = 0 if is_swept() else idle + 1  # before the run is read, which may be complete by then
                run_status = open_run(store, run, known=known).with_short_labels()
            except StoreError as error:
                if run_status is None and isinstance(error, UserError):
                    raise
                problem = f"the store does not answer, trying again: {first_line(error)}"
            else:
                if run_status.is_complete or idle > 1:
                    return run_status
            show(run_status, problem)
            time.sleep(min(max(least_seconds, (time.monotonic() - started) / SHARE), MOST_SECONDS))


@contextmanager
def _view(console: Console, url: str) -> Iterator[Show]:
    """Yield a function that shows a status in place on a terminal; elsewhere, as a line if it has changed."""
    if console.is_terminal:
        with Live(console=console, auto_refresh=False, transient=True) as live:
            yield lambda run_status, problem: live.update(_screen(url, run_status, problem), refresh=True)
        return
    before: str | None = None

    def print_change(run_status: RunStatus | None, problem: str) -> None:
        nonlocal before
        counts = "" if run_status is None or problem else counts_line(url, run_status)
        if counts != before:  # without them there is a problem, which is said once, however it is worded the next time
            console.print(f"{readable_time(now())}  {counts or problem}", soft_wrap=True)
        before = counts

    yield print_change


def _screen(url: str, run_status: RunStatus | None, problem: str) -> Group:
    parts = [] if run_status is None else [*status_parts(url, run_status)]
    said = problem or f"looked at {now()[11:19]} UTC; Ctrl-C ends the watch"
    return Group(Styled(said, "dim"), *parts)  # first: what a low terminal has no room for is cut below
