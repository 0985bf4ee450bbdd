"""The benchmarks' table matches the measurements, and the commands respond; nothing is timed here."""

import runpy
import sys
from collections.abc import Callable
from typing import Any

import pytest
import ray  # noqa: F401  # here, not in a test: it logs to the stderr of the import, which a test would close
import torch

from tests.helpers.project import ROOT

HERE = ROOT / "benchmarks"
Call = Callable[..., Any]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch) -> Call:
    """A function that runs a script with arguments, as from the command line, and returns its exit code."""
    monkeypatch.syspath_prepend(HERE)

    def run(script: str, *arguments: str) -> Any:
        monkeypatch.setattr(sys, "argv", [script, *arguments])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(HERE / script), run_name="__main__")
        return ended.value.code

    return run


def test_the_table_matches_the_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(HERE)
    rendered = runpy.run_path(str(HERE / "run.py"))["render"]()
    assert rendered == (HERE / "RESULTS.md").read_text(), "python benchmarks/run.py writes it"


@pytest.mark.parametrize("script", ["run.py", "alternatives.py", "gpu.py"])
def test_an_unknown_measurement_is_a_mistake_that_lists_the_names(
    script: str, call: Call, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(script, "nonsense") == 2
    assert "choose from" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU: it would be measured")
def test_without_a_gpu_the_gpu_measurements_say_so(call: Call, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("gpu.py") == 2
    assert "no GPU" in capsys.readouterr().err
