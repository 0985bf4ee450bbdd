"""The training loop of all variants: `fit` is a generator that yields one record per epoch.

The epoch is chosen by validation accuracy (the earliest on ties); test images are never touched here. Everything
random is seeded at the start of every epoch, and a state between two steps holds the generators' own, so a loop that
resumes from a saved `TrainState` matches an uninterrupted one bit for bit (on CPUs with the same number of threads; on
GPUs with deterministic algorithms). Independent of files and Ray.
"""

import copy
import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

import torch
from torch import nn

from catdog.config.recipe import Recipe
from catdog.data.batches import CLASS, WHOLE, Batches, targets_of
from catdog.errors import DivergedError
from catdog.formatting import now
from catdog.models.batch_norm_folding import FoldedNet
from catdog.models.petnet import PetNet
from catdog.runs.history import EpochRecord
from catdog.training.data_parallel import ALONE, Workers
from catdog.training.evaluation import Evaluation, evaluate
from catdog.training.mask_metrics import health_by_place
from catdog.training.mixing import Mixing
from catdog.training.objective import training_loss
from catdog.training.precision import autocast_for
from catdog.training.schedule import new_optimizer, new_scheduler
from catdog.training.seeding import DeriveSeed

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)

COMPILED_VERSIONS = 100_000
"""Of a network in one process: more than any needs."""


@dataclass
class TrainState:
    """Everything that training changes and a checkpoint holds."""

    model: PetNet
    network: nn.Module
    """The model itself, or a faster form of it with the same parameters."""
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler
    history: list[EpochRecord] = field(default_factory=list)
    best_weights: dict[str, torch.Tensor] = field(default_factory=dict)
    best_validation: Evaluation | None = None
    """The outputs of these weights on the validation split."""
    average: PetNet | None = None
    """The model with averaged weights and buffers, where the recipe wants one."""
    partial: list[dict[str, torch.Tensor]] = field(default_factory=list)
    """Between two steps of an epoch: by worker, what it needs to continue the epoch; else empty."""
    workers: Workers = ALONE
    parallel: nn.Module = field(init=False)
    """The network as these workers train it."""

    def __post_init__(self) -> None:
        self.parallel = self.workers.averaging(self.network)

    @property
    def evaluated(self) -> PetNet:
        """Return the model whose weights are validated and kept: the trained one, or its average."""
        return self.model if self.average is None else self.average

    @property
    def next_epoch(self) -> int:
        """Return the first epoch that is not trained yet."""
        return len(self.history)

    @property
    def best(self) -> EpochRecord:
        """Return the record of the epoch with the highest validation accuracy, the earliest on ties."""
        return max(self.history, key=lambda record: (record.val_accuracy, -record.epoch))

    def state_dict(self) -> dict[str, Any]:
        """Return the state as tensors and plain values, which `torch.load` reads with `weights_only=True`."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "history": [record.row() for record in self.history],
            "best_weights": self.best_weights,
            "best_validation": vars(self.best_validation) if self.best_validation is not None else None,
            **({} if self.average is None else {"average": self.average.state_dict()}),
            **({"partial": self.partial} if self.partial else {}),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state that `state_dict` returned."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.history = [EpochRecord.from_row(row) for row in state["history"]]
        self.best_weights = state["best_weights"]
        self.best_validation = Evaluation(**state["best_validation"]) if state["best_validation"] is not None else None
        self.partial = state.get("partial", [])


def new_state(model: PetNet, recipe: Recipe, steps_per_epoch: int, workers: Workers = ALONE) -> TrainState:
    """Return the state before the first epoch, with the model's optimiser and schedule."""
    stop_counting_batches(model)
    optimizer = new_optimizer(model, recipe)
    scheduler = new_scheduler(optimizer, recipe, recipe.epochs * steps_per_epoch)
    average = copy.deepcopy(model) if recipe.ema else None
    return TrainState(model, _network(model, recipe), optimizer, scheduler, average=average, workers=workers)


