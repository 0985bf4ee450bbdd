"""Figures are the same bytes in any surroundings: a notebook's backend, a user's settings, folders without access."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from catdog.report.figures import accuracies_svg, accuracy_figure
from catdog.report.study_figures import lambda_figure
from tests.helpers.project import ROOT


def digests() -> list[str]:
    accuracies = {"val_accuracy": [90.0, 91.0, 92.5], "test_accuracy": [89.0, 90.0, 90.5]}
    trials = pd.DataFrame({"variant": "baseline", "seed": [0, 1, 2], "status": "complete", **accuracies})
    measures = ("overlap", "val_difference", "test_difference")
    columns = [f"{name}_{kind}" for name in measures for kind in ("mean", "low", "high")]
    study = pd.DataFrame({"lambda": [0.0, 0.1], "n": 3, **{name: [1.0, 2.0] for name in columns}})
    svg = accuracies_svg(trials, ("baseline",), "test_accuracy").encode()
    figures = [accuracy_figure(trials, ("baseline",)), svg, lambda_figure(study)]
    return [hashlib.sha256(figure).hexdigest() for figure in figures]


def draw_in(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run this file in a process of its own, which imports matplotlib anew."""
    return subprocess.run(
        [sys.executable, __file__],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(("count", "says"), [(200, False), (201, True)])
def test_a_plot_with_fewer_points_than_trials_says_so_itself(count: int, says: bool) -> None:
    """Figures are also shown without the page, whose caption says it."""
    accuracies = np.linspace(80.0, 90.0, count)
    trials = pd.DataFrame({"variant": "baseline", "status": "complete", "test_accuracy": accuracies})
    svg = accuracies_svg(trials, ("baseline",), "test_accuracy")
    assert ("accuracy, %; 200 points of a row at most" in svg) is says


def test_neither_a_notebooks_backend_nor_a_users_settings_change_a_figure(tmp_path: Path) -> None:
    settings = "axes.facecolor: red\nfont.size: 30\nbackend: nonsense\nnonsense: 3\nlines.linewidth: hello\n"
    for folder in ("here", "config", "variable"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "matplotlibrc").write_text(settings)
    drawn = draw_in(
        tmp_path / "here",
        MPLBACKEND="module://matplotlib_inline.backend_inline",
        MPLCONFIGDIR=str(tmp_path / "config"),
        MATPLOTLIBRC=str(tmp_path / "variable"),
    )
    assert (drawn.stderr, drawn.stdout.split()) == ("", digests())


def test_a_folder_for_settings_that_cannot_be_used_is_not_worth_a_word(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    drawn = draw_in(tmp_path, MPLCONFIGDIR=str(tmp_path / "file"))
    assert (drawn.stderr, drawn.stdout.split()) == ("", digests())


def test_settings_that_are_no_text_are_named(tmp_path: Path) -> None:
    (tmp_path / "matplotlibrc").write_bytes(b"# Gr\xf6\xdfe\n")
    assert "UserError: matplotlibrc: not UTF-8" in draw_in(tmp_path).stderr


if __name__ == "__main__":
    print(*digests())
