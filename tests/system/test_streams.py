"""What a job writes may be lost, but ends nothing: closed, full, disconnected and odd terminals, as real processes."""

import logging
import subprocess
import sys

import pytest

from catdog.system.streams import LineFormatter
from tests.helpers.project import ROOT

JOB = """
import logging, os, sys
from catdog.cli import output_console, run_job
from catdog.formatting import NumbersTable

def main(arguments):
    console = output_console()
    for _ in range(3000):
        console.print("92.16 ± 0.33 → …", soft_wrap=True)
    console.print(NumbersTable({"name": ["x"], "Test": ["92.16 ± 0.33"]}, ()))
    logging.getLogger("catdog").warning("λ\\x1b[31m\\nnext")
    with open(os.devnull) as file:
        assert file.fileno() > 2, "a file that libraries would print into"
    print("no job writes so, but a library may: ±")
    return 7

sys.exit(run_job(main))
"""
"""Ends with 7, which neither Python nor a shell uses."""
CASES = {
    "as usual": "",
    "stdout closed": ">&-",
    "stderr closed": "2>&-",
    "all closed": "<&- >&- 2>&-",
    "stdout full": ">/dev/full",
    "both full": ">/dev/full 2>/dev/full",
    "reader gone": "| head -1",
    "both readers gone": "2>&1 | head -c 1",
}


def run_in_shell(redirection: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run the job with a shell's redirection; the exit code is the job's."""
    script = f'"$0" -c "$1" {redirection}; exit ${{PIPESTATUS[0]}}'
    command = ["env", *(f"{name}={value}" for name, value in environment.items()), "bash", "-c", script]
    return subprocess.run([*command, sys.executable, JOB], cwd=ROOT, capture_output=True, check=False)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_job_ends_with_its_own_code_wherever_its_output_goes(case: str, unbuffered: str) -> None:
    process = run_in_shell(CASES[case], PYTHONUNBUFFERED=unbuffered)
    assert process.returncode == 7, process.stderr
    assert b"Traceback" not in process.stdout + process.stderr
    assert b"Exception ignored" not in process.stdout + process.stderr


@pytest.mark.parametrize(
    ("encoding", "number", "warning"),
    [
        ("utf-8", "92.16 ± 0.33 → …", r"λ\u001b[31m\nnext"),
        ("ascii", "92.16 +/- 0.33 -> ...", r"lambda\u001b[31m\nnext"),
        ("latin-1", "92.16 ± 0.33 -> ...", r"lambda\u001b[31m\nnext"),
        ("shift_jis", "92.16 ± 0.33 → …", r"λ\u001b[31m\nnext"),
        ("euc-jp", "92.16 ± 0.33 → …", r"λ\u001b[31m\nnext"),
    ],
)
def test_what_an_encoding_lacks_is_written_in_ascii(encoding: str, number: str, warning: str) -> None:
    process = run_in_shell("", PYTHONIOENCODING=encoding)
    assert process.returncode == 7
    assert process.stdout.decode(encoding).startswith(number)
    assert process.stderr.decode(encoding) == f"{warning}\n"


def test_a_full_pipe_in_non_blocking_mode_loses_nothing() -> None:
    script = (
        "import os; os.set_blocking(1, False); from catdog.system.streams import open_output; open_output()\n"
        "for number in range(40000): print(number)"
    )
    process = subprocess.Popen(
        ["bash", "-c", '"$0" -c "$1" | (sleep 0.5; cat)', sys.executable, script], cwd=ROOT, stdout=subprocess.PIPE
    )
    assert process.communicate()[0].split() == [str(number).encode() for number in range(40000)]


def test_a_logged_traceback_keeps_its_lines_but_no_control_characters() -> None:
    try:
        raise ValueError("\x1b[31mred")
    except ValueError:
        record = logging.LogRecord("catdog", logging.ERROR, "", 0, "a\x1b\nb", None, sys.exc_info())
    lines = LineFormatter().format(record).split("\n")
    assert lines[0] == r"a\u001b\nb"
    assert lines[-1] == r"ValueError: \u001b[31mred"
    assert len(lines) > 3
