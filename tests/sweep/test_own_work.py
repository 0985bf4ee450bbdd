"""A sweep over somebody's own images with a head of theirs, on a real local Ray: from two files to the table."""

import io
import json
from pathlib import Path

import pandas as pd
import pytest

from catdog.cli import run_job
from catdog.config.head_registry import EXTERNAL, HEAD_CLASSES
from jobs import aggregate, status, sweep
from tests.helpers.pages import text_of
from tests.helpers.pets import make_images
from tests.helpers.sweeps import report, run_sweep

HEAD = """
import torch
from own_pooling import pool
from torch import nn
from catdog.models import ModelOutput, Parameter, register_head

@register_head("own", Parameter("wide", 8, minimum=1))
class Own(nn.Module):
    def __init__(self, in_channels, num_classes, *, wide):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(in_channels, wide), nn.ReLU(), nn.Linear(wide, num_classes{more}))

    def forward(self, features):
        return ModelOutput(self.layers(pool(features)), None, features.new_zeros(()))
"""


@pytest.mark.usefixtures("local_ray", "no_external_heads")
def test_own_images_and_an_own_head_give_a_table_that_is_read_without_the_head(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = make_images(tmp_path / "my images", {"blue & grey": 10, "赤": 10, "green": 10})
    heads, store = tmp_path / "heads", tmp_path / "store"
    heads.mkdir()
    (heads / "own.py").write_text(HEAD.format(more=""))
    (heads / "own_pooling.py").write_text("def pool(features):\n    return features.mean(dim=(2, 3))\n")
    own = ["--dataset", f"folder:{images}", "--import", str(heads / "own.py"), "--variants", "baseline", "own:wide=4"]
    assert run_sweep(store, *own, "--seeds", "2") == 0
    capsys.readouterr()
    table = pd.read_csv(io.BytesIO(report(store, "table.csv")))
    assert table[["variant", "n"]].to_numpy().tolist() == [["baseline", 2], ["own:wide=4", 2]]
    page = text_of(report(store, "report.html"))
    assert "Confusion between classes" in page
    assert "The images came without a Test split: 20 % of each class were drawn for it, once." in page
    manifest = json.loads((store / "demo" / "manifest.json").read_text())
    assert manifest["identity"]["recipe"]["dataset"] == "images"
    assert manifest["data"] == {"title": "my images", "class_noun": "class", "test_share": 0.2}
    (kept,) = (store / "demo" / "imports").iterdir()
    assert sorted(path.name for path in kept.iterdir()) == ["own.py", "own_pooling.py"]

    pooling = heads / "own_pooling.py"
    pooling.write_text(pooling.read_text().replace("return", '"""Average."""\n    return') + "# as in the baseline\n")
    assert run_sweep(store, *own, "--seeds", "2") == 0, "comments and docstrings are no other code"
    pooling.write_text("def pool(features):\n    return features.amax(dim=(2, 3))\n")
    capsys.readouterr()
    assert run_sweep(store, *own, "--seeds", "3") == 2
    assert "run 'demo' has trials of 'own:wide=4' with other code (" in capsys.readouterr().err

    (heads / "own.py").unlink()
    for registry in (EXTERNAL, HEAD_CLASSES):
        registry.clear()
    assert run_job(status.main, ["--store", str(store), "--run", "demo"]) == 0
    assert "4 trials, 4 complete" in capsys.readouterr().out
    assert run_job(aggregate.main, ["--store", str(store), "--run", "demo"]) == 0


@pytest.mark.usefixtures("local_ray", "no_external_heads")
@pytest.mark.parametrize("dry_run", [["--dry-run"], []])
def test_a_head_of_wrong_shape_is_a_mistake_before_anything_runs(
    dry_run: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own.py").write_text(HEAD.format(more=" + 1").replace("from own_pooling import pool", ""))
    with (tmp_path / "own.py").open("a") as file:
        file.write("\n\ndef pool(features):\n    return features.mean(dim=(2, 3))\n")
    arguments = ["demo", "--import", str(tmp_path / "own.py"), "--variants", "own", "--store", str(tmp_path / "store")]
    assert run_job(sweep.main, [*arguments, *dry_run]) == 2
    said = capsys.readouterr().err
    assert said == (
        "error: variant 'own': its shapes: a square map: logits (4, 6), not (4, 5); see jobs/check_head.py\n"
    )
    assert not (tmp_path / "store" / "demo").exists()
