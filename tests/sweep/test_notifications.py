"""Messages of a sweep: what is told, once, and that telling never stops or delays anything."""

import dataclasses
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from catdog.cli import recorded_command, run_job
from catdog.config.presets import PRESETS
from catdog.errors import StoreError, UserError
from catdog.runs.paths import RunPaths
from catdog.storage import LocalStore, MemoryStore, StoreLocation
from catdog.sweep.lease import RunLease
from catdog.sweep.notifications import INTERRUPTED, Notifier, telling_the_end
from jobs import study, sweep, tune
from tests.helpers.inbox import Inbox, inbox
from tests.helpers.made_runs import make_run

NOBODY = "json://127.0.0.1:9/a-token"


@pytest.fixture
def box() -> Iterator[Inbox]:
    with inbox() as box:
        yield box


def test_each_kind_of_message_is_sent_once_with_its_details_and_the_place_of_the_report(box: Inbox) -> None:
    notifier = Notifier([box.url], MemoryStore(), "night", pytest.fail)
    notifier.send("failure", "se seed 3 failed", lambda: ["RuntimeError: \x1b[31m<b>no</b>", "1/9 done"])
    notifier.send("failure", "se seed 4 failed")
    notifier.wait()
    notifier.send_end(True, list)
    notifier.wait()
    assert box.messages == [
        (
            "catdog night: se seed 3 failed",
            ["RuntimeError: \\u001b[31m<b>no</b>", "1/9 done", "report: memory/night/report/report.html"],
        ),
        ("catdog night: complete", ["report: memory/night/report/report.html"]),
    ]


def test_a_message_links_to_a_report_on_s3(box: Inbox, s3_bucket: str) -> None:
    store = StoreLocation.of(s3_bucket).open()
    notifier = Notifier([box.url], store, "night", pytest.fail)
    notifier.send("look", "before there is a report")
    notifier.wait()
    store.put(RunPaths("night").report("report.html"), b"<p>")
    notifier.send_end(False, list)
    notifier.wait()
    place = f"report: {s3_bucket}/night/report/report.html"
    assert [lines[0] for _, lines in box.messages] == [place, place]
    assert len(box.messages[0][1]) == 1
    assert box.messages[1][1][1].startswith("for everybody who has it, for 7 days: http://")


def test_a_service_that_hangs_delays_nothing_and_one_that_fails_is_one_line_without_its_token(box: Inbox) -> None:
    said: list[str] = []
    box.answers.clear()
    notifier = Notifier([box.url, NOBODY], MemoryStore(), "night", said.append)
    notifier.send_end(True, list)
    notifier.wait(seconds=0)
    assert said == []
    box.answers.set()
    notifier.wait()
    assert said == ["--notify: JSON did not take a message (complete); the sweep is not affected"]


@pytest.mark.parametrize("status", [301, 307, 404, 500])
def test_a_message_that_a_service_did_not_take_is_one_line_even_if_a_redirection_ends_well(
    status: int, box: Inbox
) -> None:
    said: list[str] = []
    box.status = status
    notifier = Notifier([box.url], MemoryStore(), "night", said.append)
    notifier.send_end(True, list)
    notifier.wait()
    assert said == ["--notify: JSON did not take a message (complete); the sweep is not affected"]
    assert len(box.messages) == 1


def test_what_cannot_be_found_out_is_said_and_the_message_is_sent(box: Inbox) -> None:
    def details() -> Iterator[str]:
        yield "2/9 done"
        raise StoreError("the bucket is away")

    notifier = Notifier([box.url], MemoryStore(), "night", pytest.fail)
    notifier.send("failure", "se seed 3 failed", details)
    notifier.wait()
    assert box.messages[0][1] == ["2/9 done", "more could not be found out: the bucket is away"]


def test_an_error_that_ends_the_sweep_is_told(box: Inbox, tmp_path: Path) -> None:
    config = dataclasses.replace(PRESETS["demo"], store=str(tmp_path), notify=(box.url,))
    with pytest.raises(UserError, match="disk is full"), telling_the_end(config, Console()):
        raise UserError("the disk is full")
    assert box.messages[0][0] == "catdog demo: ended by an error"
    assert box.messages[0][1][0] == "the disk is full"


