"""How close a trial gets to the bare arithmetic on this machine's GPU: `python benchmarks/gpu.py`.

ResNet-34 at 224 px in the `paper` preset's precision, by batch size, with and without torch.compile; heads on frozen
features; the start of a worker's later trials; the peak memory, and so how many trials fit on the GPU; whole sweeps
whose trials share the GPU. Prints the table.
"""

import dataclasses
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd
import torch
from made_data import made_context, preset_recipe
from measuring import HEADER, Figure, machine
from starting import ROOT, later_trials
from training import compare

from catdog.config.recipe import Recipe
from catdog.config.variants import parse_variant
from catdog.runs.status import open_run
from catdog.storage import LocalStore
from catdog.sweep.canary import run_canary

BATCHES = (64, 128, 256)
IMAGES = 2944
"""Per epoch, as in the real dataset."""
SHARES = (1, 0.5, 0.25)
"""Of the GPU, for each trial of a sweep."""
LABELS = ["baseline", "attention", "multi-attention"]


def main() -> int:
    """Print the table; returns the exit code."""
    if not torch.cuda.is_available():
        print("no GPU that torch can use is here: python benchmarks/run.py measures on the CPU", file=sys.stderr)
        return 2
    print(f"{machine()}, CUDA {torch.version.cuda}\n\n{HEADER}", flush=True)
    for figure in figures():
        print(figure.row(torch.cuda.get_device_name()), flush=True)
    print(f"\n{memory()}\n", flush=True)
    for share in SHARES:
        print(sharing(share), flush=True)
    return 0


def figures():
    """Yield the figures as they are measured."""
    paper = preset_recipe("paper", weights="none", epochs=3)
    for compiled in (False, True):
        for batch_size in BATCHES:
            recipe = dataclasses.replace(paper, batch_size=batch_size, compile=compiled)
            name = f"fine-tuning ResNet-34, batch {batch_size}{', compiled' if compiled else ''}"
            yield compare(name, recipe, ["multi-attention"], IMAGES, threads=1, target=0.95, gpus=1.0)
    frozen = dataclasses.replace(paper, freeze=True)
    yield compare("frozen, steps of the three heads", frozen, LABELS, IMAGES, threads=1, target=0.85, gpus=1.0)
    short = dataclasses.replace(paper, epochs=1, batch_size=8)
    yield Figure("a later trial of a worker, to its first step: ResNet-34", later_trials(short, gpus=1.0), " s", 0.25,
                 False, "224 px")  # fmt: skip


def memory() -> str:
    """Return lines on the speed and GPU memory of a trial at each batch size."""
    lines = []
    for batch_size in BATCHES:
        recipe: Recipe = preset_recipe("paper", weights="none", batch_size=batch_size)
        with tempfile.TemporaryDirectory() as folder:
            context = made_context(Path(folder), recipe, IMAGES, 1, gpus=1.0)
            canary = run_canary(context, (parse_variant("multi-attention", recipe),))
        step, total = canary.steps[0], canary.memory_bytes
        if step.error is not None or step.peak_memory_bytes is None or total is None:
            lines.append(f"batch {batch_size}: {step.error}")
            continue
        share = step.peak_memory_bytes / total
        lines.append(
            f"batch {batch_size}: {step.train_images_per_second:.0f} images/s in a short trial, "
            f"{step.peak_memory_bytes / 1e9:.1f} of {total / 1e9:.0f} GB ({share:.0%})"
        )
    return "\n".join(f"- {line}" for line in lines)


def sharing(share: float) -> str:
    """Return a line on the speed of a sweep whose trials each take this share of the GPU: drawn pets at 224 px."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, "jobs/sweep.py", "paper", "--dataset", "drawn", "--weights", "none", "--store", folder,
            "--seeds", "4", "--epochs", "6", "--gpus-per-trial", str(share),
        ]  # fmt: skip
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        results = [trial.result for trial in open_run(LocalStore(Path(folder)), "paper").trials]
        histories = [pd.read_csv(path) for path in Path(folder).glob("paper/trials/*/*/history.csv")]
    images = sum(result.images_trained or 0 for result in results if result is not None)
    ended = [pd.to_datetime(history["finished_at"]).map(pd.Timestamp.timestamp) for history in histories]
    began = [
        end.iloc[0] - history[["train_seconds", "evaluate_seconds"]].iloc[0].sum()
        for end, history in zip(ended, histories, strict=True)
    ]
    seconds = max(end.iloc[-1] for end in ended) - min(began)
    return (
        f"- {share:g} of the GPU per trial: {images / seconds:.0f} images/s over {len(histories)} trials, evaluation "
        "and the gaps between trials included"
    )


if __name__ == "__main__":
    sys.exit(main())
