"""The report of a running sweep: rebuilt as trials finish, and marked as still running."""

import functools
import threading
import time
import weakref

import pytest

from catdog.report.build import write_report
from catdog.runs.paths import RunPaths
from catdog.runs.status import RunStatus
from catdog.storage import MemoryStore, Store
from catdog.sweep.report_refresh import MOST_KEPT, refresh_report
from tests.helpers.made_runs import CountedStore, make_run


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


@pytest.mark.parametrize(("most_kept", "reads_again"), [(MOST_KEPT, False), (0, True)])
def test_a_report_reads_only_new_trials_unless_what_was_read_is_too_large_to_hold(
    most_kept: int, reads_again: bool
) -> None:
    """Of ten thousand trials it is half a gigabyte, on a head of eight."""
    store, refreshed, histories = CountedStore(), threading.Event(), []
    make_run(store, ["baseline"], range(1), epochs=2, test_images=40)
    whole = MemoryStore()
    make_run(whole, ["baseline"], range(2), epochs=2, test_images=40)

    def refresh(store: Store, run_status: RunStatus) -> None:
        write_report(store, run_status, running=True)
        histories.append(weakref.ref(run_status.kept["made/trials/baseline/seed-00/history.csv"]))
        refreshed.set()

    with refresh_report(store, "made", refresh, least_seconds=0.01, share=1, most_kept=most_kept):
        assert refreshed.wait(60)
        while reads_again and histories[0]() is not None:
            time.sleep(0.01)
        refreshed.clear()
        store.read.clear()
        store.objects.update({key: data for key, data in whole.objects.items() if "/trials/" in key})
        store.objects.update({key: data for key, data in whole.objects.items() if key.endswith("manifest.json")})
        assert refreshed.wait(60)
    again = {key.rpartition("/")[2] for key in store.read if "/seed-00/" in key}
    assert again >= {"history.csv", "predictions.npz", "result.json"} if reads_again else not again
    assert "2 of 2" in store.get(RunPaths("made").report("report.html")).decode()


def test_a_failure_is_in_the_report_before_another_trial_ends() -> None:
    store, refreshed, counts = MemoryStore(), threading.Event(), []
    make_run(store, ["baseline"], range(2), epochs=1, test_images=40, missing=[("baseline", 1)])

    def refresh(store: Store, run_status: RunStatus) -> None:
        counts.append((run_status.counts["complete"], run_status.counts["failed"]))
        refreshed.set()

    with refresh_report(store, "made", refresh, least_seconds=0.01, share=1):
        assert refreshed.wait(60)
        refreshed.clear()
        make_run(store, ["baseline"], range(2), epochs=1, test_images=40, failed=[("baseline", 1)])
        assert refreshed.wait(60)
    assert counts == [(1, 0), (1, 1)]


def test_a_run_that_cannot_be_read_does_not_end_the_sweep() -> None:
    tried = threading.Event()

    class Broken(MemoryStore):
        def get(self, key: str) -> bytes:
            tried.set()
            return super().get(key)

    with refresh_report(Broken(), "nothing", functools.partial(write_report, running=True), least_seconds=0.01):
        assert tried.wait(60)