def test_an_interruption_is_told_wherever_it_comes_and_once(box: Inbox, tmp_path: Path) -> None:
    config = dataclasses.replace(PRESETS["demo"], store=str(tmp_path), notify=(box.url,))

    def interrupt(*details: str) -> None:
        with telling_the_end(config, Console()) as notifier:
            if details:
                notifier.send("end", INTERRUPTED, lambda: details)
            raise KeyboardInterrupt

    for details in ((), ("2/9 done",)):
        with pytest.raises(KeyboardInterrupt):
            interrupt(*details)
    report = f"report: {tmp_path}/demo/report/report.html"
    said = "catdog demo: interrupted: the same command resumes"
    assert box.messages == [(said, [report]), (said, ["2/9 done", report])]


def test_the_loss_of_a_process_is_told_by_a_study_and_by_a_tuning(box: Inbox, tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    ended = subprocess.Popen(["true"])
    ended.wait()
    for run in ("search", "weights"):
        make_run(store, ["baseline", "multi-attention"], range(2), epochs=2, test_images=40, run=run)
        with RunLease(store, run, "lost").hold(pytest.fail):
            lease = json.loads(store.get(RunPaths(run).lease))
        store.put(RunPaths(run).lease, json.dumps({**lease, "pid": ended.pid}).encode())
    options = ["demo", "--store", str(tmp_path), "--variants", "multi-attention", "--notify", box.url]
    for _ in range(2):  # the second finds nothing under way
        tune.recover([*options, "--run", "search"], False)
        study.recover(["lambda", *options, "--run", "weights"], False)
    lost = "its process was lost: the same command resumes"
    assert box.titles == [f"catdog search: {lost}", f"catdog weights: {lost}"]
    assert store.exists(RunPaths("weights").report("report.html"))


def test_the_loss_of_a_process_that_swept_nothing_is_not_told(box: Inbox, tmp_path: Path) -> None:
    """As of a dry run, or of a second sweep that waited for the first to show signs of life."""
    store = LocalStore(tmp_path)
    make_run(store, ["baseline", "multi-attention"], range(2), epochs=2, test_images=40, run="night")
    options = ["demo", "--store", str(tmp_path), "--run", "night", "--notify", box.url]
    for action in ("--dry-run", "--print-config"):
        sweep.recover([*options, action], False)
    study.recover(["lambda", *options, "--dry-run"], False)
    with RunLease(store, "night", "first").hold(pytest.fail):
        sweep.recover(options, False)
    assert not store.exists(RunPaths("night").report("report.html"))
    sweep.recover(options, False)
    assert box.titles == ["catdog night: its process was lost: the same command resumes"]


def test_a_file_of_urls_keeps_tokens_off_the_command_line(box: Inbox, tmp_path: Path) -> None:
    (tmp_path / "urls").write_text(f"# whom to tell\n{box.url}\n{box.url}?format=markdown\n")
    notifier = Notifier([str(tmp_path / "urls")], MemoryStore(), "night", pytest.fail)
    notifier.send_end(True, list)
    notifier.wait()
    assert box.titles == ["catdog night: complete"] * 2


@pytest.mark.parametrize("target", ["nonsense://a-token", "a-token", "slack://a-token", "json://"])
def test_a_target_that_apprise_does_not_know_is_a_mistake_that_does_not_quote_it(
    target: str, box: Inbox, store_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_job(sweep.main, ["demo", "--store", str(store_folder), "--notify", box.url, "--notify", target]) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("error: --notify: Apprise can do nothing with value 2: give a URL")
    assert "a-token" not in shown.err + shown.out
    assert not (store_folder / "demo").exists()


def test_the_command_is_recorded_without_its_targets() -> None:
    given = ["demo", "--notify", "json://a-token", "--seeds", "3", "--notify=json://b", "--run", "night"]
    assert recorded_command("sweep", given) == ("python", "jobs/sweep.py", "demo", "--seeds", "3", "--run", "night")
    assert recorded_command("tune", ["demo"]) == ("python", "jobs/tune.py", "demo")