def _network(model: PetNet, recipe: Recipe) -> nn.Module:
    if recipe.compile:
        return compiled(model)
    on_cpu = next(model.parameters()).device.type == "cpu"
    return FoldedNet(model) if on_cpu and recipe.keeps_batch_norm and not recipe.freeze else model


def compiled(model: PetNet) -> nn.Module:
    """Return the compiled network; later trials of the variant in this process reuse the compiled code.

    A trial's numbers must not depend on what its process ran before. So every shape has code of its own (by default,
    a second shape would make all later code dynamic): a variant needs two versions (training and evaluation), on a CPU
    up to four (the last batch of either split); and no process reaches torch's limits, beyond which a network runs
    uncompiled.
    """
    torch._dynamo.config.recompile_limit = torch._dynamo.config.accumulated_recompile_limit = COMPILED_VERSIONS
    return cast(nn.Module, torch.compile(model, dynamic=False))


def fit(
    state: TrainState,
    batches: Batches,
    recipe: Recipe,
    derive_seed: DeriveSeed,
    device: torch.device,
    wants_break: Callable[[], bool] = lambda: False,
) -> Iterator[EpochRecord | None]:
    """Train from where `state` is to the recipe's last epoch, yielding a record after each epoch.

    `wants_break` is asked after each step: where it says so, None is yielded. At each yield, `state` is complete up to
    that step and may be saved.

    Raises:
        DivergedError: an epoch's training or validation loss is not finite.
    """
    autocast = autocast_for(recipe.precision, device)
    for epoch in range(state.next_epoch, recipe.epochs):
        trained = yield from _train_epoch(state, batches, recipe, derive_seed, epoch, autocast, wants_break)
        started = time.perf_counter()
        validation = evaluate(
            state.network if state.average is None else state.evaluated,
            batches,
            "validation",
            autocast,
            side_tasks=state.model.side_tasks,
            workers=state.workers,
        )
        if not all(map(math.isfinite, (trained.loss, validation.loss, *validation.side_scores.values()))):
            raise DivergedError(epoch)
        record = EpochRecord(
            epoch=epoch,
            train_loss=trained.loss,
            train_accuracy=trained.accuracy,
            val_loss=validation.loss,
            val_accuracy=validation.accuracy,
            learning_rate=float(state.scheduler.get_last_lr()[0]),
            train_seconds=trained.seconds,
            evaluate_seconds=time.perf_counter() - started,
            finished_at=now(),
            mask_health=health_by_place(validation.masks),
            side_scores={f"val_{name}": value for name, value in validation.side_scores.items()},
        )
        state.history.append(record)
        if state.best is record:
            state.best_weights = copy.deepcopy(state.evaluated.state_dict())
            state.best_validation = validation
        yield record


class _TrainedEpoch(NamedTuple):
    loss: float
    accuracy: float
    """In percent."""
    seconds: float


