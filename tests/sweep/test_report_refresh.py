"""The report of a running sweep: rebuilt as trials finish, and marked as still running."""

import functools
import threading
import weakref

from catdog.report.build import write_report
from catdog.runs.paths import RunPaths
from catdog.runs.status import RunStatus
from catdog.storage import MemoryStore, Store
from catdog.sweep.report_refresh import refresh_report
from tests.helpers.made_runs import make_run


def test_the_report_is_rebuilt_as_trials_finish_and_says_that_the_sweep_is_still_running() -> None:
    store = MemoryStore()
    make_run(store, ["baseline", "attention"], range(2), missing=[("attention", 1)], epochs=2)
    done = []
    refreshed = threading.Event()

    def refresh(store: Store, run_status: RunStatus) -> None:
        write_report(store, run_status, running=True)
        done.append(run_status.counts["complete"])
        refreshed.set()

    with refresh_report(store, "made", refresh, least_seconds=0.01, share=1):
        assert refreshed.wait(60)
        page = store.get(RunPaths("made").report("report.html")).decode()
        assert "still running" in page
        assert "3 of 4" in page
        refreshed.clear()
        make_run(store, ["baseline", "attention"], range(2), epochs=2)
        assert refreshed.wait(60)
    assert done == [3, 4]


def test_what_was_read_for_a_report_is_not_held_until_the_next() -> None:
    """Of ten thousand trials it is half a gigabyte, on a head of eight."""
    store, read, again = MemoryStore(), [], threading.Event()
    make_run(store, ["baseline"], range(1), epochs=2)

    def refresh(store: Store, run_status: RunStatus) -> None:
        read.append(weakref.ref(run_status))
        again.set()

    class Watched(MemoryStore):
        def list(self, prefix: str) -> list[str]:
            if read:
                held.append(read[-1]() is not None)
            return super().list(prefix)

    held: list[bool] = []
    watched = Watched()
    watched.objects = store.objects
    with refresh_report(watched, "made", refresh, least_seconds=0.01, share=1):
        assert again.wait(60)
        again.clear()
        make_run(store, ["baseline"], range(2), epochs=2)
        assert again.wait(60)
    assert held
    assert not any(held)


def test_a_run_that_cannot_be_read_does_not_end_the_sweep() -> None:
    tried = threading.Event()

    class Broken(MemoryStore):
        def get(self, key: str) -> bytes:
            tried.set()
            return super().get(key)

    with refresh_report(Broken(), "nothing", functools.partial(write_report, running=True), least_seconds=0.01):
        assert tried.wait(60)
