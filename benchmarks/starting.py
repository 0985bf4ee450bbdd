"""How long until training begins: of a command with warm caches, and of the second and later trials of a worker."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from made_data import made_context, preset_recipe
from measuring import Figure

from catdog.config import Recipe
from catdog.trial import run_trial
from catdog.variants import parse_variant

ROOT = Path(__file__).parent.parent
REPEATS = 5
LABELS = ("baseline", "attention", "multi-attention")


def measure() -> list[Figure]:
    resnet = preset_recipe("paper", weights="none", epochs=1, batch_size=8)
    lite0 = preset_recipe("pets-cpu", epochs=1, batch_size=8)
    return [
        Figure("from a command to its first training step", command_seconds(), " s", 12, False,
               "jobs/sweep.py demo, packed images there"),
        Figure("a later trial of a worker, to its first step: lite0", later_trials(lite0), " s", 0.25, False, "176 px"),
        Figure("the same: ResNet-34", later_trials(resnet), " s", 0.25, False, "224 px"),
    ]  # fmt: skip


def command_seconds() -> tuple[float, ...]:
    """Return the seconds from starting a sweep to its first training step; the first launch packs and is left out."""
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        for repeat in range(REPEATS + 1):
            run = f"run-{repeat}"
            command = [
                sys.executable, "jobs/sweep.py", "demo", "--store", folder, "--run", run, "--seeds", "1",
                "--variants", "baseline", "--epochs", "1",
            ]  # fmt: skip
            started = time.time()
            subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
            seconds.append(first_step_at(Path(folder), run) - started)
    return tuple(seconds[1:])


def first_step_at(store: Path, run: str) -> float:
    """Return when the first trial of a run began to train, in seconds since 1970."""
    beginnings = []
    for path in store.glob(f"{run}/trials/*/*/history.csv"):
        row = pd.read_csv(path).iloc[0]
        ended = pd.Timestamp(row["finished_at"]).timestamp()
        beginnings.append(ended - row["train_seconds"] - row["evaluate_seconds"])
    return min(beginnings)


def later_trials(recipe: Recipe, gpus: float = 0.0) -> tuple[float, ...]:
    """Return the seconds from the start of each trial but a worker's first to its first pass through the network."""
    passes: list[float] = []

    def note(module: Any, inputs: Any) -> None:
        passes.append(time.perf_counter())

    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        context = made_context(Path(folder), recipe, 8, len(os.sched_getaffinity(0)), gpus)
        hook = torch.nn.modules.module.register_module_forward_pre_hook(note)
        for repeat in range(REPEATS + 1):
            passes.clear()
            variant = parse_variant(LABELS[repeat % len(LABELS)], recipe.variant_defaults())
            started = time.perf_counter()
            run_trial(context, variant, repeat)
            seconds.append(passes[0] - started)
        hook.remove()
    return tuple(seconds[1:])
