"""One sweep of a run at a time: the driver's claim, an object in the store that it renews while it lives.

A driver that finds the claim of another one refuses, and says whose it is. Where the other is dead, it takes over: at
once if that was a process of this machine, else when the claim has not been renewed for `LEASE_SECONDS` of this
driver's own clock (clocks of different machines are never compared), during which the store answered. Stores that
support conditional writes decide between two that come at once; on others the later one wins, and the earlier finds
out when it looks again.
"""

import contextlib
import json
import logging
import os
import platform
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from catdog.background import in_background
from catdog.errors import NotFoundError, StoreError, UserError
from catdog.paths import RunPaths
from catdog.provenance import now
from catdog.records import to_json
from catdog.storage import Store

LEASE_SECONDS = 60.0
_RENEWALS = 6
"""In the time of a lease."""
_LOOKS = 30
SETTLE_SECONDS = 1.0
"""How long it may take, without conditions, until both of two writers see which of them was the later."""


@dataclass(frozen=True)
class Holder:
    """Who sweeps a run."""

    launch: str
    host: str
    pid: int
    machine: str
    """Of this boot, and of this container: where `pid` means something."""
    process_started: str
    """Tells a process from a later one with the same pid."""
    started_at: str
    renewals: int = 0

    @property
    def text(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.started_at}"

    @property
    def is_known_dead(self) -> bool:
        """Whether it was a process of this machine that has ended."""
        return self.machine == _machine() and self.process_started != _process_started(self.pid)


class Claim:
    """The claim of this process on a run; `verify` says whether it still holds."""

    def __init__(self, store: Store, run: str, launch: str, lease_seconds: float = LEASE_SECONDS) -> None:
        self._store, self._run, self._key = store, run, RunPaths(run).claim
        pid = os.getpid()
        self.launch = launch
        self._lease_seconds = lease_seconds
        self._mine = Holder(launch, platform.node(), pid, _machine(), _process_started(pid), now())
        self._lost: Holder | None = None

    @contextlib.contextmanager
    def held(self, say: Callable[[str], None]) -> Iterator["Claim"]:
        """Hold the claim in the block; raises `UserError` if another sweep of the run is alive."""
        self._acquire(say)
        self._store.tidy(self._run)
        try:
            with in_background(self._renew, "claim"):
                yield self
        finally:
            self._release()

    def verify(self) -> None:
        """Raise `UserError` if another sweep has taken over."""
        if self._lost is not None:
            raise UserError(f"run {self._run!r} was taken over by {self._lost.text}: this sweep has ended")

    def _acquire(self, say: Callable[[str], None]) -> None:
        decided = not self._store.url.startswith("s3://")
        while True:
            if self._store.put_new(self._key, _to_json(self._mine)):
                break
            holder = read_holder(self._store, self._run)
            if holder is None:
                self._store.delete(self._key)  # damaged, or gone in the meantime
            elif holder.is_known_dead or self._waits_in_vain(holder, say):
                self._store.put(self._key, _to_json(self._mine))
                decided = False  # two may take over from the same dead one
                break
        if not decided:
            time.sleep(SETTLE_SECONDS)
        winner = read_holder(self._store, self._run)
        if winner is None or winner.launch != self._mine.launch:
            raise self._refusal(winner)

    def _waits_in_vain(self, holder: Holder, say: Callable[[str], None]) -> bool:
        """Wait for a sign of life; return True if there was none, False if the claim is gone."""
        if holder.machine == _machine():
            raise self._refusal(holder)
        say(f"a sweep of this run was started by {holder.text}: waiting {self._lease_seconds:.0f} s for a sign of life")
        pause = self._lease_seconds / _LOOKS
        silence, looked = 0.0, time.monotonic()
        while silence < self._lease_seconds:
            time.sleep(pause)
            current = read_holder(self._store, self._run)
            if current is None:
                return False
            if current != holder:
                raise self._refusal(current)
            # While the store was away the other one could not renew its claim either.
            silence += min(time.monotonic() - looked, 2 * pause)
            looked = time.monotonic()
        return True

    def _refusal(self, holder: Holder | None) -> UserError:
        whose = holder.text if holder is not None else "another process"
        return UserError(
            f"run {self._run!r} is being swept by {whose}: wait until it has ended, or choose another --run"
        )

    def _renew(self, stop: threading.Event) -> None:
        renewals = 0
        while not stop.wait(self._lease_seconds / _RENEWALS):
            try:
                holder = read_holder(self._store, self._run)
                if holder is not None and holder.launch != self._mine.launch:
                    self._lost = holder
                    return
                renewals += 1
                self._store.put(self._key, _to_json(replace(self._mine, renewals=renewals)))
            except StoreError as error:
                logging.getLogger(__name__).warning("the claim could not be renewed: %s", error)

    def _release(self) -> None:
        with contextlib.suppress(StoreError):
            holder = read_holder(self._store, self._run)
            if holder is not None and holder.launch == self._mine.launch:
                self._store.delete(self._key)
                self._store.tidy(self._run)


def read_holder(store: Store, run: str) -> Holder | None:
    """Return who sweeps a run now; None if nobody says so."""
    try:
        return Holder(**json.loads(store.get(RunPaths(run).claim)))
    except (NotFoundError, TypeError, ValueError):
        return None


def require_claim(store: Store, run: str, launch: str) -> None:
    """Raise `StoreError` where another launch has taken over: a worker that outlived its driver must not go on."""
    holder = read_holder(store, run)
    if holder is not None and holder.launch != launch:
        raise StoreError(f"run {run!r} was taken over by {holder.text}")


def _to_json(holder: Holder) -> bytes:
    return to_json(asdict(holder))


def _machine() -> str:
    """Return what tells this boot of this machine, or this container, from every other one."""
    parts = [platform.node()]
    for read in (lambda: Path("/proc/sys/kernel/random/boot_id").read_text().strip(), _process_namespace):
        with contextlib.suppress(OSError):
            parts.append(read())
    return " ".join(parts)


def _process_namespace() -> str:
    return os.readlink("/proc/self/ns/pid")


def _process_started(pid: int) -> str:
    """Return when a process started, in ticks since boot; only that it is alive where there is no /proc; else ''."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if fields[0] in "ZX" else fields[19]  # a zombie has ended, whether somebody waited for it or not
    except OSError:
        if Path("/proc/self/stat").exists():
            return ""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        pass
    return "alive"
