"""How long until training begins: for a command with warm caches, and for a worker's second and later trials."""

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from made_data import made_context, preset_recipe
from measuring import ROOT, Figure, data_root

from catdog.config.recipe import Recipe
from catdog.config.variants import parse_variant
from catdog.system.process import usable_cores
from catdog.trial.run import run_trial

REPEATS = 5
LABELS = ("baseline", "attention", "multi-attention")


def measure() -> list[Figure]:
    """Measure both."""
    resnet = preset_recipe("paper", weights="none", epochs=1, batch_size=8)
    lite0 = preset_recipe("pets-cpu", epochs=1, batch_size=8)
    figures = [_command("demo", [])]
    if (root := data_root()) is not None:
        figures.append(_command("pets-frozen", ["--data-root", str(root)]))
    for name, recipe in (("lite0 at 176 px", lite0), ("ResNet-34 at 224 px", resnet)):
        title = f"a later trial of a worker, to its first step: {name}"
        figures.append(Figure(title, later_trials(recipe), " s", 0.25, False, "the three variants in turn"))
    return figures


def _command(preset: str, options: list[str]) -> Figure:
    """Time a sweep from its start to its first training step; the first launch fills the caches and is left out."""
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        for repeat in range(REPEATS + 1):
            run = f"run-{repeat}"
            command = [
                sys.executable, "jobs/sweep.py", preset, "--store", folder, "--run", run, "--seeds", "1",
                "--variants", "baseline", "--epochs", "1", *options,
            ]  # fmt: skip
            started = time.time()
            subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
            seconds.append(first_step_at(Path(folder), run) - started)
    detail = f"jobs/sweep.py {preset}, a new run, its data packed"
    return Figure("from a command to its first training step", tuple(seconds[1:]), " s", 12, False, detail)


def first_step_at(store: Path, run: str) -> float:
    """Return when the first trial of a run began to train, in seconds since 1970."""
    beginnings: list[float] = []
    for path in store.glob(f"{run}/trials/*/*/history.csv"):
        row = pd.read_csv(path).iloc[0]
        ended = pd.Timestamp(row["finished_at"]).timestamp()
        beginnings.append(ended - row["train_seconds"] - row["evaluate_seconds"])
    return min(beginnings)


def later_trials(recipe: Recipe, gpus: float = 0.0) -> tuple[float, ...]:
    """Return the seconds from start to first forward pass of each trial of a worker but its first."""
    passes: list[float] = []

    def note(module: Any, inputs: Any) -> None:
        passes.append(time.perf_counter())

    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        context = made_context(Path(folder), recipe, 8, usable_cores(), gpus)
        hook = torch.nn.modules.module.register_module_forward_pre_hook(note)
        for repeat in range(REPEATS + 1):
            passes.clear()
            variant = parse_variant(LABELS[repeat % len(LABELS)], recipe)
            started = time.perf_counter()
            run_trial(context, variant, repeat)
            seconds.append(passes[0] - started)
        hook.remove()
    return tuple(seconds[1:])
