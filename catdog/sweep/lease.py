"""Only one sweep can own a run: its driver holds a lease, an object in the store that it renews while it lives.

A driver that finds another's lease refuses to start, and names the holder. It takes over from a dead holder: at once
if that was a process on this machine, else once the lease has gone unrenewed for `LEASE_SECONDS` on the driver's own
clock (clocks of different machines are never compared) while the store answered. Between two concurrent drivers,
conditional writes decide; on stores without them the later one wins, and the earlier finds out at its next read.
The sweep of a run whose files disappear from the store ends, too, where it would make the store anew.
"""

import contextlib
import logging
import os
import platform
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

from catdog.errors import CatdogError, NotFoundError, StoreError, UserError
from catdog.formatting import ReportProgress, now
from catdog.runs.paths import RunPaths
from catdog.storage import Store
from catdog.storage.serialization import from_fields, read_json, to_json
from catdog.system.process import in_background, machine_id, process_started

LEASE_SECONDS = 60.0
_RENEWALS = 6
"""Per lease period."""
_LOOKS = 30
SETTLE_SECONDS = 1.0
"""How long it may take, without conditional writes, until two concurrent writers both see whose write came last."""


@dataclass(frozen=True)
class LeaseHolder:
    """The driver that owns a run."""

    launch: str
    host: str
    pid: int
    machine: str
    """Identifies the boot and the container in which `pid` is valid."""
    process_started: str
    """Distinguishes the process from a later one with the same pid."""
    started_at: str
    renewals: int = 0

    @property
    def text(self) -> str:
        """Return the holder as messages name it."""
        return f"process {self.pid} on {self.host}, since {self.started_at}"

    @property
    def is_dead(self) -> bool:
        """Return whether it was a process on this machine that has ended."""
        return self.machine == machine_id() and self.process_started != process_started(self.pid)


class RunLease:
    """This process's lease on a run; `verify` checks that it still holds, `ask` does so in the store."""

    def __init__(self, store: Store, run: str, launch: str, lease_seconds: float = LEASE_SECONDS) -> None:
        self._store, self._run, self._key = store, run, RunPaths(run).lease
        pid = os.getpid()
        self.launch = launch
        self._lease_seconds = lease_seconds
        self._mine = LeaseHolder(launch, platform.node(), pid, machine_id(), process_started(pid), now())
        self._planned = False
        self._lost: str | None = None
        """Why this sweep must end."""

    @contextlib.contextmanager
    def hold(self, report_progress: ReportProgress) -> Iterator["RunLease"]:
        """Hold the lease during the block; raises `UserError` if another sweep of the run is alive."""
        try:
            self._acquire(report_progress)
            self._store.remove_leftovers(self._run)
            with in_background(self._renew, "lease"):
                yield self
        finally:
            self._release()

    def verify(self) -> None:
        """Raise `UserError` if another sweep has taken over, or the run's files are gone."""
        if self._lost is not None:
            raise UserError(f"run {self._run!r} {self._lost}")

    def ask(self) -> None:
        """Verify by what the store has now, as after this machine slept; raises `UserError` or `StoreError`."""
        self._look()
        self.verify()

    def _look(self) -> None:
        other = _other_holder(self._store, self._run, self.launch)
        was_planned, self._planned = self._planned, self._store.exists(RunPaths(self._run).manifest)
        if other is not None:
            self._lost = f"was taken over by {other.text}: this sweep has ended"
        elif was_planned and not self._planned:
            self._lost = (
                f"is no longer in {self._store.url}: this sweep has ended. Once its files are back there, the same "
                "command continues"
            )

    def _acquire(self, report_progress: ReportProgress) -> None:
        decided = self._store.has_conditional_writes
        while True:
            if self._store.put_new(self._key, to_json(self._mine)):
                break
            try:
                holder = _read(self._store, self._key)
            except NotFoundError:  # released in the meantime
                continue
            except ValueError:  # damaged
                holder = None
            if holder is None or holder.is_dead or self._waits_in_vain(holder, report_progress):
                self._store.put(self._key, to_json(self._mine))
                decided = False  # two may take over from the same dead holder
                break
        if not decided:
            time.sleep(SETTLE_SECONDS)
        winner = read_lease(self._store, self._run)
        if winner is None or winner.launch != self._mine.launch:
            raise self._refusal(winner)

    def _waits_in_vain(self, holder: LeaseHolder, report_progress: ReportProgress) -> bool:
        """Wait for a sign of life; return True if there was none, False if the lease is gone."""
        if holder.machine == machine_id():
            raise self._refusal(holder)
        report_progress(
            f"a sweep of this run was started by {holder.text}: waiting {self._lease_seconds:.0f} s for a sign of life"
        )
        pause = self._lease_seconds / _LOOKS
        silence, looked = 0.0, time.monotonic()
        while silence < self._lease_seconds:
            time.sleep(pause)
            current = read_lease(self._store, self._run)
            if current is None:
                return False
            if current != holder:
                raise self._refusal(current)
            # While the store was unavailable, the holder could not renew its lease either.
            silence += min(time.monotonic() - looked, 2 * pause)
            looked = time.monotonic()
        return True

    def _refusal(self, holder: LeaseHolder | None) -> UserError:
        whose = holder.text if holder is not None else "another process"
        return UserError(
            f"run {self._run!r} is being swept by {whose}: wait until it has ended, or choose another --run"
        )

    def _renew(self, stop: threading.Event) -> None:
        renewals = 0
        while not stop.wait(self._lease_seconds / _RENEWALS):
            try:
                self._look()
                if self._lost is not None:
                    return
                renewals += 1
                self._store.put(self._key, to_json(replace(self._mine, renewals=renewals)))
            except CatdogError as error:
                logging.getLogger(__name__).warning("the lease could not be renewed: %s", error)

    def _release(self) -> None:
        with contextlib.suppress(CatdogError):
            holder = read_lease(self._store, self._run)
            if holder is not None and holder.launch == self._mine.launch:
                self._store.delete(self._key)
                self._store.remove_leftovers(self._run)


