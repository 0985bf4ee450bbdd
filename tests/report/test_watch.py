"""Following a run from its store: on a terminal, in a log, while the store is away."""

import io
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from catdog.cli import output_console
from catdog.errors import StoreError, StoreRefusedError, UserError
from catdog.report.watch import watch_run
from catdog.runs.status import RunStatus
from catdog.storage import LocalStore, MemoryStore
from catdog.sweep.lease import RunLease
from tests.helpers.made_runs import CountedStore, make_run

LABELS = ["baseline", "se"]


def scripted(*events: Callable[[], object]) -> Callable[[], bool]:
    """Return whether a run is swept, at each look: one of the events happens, and with none left it is not."""
    waiting = iter(events)

    def is_swept() -> bool:
        for event in waiting:
            event()
            return True
        return False

    return is_swept


def watch(store: MemoryStore, *events: Callable[[], object], run: str = "made") -> tuple[RunStatus, str]:
    """Watch a run; return its last status, and what a log shows."""
    output = io.StringIO()
    run_status = watch_run(Console(file=output, width=140), store, run, scripted(*events), least_seconds=0)
    return run_status, output.getvalue()


def nothing() -> None:
    """What happens between two looks."""


def test_a_log_gets_a_line_for_each_change_until_the_run_is_complete() -> None:
    store = MemoryStore()
    make_run(store, LABELS, range(2), epochs=2, test_images=40, missing=[("se", 0), ("se", 1)])

    def one_more() -> None:
        make_run(store, LABELS, range(2), epochs=2, test_images=40, missing=[("se", 1)])

    def all_of_them() -> None:
        make_run(store, LABELS, range(2), epochs=2, test_images=40)

    run_status, output = watch(store, nothing, nothing, one_more, nothing, all_of_them)
    assert run_status.is_complete
    assert [line.split(", ")[1] for line in output.splitlines()] == ["2 complete", "3 complete"]
    assert " UTC  made in memory: 4 trials" in output


def test_it_ends_when_nobody_sweeps_the_run_any_more() -> None:
    store = MemoryStore()
    make_run(store, LABELS, range(2), epochs=2, test_images=40, failed=[("se", 0)])
    run_status, output = watch(store)
    assert not run_status.is_complete
    assert output.count("\n") == 1, "a sweep may be between two of its looks"


def test_only_what_is_new_is_read() -> None:
    store = CountedStore()
    make_run(store, LABELS, range(3), epochs=2, test_images=40, missing=[("se", 2)])

    whole = MemoryStore()
    make_run(whole, LABELS, range(3), epochs=2, test_images=40)

    def finish() -> None:
        store.objects.update(whole.objects)
        store.read.clear()

    watch(store, nothing, nothing, finish)
    of_trials = {key for key in store.read if "/trials/" in key}
    assert of_trials == {f"made/trials/se/seed-02/{name}" for name in ("result.json", "history.csv", "predictions.npz")}


def test_a_result_that_is_damaged_is_looked_at_again() -> None:
    store = MemoryStore()
    make_run(store, LABELS, range(2), epochs=2, test_images=40)
    key = "made/trials/se/seed-01/history.csv"
    good, store.objects[key] = store.objects[key], b"epoch\n"
    run_status, output = watch(store, nothing, lambda: store.put(key, good))
    assert run_status.is_complete
    assert "3 complete" in output


def test_a_terminal_shows_the_table_in_place(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"FORCE_COLOR": "1", "TERM": "xterm"}.items():
        monkeypatch.setenv(name, value)
    store = MemoryStore()
    make_run(store, LABELS, range(2), epochs=2, test_images=40, failed=[("se", 1)], error_message="no \x1b[31m room")
    watch_run(output_console(), store, "made", scripted(nothing, nothing), least_seconds=0)
    output = capsys.readouterr().out
    assert output.count("Validation") > 1
    assert "no \\u001b[31m room" in output
    assert "\x1b[1A\x1b[2K" in output, "the cursor goes up, and lines are erased"
    assert "\x1b[31m" not in output
    assert "looked at " in output


def test_a_store_that_does_not_answer_is_asked_again() -> None:
    class Flaky(MemoryStore):
        away = iter([False, True, True, False])

        def list(self, prefix: str) -> list[str]:
            if prefix.endswith("/trials/") and next(self.away, False):
                raise StoreError(f"no route to host ({time.monotonic()} s)")
            return super().list(prefix)

    store = Flaky()
    make_run(store, LABELS, range(2), epochs=2, test_images=40, missing=[("se", 1)])
    store.away = iter([False, True, True, False])
    _, output = watch(store, nothing, nothing, nothing)
    first, second, third = output.splitlines()
    assert "3 complete" in first
    assert "  the store does not answer, trying again: no route to host (" in second
    assert "3 complete" in third


def test_a_terminal_too_small_for_the_table_still_says_that_the_store_is_away() -> None:
    class Away(MemoryStore):
        def list(self, prefix: str) -> list[str]:
            if self.is_away:
                raise StoreError("no route to host")
            return super().list(prefix)

        is_away = False

    store, output = Away(), io.StringIO()
    make_run(store, LABELS, range(2), epochs=2, test_images=40, missing=[("se", 1)])

    def leave() -> None:
        store.is_away = True

    def come_back() -> None:
        store.is_away = False

    console = Console(file=output, force_terminal=True, width=80, height=4)
    watch_run(console, store, "made", scripted(nothing, leave, come_back), least_seconds=0)
    assert "the store does not answer, trying again: no route to host" in output.getvalue()
    assert "looked at " in output.getvalue()


def test_ctrl_c_ends_the_watch_alone(tmp_path: Path) -> None:
    make_run(LocalStore(tmp_path), LABELS, range(2), epochs=2, test_images=40, missing=[("se", 1)])
    lease = RunLease(LocalStore(tmp_path), "made", "launch")
    command = [sys.executable, "-u", "jobs/status.py", "--store", str(tmp_path), "--run", "made", "--watch"]
    with (
        lease.hold(print),
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as watching,
    ):
        assert watching.stdout is not None
        assert "3 complete" in watching.stdout.readline()
        watching.send_signal(signal.SIGINT)
        _, said = watching.communicate()
    assert (watching.returncode, said) == (130, "the watch has ended; the run goes on\n")


def test_a_mistake_ends_it_at_once() -> None:
    class Refusing(MemoryStore):
        def get(self, key: str) -> bytes:
            raise StoreRefusedError("--store s3://x: there is no bucket 'x'")

    with pytest.raises(UserError, match="no bucket"):
        watch(Refusing(), nothing)
    with pytest.raises(UserError, match="there is no such run"):
        watch(MemoryStore(), nothing, run="day")
