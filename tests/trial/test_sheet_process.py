"""Contact sheets drawn in a process of their own: the same bytes, whatever happens to the process."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing

import numpy as np
import pytest

from catdog.runs.places import HEAD
from catdog.system.process import process_started
from catdog.trial.contact_sheet import Probes, contact_sheet
from catdog.trial.sheet_process import SheetProcess

SCRIPT = """
import sys
from tests.trial.test_sheet_process import sheet
from catdog.trial.sheet_process import sheet_process
sheet_process().contact_sheet(*sheet(1))
print(sheet_process().pid, flush=True)
sys.stdin.read()
"""


def sheet(epoch: int) -> tuple[Probes, dict[str, np.ndarray], np.ndarray, str]:
    generator = np.random.default_rng(epoch)
    images = generator.integers(0, 256, (2, 256, 256, 3), dtype=np.uint8)
    probes = Probes(images, ("one", "two"), np.arange(2), ("Abyssinian", "Bengal"))
    masks = {HEAD: generator.random((2, 4, 7, 7)).astype(np.float16)}
    return probes, masks, np.array([1, 1]), f"multi-attention · seed 0 · epoch {epoch}"


@pytest.fixture
def process() -> Iterator[SheetProcess]:
    with closing(SheetProcess()) as process:
        yield process


def test_a_process_draws_the_same_bytes_and_stays(process: SheetProcess) -> None:
    assert process.contact_sheet(*sheet(0)) == contact_sheet(*sheet(0))
    first = process.pid
    assert first not in (None, os.getpid())
    assert process.contact_sheet(*sheet(1)) == contact_sheet(*sheet(1))
    assert process.pid == first


def test_a_sheet_is_drawn_though_its_process_was_killed_and_later_ones_by_a_new_process(process: SheetProcess) -> None:
    process.contact_sheet(*sheet(0))
    first = process.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    assert process.contact_sheet(*sheet(1)) == contact_sheet(*sheet(1))
    assert process.contact_sheet(*sheet(2)) == contact_sheet(*sheet(2))
    assert process.pid not in (None, first)


def test_an_error_of_drawing_is_the_callers(process: SheetProcess, capfd: pytest.CaptureFixture[str]) -> None:
    probes, masks, _, title = sheet(0)
    with pytest.raises(IndexError):
        process.contact_sheet(probes, masks, np.array([0, 99]), title)
    assert "IndexError" in capfd.readouterr().err


@pytest.mark.parametrize("ending", [signal.SIGKILL, None], ids=["killed", "ended"])
def test_it_ends_with_the_process_that_it_draws_for(ending: signal.Signals | None) -> None:
    with subprocess.Popen([sys.executable, "-c", SCRIPT], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        assert owner.stdin is not None
        drawer = int(owner.stdout.readline())
        if ending is None:
            owner.stdin.close()
        else:
            owner.send_signal(ending)
        deadline = time.monotonic() + 30
        while process_started(drawer) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not process_started(drawer)


def test_it_does_not_load_torch() -> None:
    code = "import catdog.trial.sheet_process, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