class LeaseWatch:
    """Tells from outside whether a run is being swept: somebody has its lease, and renews it."""

    def __init__(self, store: Store, run: str, lease_seconds: float = LEASE_SECONDS) -> None:
        self._store, self._run, self._lease_seconds = store, run, lease_seconds
        self._last: LeaseHolder | None = None
        self._silence, self._looked = 0.0, time.monotonic()

    def is_held(self) -> bool:
        """Return whether the lease is there, and has been renewed while the store answered; raises `StoreError`."""
        holder = read_lease(self._store, self._run)
        elapsed, self._looked = time.monotonic() - self._looked, time.monotonic()
        # While the store was unavailable, the holder could not renew its lease either.
        self._silence = 0.0 if holder != self._last else self._silence + min(elapsed, self._lease_seconds / 2)
        self._last = holder
        return holder is not None and not holder.is_dead and self._silence < self._lease_seconds


def read_lease(store: Store, run: str) -> LeaseHolder | None:
    """Return who owns a run now; None without a lease, or if it is damaged.

    Raises:
        UserError: it is a lease of another version, in which this one cannot find the holder.
    """
    try:
        return _read(store, RunPaths(run).lease)
    except (NotFoundError, ValueError):
        return None


def _read(store: Store, key: str) -> LeaseHolder:
    """Return the holder of a lease; raises `NotFoundError`, `ValueError` if it is no JSON, or `UserError`."""
    content = read_json(store.get(key))
    known = {field.name for field in fields(LeaseHolder)}
    try:
        return from_fields(LeaseHolder, {name: value for name, value in content.items() if name in known})
    except (AttributeError, ValueError) as error:
        raise UserError(f"{key} cannot be read ({error}): delete it if no other process is sweeping this run") from None


def release_dead(store: Store, run: str) -> bool:
    """Delete the lease on a run if its holder was a process on this machine that has ended; return whether it was."""
    holder = read_lease(store, run)
    if holder is None or not holder.is_dead:
        return False
    store.delete(RunPaths(run).lease)
    store.remove_leftovers(run)
    return True


def require_lease(store: Store, run: str, launch: str) -> None:
    """Raise `StoreError` if another launch has taken over: an orphaned worker must not continue."""
    try:
        other = _other_holder(store, run, launch)
    except UserError as error:
        raise StoreError(str(error)) from None
    if other is not None:
        raise StoreError(f"run {run!r} was taken over by {other.text}")


def _other_holder(store: Store, run: str, launch: str) -> LeaseHolder | None:
    """Return who owns a run now, if that is another launch."""
    holder = read_lease(store, run)
    return None if holder is None or holder.launch == launch else holder