def _train_epoch(
    state: TrainState,
    batches: Batches,
    recipe: Recipe,
    derive_seed: DeriveSeed,
    epoch: int,
    autocast: torch.autocast,
    wants_break: Callable[[], bool] = lambda: False,
) -> Generator[None, None, _TrainedEpoch]:
    """Train one epoch, or the rest of it; return means over it. Waits for the device once, at the end."""
    workers, before, started = state.workers, 0.0, time.perf_counter()
    set_training_mode(state.model, recipe.keeps_batch_norm)
    torch.manual_seed(derive_seed("dropout", epoch) + workers.index)
    num_labels = batches.num_classes * (1 if batches.groups is None else len(batches.groups.names))
    mix = Mixing(recipe, num_labels, derive_seed("augment", epoch))
    losses: list[torch.Tensor] = []
    correct: list[torch.Tensor] = []
    if state.partial:
        begun = state.partial[workers.index]
        device = next(state.model.parameters()).device
        losses, correct = list(begun["losses"].to(device)), list(begun["correct"].to(device))
        before = begun["seconds"].item()
        _set_random_states(begun, mix)
        state.partial = []
    seeds = derive_seed("order", epoch), derive_seed("augment", epoch)
    # Images are mixed with their neighbours in the whole batch.
    for inputs, labels in batches.train(*seeds, len(losses), WHOLE if mix.is_on else workers.shard):
        classes = targets_of(labels, batches.groups)[CLASS]
        inputs, labels = mix(inputs, labels)
        if mix.is_on:
            classes, inputs, labels = (workers.share_of(whole) for whole in (classes, inputs, labels))
        with autocast:
            output = state.parallel(inputs)
        loss = training_loss(output, targets_of(labels, batches.groups), state.model.side_tasks, recipe)
        state.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if recipe.gradient_clip is not None:
            nn.utils.clip_grad_norm_(state.model.parameters(), recipe.gradient_clip)
        state.optimizer.step()
        state.scheduler.step()
        if state.average is not None:
            _average_in(state.average, state.model, 0.0 if state.scheduler.last_epoch == 1 else recipe.ema)
        losses.append(loss.detach())
        correct.append((output.logits_BK.detach().argmax(dim=1) == classes).sum())
        del inputs, labels, classes, output, loss  # lets the next batch reuse their memory while it is still cached
        if workers.any(wants_break()):
            mine = {
                "losses": torch.stack(losses).cpu(),
                "correct": torch.stack(correct).cpu(),
                "seconds": torch.tensor(before + time.perf_counter() - started),
                **_random_states(state.model, mix),
            }
            state.partial = workers.all_of([mine])
            yield
            state.partial = []
    workers.share_buffers(state.evaluated)
    images = len(losses) * batches.batch_size / workers.count
    means = torch.stack(losses).mean().item(), 100 * torch.stack(correct).sum().item() / images
    train_loss, accuracy = workers.mean(*means)
    return _TrainedEpoch(train_loss, accuracy, before + time.perf_counter() - started)


@torch.no_grad()
def _average_in(average: PetNet, model: PetNet, decay: float) -> None:
    """Move an exponential moving average towards the model; 0 as the decay starts it. Counters keep their first values.

    `torch.optim.swa_utils.AveragedModel` gives the same numbers, but makes the host wait for the GPU at each step.
    """
    ours, theirs = ([*one.parameters(), *one.buffers()] for one in (average, model))
    if not decay:
        torch._foreach_copy_(ours, theirs)
        return
    floats = [pair for pair in zip(ours, theirs, strict=True) if pair[0].is_floating_point()]
    torch._foreach_lerp_([one for one, _ in floats], [one for _, one in floats], 1 - decay)


def _random_states(model: PetNet, mix: Mixing) -> dict[str, torch.Tensor]:
    """Return the states of all generators that an epoch draws from."""
    states = {"random": torch.get_rng_state(), **mix.state()}
    if next(model.parameters()).device.type == "cuda":
        states["random_cuda"] = torch.cuda.get_rng_state()
    return states


def _set_random_states(states: Mapping[str, torch.Tensor], mix: Mixing) -> None:
    torch.set_rng_state(states["random"])
    mix.load_state(states)
    if "random_cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["random_cuda"])


def stop_counting_batches(model: nn.Module) -> None:
    """Let batch norms that train leave `num_batches_tracked` as it is: counting costs a launch per norm and step.

    Only a norm without momentum reads the number. As a buffer it stays, for state dicts and other modules.
    """
    for module in model.modules():
        if isinstance(module, _NORMS) and module.momentum is not None:
            vars(module)["num_batches_tracked"] = None  # which `forward` finds before the buffer


def set_training_mode(model: PetNet, freeze_batch_norm: bool) -> None:
    """Switch to training mode; with `freeze_batch_norm`, the backbone's batch norms keep their statistics."""
    model.train()
    if freeze_batch_norm:
        for module in model.backbone.modules():
            if isinstance(module, _NORMS):
                module.eval()
