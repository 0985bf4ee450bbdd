"""A job under supervision, as processes: it has the last word however it ends, and leaves no process behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.helpers.project import ROOT

LAST_WORD = "interrupted: nothing that was finished is lost; the same command resumes from here"


def start(body: str, *lines: str, recovery: str = "pass") -> subprocess.Popen[str]:
    """Start a job with this body in a session of its own, after these lines; it prints "started" first."""
    script = "\n".join(
        (
            "import os, signal, subprocess, sys, time",
            "signal.signal(signal.SIGHUP, signal.SIG_DFL)",  # nohup may have started the tests
            "from catdog.cli import run_job",
            "from catdog.system import supervisor",
            "supervisor.GRACE_SECONDS = 60",  # a slow machine takes its time
            *lines,
            "def main(arguments):",
            "    print('started', flush=True)",
            *(f"    {line}" for line in body.splitlines()),
            "def recover(arguments, interrupted):",
            "    print('recovered', interrupted, flush=True)",
            f"    {recovery}",
            "sys.exit(run_job(main, recover=recover))",
        )
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    time.sleep(0.2)  # until it has done with printing
    return process


def end(process: subprocess.Popen[str]) -> tuple[int, str]:
    with process:
        assert process.stdout is not None
        output = process.stdout.read()
    return process.returncode, output


def is_running(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2]
    except OSError:
        return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
@pytest.mark.parametrize("send", [os.kill, os.killpg])
def test_a_signal_to_the_job_or_its_group_ends_it_with_130_and_one_line(number: int, send: object) -> None:
    process = start("time.sleep(60)")
    for _ in range(3):
        send(process.pid, number)  # type: ignore[operator]
    assert end(process) == (130, LAST_WORD + "\n")


def test_a_signal_while_another_is_being_handled_is_ignored() -> None:
    """An event is set under a lock, for which the second handler, above the first in the same thread, would wait."""
    again = (
        "def enter(self):\n    self._lock.acquire()\n    os.kill(os.getpid(), signal.SIGTERM)\n"
        "threading.Condition.__enter__ = enter"
    )
    process = start(f"{again}\nprint('ready', flush=True)\ntime.sleep(60)", "import threading")
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    assert end(process) == (130, LAST_WORD + "\n")


def test_a_signal_while_the_job_ends_changes_nothing() -> None:
    process = start(
        "try:\n    time.sleep(60)\nfinally:\n    print('ending', flush=True)\n    time.sleep(1)\n    print('ended')"
    )
    process.send_signal(signal.SIGTERM)
    assert process.stdout is not None
    assert process.stdout.readline() == "ending\n"
    os.killpg(process.pid, signal.SIGINT)
    assert end(process) == (130, f"ended\n{LAST_WORD}\n")


def test_a_job_that_does_not_heed_signals_is_ended() -> None:
    deaf = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('deaf', flush=True)\ntime.sleep(60)"
    process = start(deaf, "supervisor.GRACE_SECONDS = 1")
    assert process.stdout is not None
    assert process.stdout.readline() == "deaf\n"
    process.send_signal(signal.SIGTERM)
    assert end(process) == (130, f"recovered True\n{LAST_WORD}\n")


def test_an_error_that_a_signal_has_caused_is_not_shown() -> None:
    process = start(
        "try:\n    time.sleep(60)\nexcept KeyboardInterrupt:\n    raise ImportError('half imported') from None"
    )
    process.send_signal(signal.SIGTERM)
    assert end(process) == (130, LAST_WORD + "\n")


@pytest.mark.parametrize(("ending", "how"), [("os._exit(1)", "exit code 1"), ("os.kill(os.getpid(), 9)", "signal 9")])
def test_a_job_whose_process_is_lost_is_recovered_and_has_a_last_word(ending: str, how: str) -> None:
    code, output = end(start(ending))
    assert code == 1
    recovered, last_word = output.splitlines()
    assert recovered == "recovered False"
    assert last_word.startswith(f"error: the job was lost ({how}): its Ray was ended, or memory ran out; nothing that")


def test_a_lost_job_that_cannot_be_recovered_says_why_and_is_lost_all_the_same() -> None:
    away = "from catdog.errors import StoreError\n    raise StoreError('the bucket is away')"
    code, output = end(start("os._exit(1)", recovery=away))
    assert code == 1
    assert output.splitlines()[1] == "error: the bucket is away"
    assert output.splitlines()[2].startswith("error: the job was lost (exit code 1)")


def test_a_bug_ends_with_its_traceback() -> None:
    code, output = end(start("raise ValueError('a bug')"))
    assert (code, output.splitlines()[-1]) == (1, "ValueError: a bug")
    assert "recovered" not in output


def test_a_signal_that_was_ignored_at_the_start_stays_ignored() -> None:
    process = start("time.sleep(1)\nreturn 0", "signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does")
    process.send_signal(signal.SIGHUP)
    assert end(process) == (0, "")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux gives orphans to the supervisor")
@pytest.mark.parametrize("ending", ["return 0", "os._exit(1)", "os.kill(os.getpid(), 9)"])
def test_no_process_of_a_job_outlives_it(ending: str) -> None:
    daemon = "subprocess.Popen(['sh', '-c', 'sleep 60 & echo $!'])"
    sleeper = "print(subprocess.Popen(['sleep', '60'], start_new_session=True).pid, flush=True)"
    process = start(f"{daemon}.wait()\n{sleeper}\n{ending}")
    pids = [int(line) for line in end(process)[1].splitlines() if line.isdigit()]
    assert len(pids) == 2
    assert not any(map(is_running, pids))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of its parent's death")
def test_a_job_whose_supervisor_is_killed_ends_as_if_it_were_interrupted() -> None:
    process = start("try:\n    time.sleep(60)\nfinally:\n    print('ended', flush=True)")
    process.kill()
    assert end(process) == (-signal.SIGKILL, f"ended\n{LAST_WORD}\n")


def test_signals_during_the_imports_wait_for_the_job() -> None:
    script = (
        "import os, signal, sys\n"
        "from catdog.system.supervisor import hold_signals\n"
        "hold_signals()\n"
        "os.kill(os.getpid(), signal.SIGTERM)\n"
        "from catdog.cli import run_job\n"
        "sys.exit(run_job(lambda arguments: signal.pause()))\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stderr) == (130, LAST_WORD + "\n")


@pytest.mark.parametrize("error", ["MemoryError()", 'RuntimeError("can\'t start new thread")'])
def test_too_little_memory_is_one_line(error: str) -> None:
    code, output = end(start(f"raise {error}"))
    assert code == 2
    assert output.startswith("error: out of memory (")
    assert output.count("\n") == 1


def test_a_working_folder_that_was_deleted_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    for job in ("sweep", "status"):
        script = f"cd {folder} && rmdir {folder} && {sys.executable} {ROOT}/jobs/{job}.py demo; echo $?; mkdir {folder}"
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, env=environment, check=True)
        assert (done.stdout, done.stderr) == (
            "2\n",
            "error: the working folder has been deleted: change to another one\n",
        )
