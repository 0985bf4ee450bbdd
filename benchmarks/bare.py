"""The bare arithmetic: forward, backward and optimiser step on batches that are already in memory."""

import itertools
import time
from collections.abc import Iterator

import torch

from catdog.config.variants import parse_variant
from catdog.data.batches import Batch, targets_of
from catdog.training.loop import new_state, set_training_mode
from catdog.training.objective import training_loss
from catdog.training.precision import autocast_for, flush_denormals
from catdog.training.seeding import trial_seeds
from catdog.trial.context import RunContext
from catdog.trial.inputs import load_inputs, new_model
from catdog.trial.setup import prepare_process


class BareTraining:
    """The network, optimiser and precision of a trial, without everything around them.

    For images it reuses a single batch in place; for frozen features, where reading is much of a step, it keeps the
    batches of an epoch in memory, in the order of use and ready for the head.
    """

    def __init__(self, context: RunContext, label: str) -> None:
        variant = parse_variant(label, context.identity.recipe)
        context = context.of_variant(variant)
        recipe = self.recipe = context.identity.recipe
        self.device = prepare_process(context.identity.threads, context.gpus_per_trial, recipe.deterministic)
        inputs = load_inputs(context, self.device)
        model = new_model(inputs, context, variant, trial_seeds(0))
        self.model = model.to(memory_format=torch.channels_last).to(self.device)
        self._batches = inputs.batches_for(model.head)
        self.state = new_state(self.model, recipe, self._batches.steps_per_epoch)
        self.autocast = autocast_for(recipe.precision, self.device)
        epoch = self.train_batches() if recipe.freeze else itertools.islice(self.train_batches(), 1)
        self.batches = [
            (inputs.clone(memory_format=torch.preserve_format), targets_of(labels.clone(), self._batches.groups))
            for inputs, labels in epoch
        ]

    def train_batches(self) -> Iterator[Batch]:
        """Yield the batches of an epoch as a trial makes them."""
        return self._batches.train(0, 0)

    def make(self) -> float:
        """Make the batches of an epoch and drop them; returns the seconds per batch."""
        self._wait()
        started = time.perf_counter()
        count = sum(1 for _ in self.train_batches())
        self._wait()
        return (time.perf_counter() - started) / count

    def run(self, steps: int, distinct: int | None = None) -> float:
        """Train on all batches in turn, or on the first `distinct` of them; returns the seconds per step."""
        recipe = self.recipe
        set_training_mode(self.model, recipe.keeps_batch_norm)
        self._wait()
        started = time.perf_counter()
        with flush_denormals():
            for inputs, targets in itertools.islice(itertools.cycle(self.batches[:distinct]), steps):
                with self.autocast:
                    output = self.state.network(inputs)
                loss = training_loss(output, targets, self.model.side_tasks, recipe)
                self.state.optimizer.zero_grad(set_to_none=True)
                loss.backward()
                self.state.optimizer.step()
            self._wait()
        return (time.perf_counter() - started) / steps

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
