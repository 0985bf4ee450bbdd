"""How long a store's operation is tried again while the store is unavailable."""

import logging
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from catdog.errors import StoreError, first_line

logger = logging.getLogger(__name__)
T = TypeVar("T")

_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 20.0


class Patience:
    """Tries an operation again for so many seconds."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._giving_up = threading.Event()

    def set_retrying(self, on: bool) -> None:
        """Retry from now on, or raise the first error of every operation."""
        if on:
            self._giving_up.clear()
        else:
            self._giving_up.set()

    def retry(self, attempt: Callable[[], T], may_pass: Callable[[StoreError], bool]) -> T:
        """Return what `attempt` returns, which is repeated after errors that may pass until the patience runs out."""
        started, pause = time.monotonic(), _FIRST_PAUSE
        while True:
            try:
                return attempt()
            except StoreError as error:
                if not may_pass(error):
                    raise
                waited = time.monotonic() - started
                if waited + pause > self.seconds or self._giving_up.is_set():
                    raise type(error)(f"{error} (for {waited:.0f} s)") from error
                logger.warning("waiting for the store: %s", first_line(error))
                self._giving_up.wait(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
