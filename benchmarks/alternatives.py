"""The alternatives that were tried, each in turn with what is used: `python benchmarks/alternatives.py [NAME ...]`.

Prints how much longer a training step (or an evaluation) takes with the alternative. docs/log.md has the conclusions.
"""

import dataclasses
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from bare import BareTraining
from made_data import made_context, preset_recipe
from measuring import show

from catdog.config.recipe import Recipe
from catdog.data import batches
from catdog.models import batch_norm_folding
from catdog.models.batch_norm_folding import FoldedNet
from catdog.models.heads import attention
from catdog.system.process import ENVIRONMENT
from catdog.training.evaluation import evaluate
from catdog.trial.inputs import forget_inputs, load_inputs

HERE = Path(__file__).parent
REPEATS = 5
LITE0 = preset_recipe("pets-cpu", image_size=128)
RESNET = preset_recipe("paper", weights="none", batch_size=32)
FROZEN = preset_recipe("pets-frozen")

Seconds = Callable[[], float]


class Bench:
    """Bare training in a temporary store, for one comparison."""

    def __init__(self, folder: str, recipe: Recipe, label: str, threads: int = 2, steps: int = 6) -> None:
        forget_inputs()
        self.context = made_context(Path(folder), recipe, 320, threads)
        self.bare, self.steps = BareTraining(self.context, label), steps
        self.bare.run(2)

    def step(self) -> float:
        """Return the seconds of a training step."""
        return self.bare.run(self.steps)

    def evaluation(self) -> float:
        """Return the seconds of an evaluation on the test split."""
        inputs = load_inputs(self.context, self.bare.device)
        started = time.perf_counter()
        evaluate(self.bare.state.network, inputs.batches, "test", self.bare.autocast)
        return time.perf_counter() - started


def compare(name: str, used: Seconds, others: dict[str, Seconds]) -> None:
    """Print the time of each alternative relative to what is used: the median of several rounds."""
    seconds: dict[str, list[float]] = {key: [] for key in ("", *others)}
    for _ in range(REPEATS):
        for key, measured in (("", used), *others.items()):
            seconds[key].append(measured())
    shown = f"{1e3 * statistics.median(seconds['']):.1f} ms"
    for key in others:
        ratio = statistics.median(b / a for a, b in zip(seconds[""], seconds[key], strict=True))
        print(f"| {name} | {shown} | {key} | {show(ratio)} |", flush=True)


def mask_convolution(folder: str) -> None:
    """The usual 1×1 convolution instead of a matrix product."""

    def with_scores(function: Callable[..., Any], measured: Seconds) -> Seconds:
        def run() -> float:
            with patch.object(attention, "mask_scores", function):
                return measured()

        return run

    for label in ("attention", "multi-attention"):
        step = Bench(folder, FROZEN, label, threads=1, steps=30).step
        others = {"a 1×1 convolution": with_scores(lambda convolution, features: convolution(features), step)}
        compare(f"{label} on frozen features", step, others)


def folding(folder: str) -> None:
    """Batch norms with frozen statistics as separate layers, instead of folded into the convolutions."""
    used, other = (Bench(folder, LITE0, "baseline") for _ in range(2))
    other.bare.state.network = other.bare.model
    compare("lite0, 128 px, batch norms folded", used.step, {"as they are": other.step})
    compare("its evaluation", used.evaluation, {"as they are": other.evaluation})


def cpu_layers(folder: str) -> None:
    """The original layers of PyTorch and timm, with the batch norms folded."""
    used, other = (Bench(folder, LITE0, "baseline") for _ in range(2))
    with patch.object(batch_norm_folding, "_faster_layer", lambda module, turned: module):
        other.bare.state.network = FoldedNet(other.bare.model)
        other.step()
    compare("lite0, 128 px, layers for CPUs", used.step, {"as they are": other.step})
    compare("its evaluation", used.evaluation, {"as they are": other.evaluation})


def optimisers(folder: str) -> None:
    """AdamW with foreach or a plain loop instead of fused."""
    for name, recipe in (("lite0, 128 px", LITE0), ("multi-attention on frozen features", FROZEN)):
        bench = Bench(folder, recipe, "multi-attention")
        fused = bench.bare.state.optimizer

        def with_optimizer(foreach: bool, bench: Bench = bench, fused: torch.optim.Optimizer = fused) -> Seconds:
            groups = [{k: v for k, v in g.items() if k in ("params", "lr", "weight_decay")} for g in fused.param_groups]
            other = torch.optim.AdamW(groups, fused=False, foreach=foreach)

            def run() -> float:
                with patch.object(bench.bare.state, "optimizer", other):
                    return bench.step()

            return run

        others = {"AdamW foreach": True, "AdamW one by one": False}
        compare(f"{name}, fused AdamW", bench.step, {key: with_optimizer(foreach) for key, foreach in others.items()})


