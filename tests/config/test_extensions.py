"""Optimisers and losses of an imported file: named, refused, part of a trial's hash."""

import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from catdog.cli import parse_sweep
from catdog.config.extensions import EXTERNAL_LOSSES, EXTERNAL_OPTIMIZERS, register_loss, register_optimizer
from catdog.errors import UserError
from tests.helpers.project import ROOT

pytestmark = pytest.mark.usefixtures("no_external_heads")


def test_the_optimiser_and_the_loss_in_the_readme_can_be_named(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(import timm.optim\n.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    (tmp_path / "mine.py").write_text(code)
    own = ["--import", str(tmp_path / "mine.py"), "--variants", "baseline", "baseline:optimizer=lion"]
    config = parse_sweep(["demo", "--loss", "focal", *own], "sweep.py")
    assert [(recipe.optimizer, recipe.loss) for recipe in config.recipes] == [("adamw", "focal"), ("lion", "focal")]
    weight = torch.nn.Parameter(torch.zeros(3))
    optimizer = EXTERNAL_OPTIMIZERS["lion"]([{"params": [weight], "lr": 0.5, "weight_decay": 0.0}])
    weight.grad = torch.tensor([1.0, -2.0, 0.0])
    optimizer.step()
    assert weight.tolist() == [-0.5, 0.5, 0.0], "the sign of the momentum, times the rate"
    logits, targets = torch.randn(5, 3), torch.tensor([0, 1, 2, 0, 1])
    p = F.softmax(logits, dim=1)[range(5), targets]
    assert torch.allclose(EXTERNAL_LOSSES["focal"](logits, targets), (-((1 - p) ** 2) * p.log()).mean())


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--optimizer", "lion"], "--optimizer lion: choose from adamw, sgd, or --import"),
        (["--variants", "baseline:optimizer=adam"], "--optimizer adam: choose from adamw, sgd"),
        (["--loss", "focal"], "--loss focal: choose from cross-entropy, or --import"),
        (["--loss", "focal", "--label-smoothing", "0.1"], "set it to 0 with another --loss"),
    ],
)
def test_what_no_file_has_registered_is_refused(options: list[str], named: str) -> None:
    with pytest.raises(UserError, match=re.escape(named)):
        parse_sweep(["demo", *options], "sweep.py")


@pytest.mark.parametrize("name", ["", "adamw", "Lion", "a b", "../x", "x" * 61])
def test_a_name_that_is_taken_or_none_cannot_be_registered(name: str) -> None:
    with pytest.raises(UserError, match="no name that is taken"):
        register_optimizer(name)
    with pytest.raises(UserError, match="no name that is taken"):
        register_loss("cross-entropy")
