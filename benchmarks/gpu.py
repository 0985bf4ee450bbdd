"""How close a trial gets to the bare arithmetic on this machine's GPU: `python benchmarks/gpu.py [PART ...]`.

The parts: steps (ResNet-34 at 224 px in the `paper` preset's precision, by batch size; heads on frozen features; the
start of a worker's later trials), epochs (where a trial's time goes beside its bare steps), sharing (whole sweeps whose
trials share the GPU), memory (its peak, and so how many trials fit on the GPU), compiled (steps under torch.compile).
Prints each line as it is measured.
"""

import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd
import torch
from made_data import made_context, preset_recipe
from measuring import HEADER, ROOT, Figure, machine
from starting import first_step_at, later_trials
from training import compare, epoch_parts

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
EPOCHS = 3
"""Of a measured trial."""


def main(parts: Sequence[str]) -> int:
    """Measure these parts, or all; returns the exit code."""
    if unknown := [part for part in parts if part not in PARTS]:
        print(f"no part {unknown[0]!r}: choose from {', '.join(PARTS)}", file=sys.stderr)
        return 2
    if not torch.cuda.is_available():
        print("no GPU that torch can use is here: python benchmarks/run.py measures on the CPU", file=sys.stderr)
        return 2
    print(f"{machine()}, CUDA {torch.version.cuda}\n\n{HEADER}", flush=True)
    for part in parts or PARTS:
        for line in PARTS[part]():
            print(line.row(torch.cuda.get_device_name()) if isinstance(line, Figure) else f"- {line}", flush=True)
    return 0


def steps() -> Iterator[Figure]:
    """Yield the figures of plain training steps, and of the start of a later trial."""
    yield from _finetuning(BATCHES)
    frozen = preset_recipe("paper", weights="none", epochs=EPOCHS, freeze=True)
    yield compare("frozen, steps of the three heads", frozen, LABELS, IMAGES, threads=1, target=0.85, gpus=1.0)
    short = preset_recipe("paper", weights="none", epochs=1, batch_size=8)
    name = "a later trial of a worker, to its first step: ResNet-34"
    yield Figure(name, later_trials(short, gpus=1.0), " s", 0.25, False, "224 px")


def epochs() -> Iterator[str]:
    """Yield a line for a network with masks, which has contact sheets, and one without, at the largest batch size."""
    recipe = preset_recipe("paper", weights="none", epochs=2 * EPOCHS, batch_size=BATCHES[-1])
    for label in ("multi-attention", "baseline"):
        yield epoch_parts(recipe, label, IMAGES, threads=1, gpus=1.0)


def compiled() -> Iterator[Figure]:
    """Yield the figure of compiled steps at the preset's batch size."""
    yield from _finetuning(BATCHES[:1], compile=True)


def _finetuning(batches: Sequence[int], **changes: object) -> Iterator[Figure]:
    for batch_size in batches:
        recipe = preset_recipe("paper", weights="none", epochs=EPOCHS, batch_size=batch_size, **changes)
        name = f"fine-tuning ResNet-34, batch {batch_size}{', compiled' if recipe.compile else ''}"
        yield compare(name, recipe, ["multi-attention"], IMAGES, threads=1, target=0.95, gpus=1.0)


def memory() -> Iterator[str]:
    """Yield lines on the speed and GPU memory of a trial at each batch size."""
    for batch_size in BATCHES:
        recipe: Recipe = preset_recipe("paper", weights="none", batch_size=batch_size)
        with tempfile.TemporaryDirectory() as folder:
            context = made_context(Path(folder), recipe, IMAGES, 1, gpus=1.0)
            canary = run_canary(context, (parse_variant("multi-attention", recipe),))
        step, total = canary.steps[0], canary.memory_bytes
        if step.error is not None or step.peak_memory_bytes is None or total is None:
            yield f"batch {batch_size}: {step.error}"
            continue
        share = step.peak_memory_bytes / total
        yield (
            f"batch {batch_size}: {step.train_images_per_second:.0f} images/s in a short trial, "
            f"{step.peak_memory_bytes / 1e9:.1f} of {total / 1e9:.0f} GB ({share:.0%})"
        )


def sharing() -> Iterator[str]:
    """Yield a line for each share of the GPU."""
    return map(_sharing, SHARES)


def _sharing(share: float) -> str:
    """Return a line on the speed of a sweep whose trials each take this share of the GPU: drawn pets at 224 px."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, "jobs/sweep.py", "paper", "--dataset", "drawn", "--weights", "none", "--store", folder,
            "--variants", "baseline", "multi-attention", "--seeds", "4", "--epochs", "6",
            "--gpus-per-trial", str(share),
        ]  # fmt: skip
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        results = [trial.result for trial in open_run(LocalStore(Path(folder)), "paper").trials]
        histories = [pd.read_csv(path) for path in Path(folder).glob("paper/trials/*/*/history.csv")]
        began = first_step_at(Path(folder), "paper")
    images = sum(result.images_trained or 0 for result in results if result is not None)
    seconds = max(pd.Timestamp(history["finished_at"].iloc[-1]).timestamp() for history in histories) - began
    return (
        f"{share:g} of the GPU per trial: {images / seconds:.0f} images/s over {len(histories)} trials, evaluation "
        "and the gaps between trials included"
    )


PARTS = {"steps": steps, "epochs": epochs, "sharing": sharing, "memory": memory, "compiled": compiled}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
