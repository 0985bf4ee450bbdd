"""A training step of every variant against the sum of its parts, each alone on tensors in memory.

Parts: making a batch, the backbone, the head, each module between stages (forward and backward), the optimiser's step.
"""

import dataclasses
import functools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from bare import BareTraining
from made_data import made_context, preset_recipe
from measuring import Figure, ratios
from torch import nn
from training import trial_step

from catdog.config.head_registry import VARIANTS
from catdog.config.recipe import Recipe
from catdog.errors import UserError
from catdog.models.petnet import ModelOutput, PetNet
from catdog.training.loop import new_state, set_training_mode
from catdog.training.objective import training_loss
from catdog.trial.context import RunContext

REPEATS, STEPS = 5, 8


class MeanHead(nn.Module):
    """Nothing but the mean of the features, so that a network costs what its backbone does."""

    def forward(self, features_BCHW: torch.Tensor) -> ModelOutput:
        """Return the means (B, C) as logits."""
        means_BC = features_BCHW.mean(dim=(2, 3))
        return ModelOutput(means_BC, None, means_BC.new_zeros(()))


class Parts:
    """The parts of a variant's training step."""

    def __init__(self, context: RunContext, label: str) -> None:
        self._bare = bare = BareTraining(context, label)
        self._inputs, self._targets = bare.batches[0]
        set_training_mode(bare.model, bare.recipe.keeps_batch_norm)
        modules: list[nn.Module] = [bare.model.head, *getattr(bare.model.head, "inside", {}).values()]
        self._given: dict[nn.Module, Any] = {}
        hooks = [module.register_forward_pre_hook(self._note) for module in modules]
        output = bare.model(self._inputs)
        training_loss(output, self._targets, bare.model.side_tasks, bare.recipe).backward()
        for hook in hooks:
            hook.remove()
        self._backbone: nn.Module | None = None
        if not bare.recipe.freeze:
            plain = PetNet(BareTraining(context, "baseline").model.backbone, MeanHead())
            set_training_mode(plain, bare.recipe.keeps_batch_norm)
            self._backbone = new_state(plain, dataclasses.replace(bare.recipe, optimizer="sgd"), 1).network

    def _note(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        learns = not self._bare.recipe.freeze
        given = inputs[0]
        if isinstance(given, Mapping):
            self._given[module] = {key: one.detach().requires_grad_(learns) for key, one in given.items()}
        else:
            self._given[module] = given.detach().requires_grad_(learns)

    def seconds(self) -> float:
        """Return the sum of all parts, the median of a few steps each."""
        parts: list[Callable[[], object]] = [functools.partial(self._run, module) for module in self._given]
        if (backbone := self._backbone) is not None:
            parts.append(lambda: _backward(backbone(self._inputs)))
        parts.append(self._bare.state.optimizer.step)
        return sum(map(_time, parts)) + self._bare.make()

    def _run(self, module: nn.Module) -> None:
        with self._bare.autocast:
            _backward(module(self._given[module]))


def _backward(outputs: Iterable[Any]) -> None:
    each = (one for output in outputs for one in (output.values() if isinstance(output, Mapping) else [output]))
    tensors = [one for one in each if isinstance(one, torch.Tensor) and one.requires_grad]
    torch.autograd.backward(tensors, [torch.ones_like(one) for one in tensors])


def _time(part: Callable[[], object]) -> float:
    part()
    seconds = []
    for _ in range(STEPS):
        started = time.perf_counter()
        part()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def measure() -> list[Figure]:
    """Measure all variants, on frozen features and fine-tuned."""
    frozen = preset_recipe("pets-frozen", epochs=1)
    finetuned = preset_recipe("pets-cpu", epochs=1, image_size=96)
    return [*_table("frozen", frozen, 1472, 1), *_table("fine-tuned", finetuned, 256, 2)]


def _table(setting: str, recipe: Recipe, images: int, threads: int) -> Iterator[Figure]:
    with tempfile.TemporaryDirectory() as folder:
        context = made_context(Path(folder), recipe, images, threads)
        for name in VARIANTS:
            label, parts = _parts(context, name)
            steps, sums = [], []
            for repeat in range(REPEATS + 1):
                steps.append(trial_step(context, label, repeat))
                sums.append(parts.seconds())
            median = statistics.median(steps[1:])
            detail = f"{1000 * median:.1f} ms a step (batch {recipe.batch_size}, {threads} thread{'s' * (threads > 1)})"
            yield Figure(f"{label}, {setting}: step ÷ parts", ratios(steps[1:], sums[1:]), "", 1.3, False, detail)


def _parts(context: RunContext, name: str) -> tuple[str, Parts]:
    try:
        return name, Parts(context, name)
    except UserError:  # it changes the inside of a backbone whose maps are cached
        label = f"{name}:stages=last"
        return label, Parts(context, label)
