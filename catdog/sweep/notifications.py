"""Messages of a sweep to a phone or a chat, through Apprise: https://github.com/caronc/apprise.

Each kind is sent once, from a thread of its own: a service that hangs or fails delays nothing, and is one line. A
service's URL holds its token: no message, log or stored file quotes it.
"""

import functools
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console

from catdog.config.sweep_options import SweepConfig
from catdog.errors import UserError, first_line
from catdog.formatting import ReportProgress, printable, shorten
from catdog.runs.paths import RunPaths
from catdog.storage import Store, StoreLocation

SECONDS = 15.0
"""How long the end of a job waits for its messages."""
INTERRUPTED_SECONDS = 1.0
"""The same, of one that is interrupted: its supervisor gives it few."""
INTERRUPTED, LOST = "interrupted: the same command resumes", "its process was lost: the same command resumes"
MOST_CHARACTERS = 500
"""Of one line: it may quote an error."""


class Notifier:
    """Tells of one job's sweep; without targets it is silent."""

    def __init__(self, targets: Sequence[str], store: Store, run: str, report_progress: ReportProgress) -> None:
        """`targets` are Apprise's URLs, or files of them; raises `UserError` if Apprise is missing or knows no such."""
        self._services = _services(targets)
        self._store, self._run, self._report_progress = store, run, report_progress
        self._threads: dict[str, threading.Thread] = {}

    def send(self, kind: str, what: str, details: Callable[[], Iterable[str]] = tuple) -> None:
        """Tell in the background `what` happened, with details and where the report is, unless one of `kind` was sent.

        The thread asks for the details, which may be in the store.
        """
        if self._services and kind not in self._threads:
            self._threads[kind] = threading.Thread(target=self._send, args=(what, details), daemon=True, name="notify")
            self._threads[kind].start()

    def send_end(self, is_complete: bool, details: Callable[[], Iterable[str]]) -> None:
        """Tell that the sweep has ended by itself."""
        self.send("end", "complete" if is_complete else "ended, and not complete", details)

    def wait(self, seconds: float = SECONDS) -> None:
        """Wait until all messages are sent, but not for long."""
        deadline = time.monotonic() + seconds
        for thread in self._threads.values():
            thread.join(max(0.0, deadline - time.monotonic()))

    def _send(self, what: str, details: Callable[[], Iterable[str]]) -> None:
        lines: list[str] = []
        try:
            lines += (shorten(printable(line), MOST_CHARACTERS) for line in details())
            lines += self._report()
        except Exception as error:
            lines.append(f"more could not be found out: {printable(first_line(error))}")
        title = printable(f"catdog {self._run}: {what}")
        for name, service in self._services:
            try:
                is_sent = service.notify(title=title, body="\n".join(lines), body_format="text")
            except Exception:  # its text may quote the URL
                is_sent = False
            if not is_sent:
                self._report_progress(f"--notify: {name} did not take a message ({what}); the sweep is not affected")

    def _report(self) -> Iterator[str]:
        """Yield where the report is, and a link to it if it's there and a phone can follow one."""
        page = RunPaths(self._run).report("report.html")
        yield f"report: {self._store.url}/{page}"
        if self._store.is_shared and self._store.exists(page):
            link = self._store.link(page)
            yield f"{link.lasts}: {link.url}"


@contextmanager
def telling_the_end(config: SweepConfig, console: Console) -> Iterator[Notifier]:
    """Yield a sweep's notifier; tell of an error or interruption that ends the block; wait for what is being sent."""
    store = StoreLocation.of(config.store, config.store_patience).open()
    notifier = Notifier(config.notify, store, config.run_name, functools.partial(console.print, soft_wrap=True))
    try:
        yield notifier
    except KeyboardInterrupt:
        notifier.send("end", INTERRUPTED)
        notifier.wait(INTERRUPTED_SECONDS)
        raise
    except Exception as error:
        message = first_line(error)
        notifier.send("end", "ended by an error", lambda: [message])
        notifier.wait()
        raise
    notifier.wait()


def _services(targets: Sequence[str]) -> list[tuple[str, Any]]:
    """Return an Apprise for each service, with the service's name."""
    if not targets:
        return []
    try:
        import apprise
    except ImportError:
        raise UserError("--notify: needs Apprise: pip install 'catdog-sweep[notify]'") from None
    logging.getLogger("apprise").setLevel(logging.CRITICAL + 1)  # it quotes parts of URLs
    # Redirected, a POST becomes a GET, which succeeds and tells nobody; `?redirect=yes` in a URL allows it.
    asset = apprise.AppriseAsset(app_id="catdog", http_redirects=False)
    found = []
    for number, target in enumerate(targets, 1):
        file = os.path.expanduser(target)
        services = apprise.Apprise(apprise.AppriseConfig(file) if os.path.isfile(file) else target, asset=asset)
        if not len(services):
            raise UserError(
                f"--notify: Apprise can do nothing with value {number}: give a URL as in its documentation, such as "
                "ntfy://HOST/TOPIC, or a file with one on each line"
            )
        found += [(str(one.service_name), apprise.Apprise(one, asset=asset)) for one in services]
    return found
