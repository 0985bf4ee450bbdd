"""The benchmarks' table matches the measurements, and the commands respond; nothing is timed here."""

import subprocess
import sys

import pytest
import torch

from tests.helpers.project import ROOT

HERE = ROOT / "benchmarks"


def call(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=HERE, capture_output=True, text=True, timeout=300)


def test_the_table_matches_the_measurements() -> None:
    rendered = call("-c", "import run; print(run.render(), end='')")
    assert rendered.stdout == (HERE / "RESULTS.md").read_text(), "python benchmarks/run.py writes it"
    assert "| no |" in rendered.stdout or "| yes |" in rendered.stdout


@pytest.mark.parametrize("script", ["run.py", "alternatives.py"])
def test_an_unknown_measurement_is_a_mistake_that_lists_the_names(script: str) -> None:
    process = call(script, "nonsense")
    assert process.returncode == 2
    assert "choose from" in process.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU: it would be measured")
def test_without_a_gpu_the_gpu_measurements_say_so() -> None:
    process = call("gpu.py")
    assert process.returncode == 2
    assert "no GPU" in process.stderr