def precisions(folder: str) -> None:
    """bfloat16 instead of float32."""
    for name, recipe in (("lite0, 128 px", LITE0), ("ResNet-34, 224 px", RESNET)):
        used = Bench(folder, dataclasses.replace(recipe, precision="float32"), "baseline", steps=3)
        other = Bench(folder, dataclasses.replace(recipe, precision="bfloat16"), "baseline", steps=3)
        compare(f"{name}, float32", used.step, {"bfloat16": other.step})


def memory_formats(folder: str) -> None:
    """Contiguous tensors instead of channels last."""
    for name, recipe in (("lite0, 128 px", LITE0), ("ResNet-34, 224 px", RESNET)):
        used, other = (Bench(folder, recipe, "baseline", steps=3) for _ in range(2))
        other.bare.model.to(memory_format=torch.contiguous_format)
        other.bare.batches = [(images.contiguous(), labels) for images, labels in other.bare.batches]
        compare(f"{name}, channels last", used.step, {"contiguous": other.step})


def compilation(folder: str) -> None:
    """torch.compile instead of eager mode."""
    for name, recipe, label in (
        ("multi-attention on frozen features", FROZEN, "multi-attention"),
        ("lite0, 128 px", LITE0, "baseline"),
    ):
        used = Bench(folder, recipe, label)
        started = time.perf_counter()
        other = Bench(folder, dataclasses.replace(recipe, compile=True), label)
        warm_up = time.perf_counter() - started
        compare(name, used.step, {f"torch.compile (after {warm_up:.0f} s of it)": other.step})


def evaluation_batches(folder: str) -> None:
    """Other batch sizes in evaluation."""
    bench = Bench(folder, LITE0, "baseline")
    usual = batches.EVALUATION_BATCH

    def with_batch(size: int) -> Seconds:
        def run() -> float:
            with patch.object(batches, "EVALUATION_BATCH", size):
                return bench.evaluation()

        return run

    compare(f"evaluation, {usual} at once", bench.evaluation, {f"{size}": with_batch(size) for size in (16, 32, 128)})


def processes(folder: str) -> None:
    """One trial with two threads after another, instead of two single-threaded ones at once: seconds of two steps."""

    def together(kind: str, count: int) -> Seconds:
        def run() -> float:
            command = [sys.executable, __file__, "--steps", kind, str(2 // count)]
            running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(count)]
            return statistics.mean(float(process.communicate()[0]) for process in running) * 2 / count

        return run

    for kind in ("frozen", "lite0"):
        compare(f"{kind}, two trials of one thread", together(kind, 2), {"one trial of two threads": together(kind, 1)})


def allocation(folder: str) -> None:
    """glibc's defaults, which return buffers to the kernel after every step."""

    def process(variables: dict[str, str], option: str) -> Seconds:
        environment = {k: v for k, v in os.environ.items() if k not in ENVIRONMENT} | variables

        def run() -> float:
            command = [sys.executable, __file__, option, "lite0", "2"]
            output = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
            return float(output.stdout)

        return run

    compare(
        "lite0, 128 px, memory kept", process(ENVIRONMENT, "--steps"), {"given back": process({}, "--untuned-steps")}
    )


def print_steps(kind: str, threads: int, tuned: bool) -> None:
    """Print the seconds of a training step, with or without the tuned malloc."""
    if not tuned:
        from catdog.trial import setup

        patch.object(setup, "tune_malloc", lambda: False).start()
    recipe = {"frozen": FROZEN, "lite0": LITE0}[kind]
    label, steps = ("multi-attention", 60) if kind == "frozen" else ("baseline", 6)
    with tempfile.TemporaryDirectory() as folder:
        print(Bench(folder, recipe, label, threads, steps).step())


ALTERNATIVES: dict[str, Callable[[str], None]] = {
    function.__name__: function
    for function in (
        mask_convolution, folding, cpu_layers, optimisers, precisions, memory_formats, compilation, evaluation_batches,
        processes, allocation,
    )
}  # fmt: skip


def main(names: Sequence[str]) -> int:
    """Compare the named alternatives, or all; returns the exit code."""
    if unknown := [name for name in names if name not in ALTERNATIVES]:
        print(f"no alternative {unknown[0]!r}: choose from {', '.join(ALTERNATIVES)}", file=sys.stderr)
        return 2
    if any(os.environ.get(name) != value for name, value in ENVIRONMENT.items()):
        os.execve(sys.executable, [sys.executable, __file__, *names], os.environ | ENVIRONMENT)
    print("| what is used | it takes | instead | times as long |\n|---|---:|---|---:|", flush=True)
    for name in names or ALTERNATIVES:
        with tempfile.TemporaryDirectory() as folder:
            ALTERNATIVES[name](folder)
    return 0


if __name__ == "__main__":
    arguments = sys.argv[1:]
    if arguments[:1] in (["--steps"], ["--untuned-steps"]):
        print_steps(arguments[1], int(arguments[2]), arguments[0] == "--steps")
    else:
        sys.exit(main(arguments))
