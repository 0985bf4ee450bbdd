"""On a GPU, no step may synchronise with the host: an epoch reads from the device a fixed number of times, at its end.

Operations that return a value, or a shape that depends on values, to Python would synchronise. They are counted in
torch's dispatcher, which sees the same operations on a CPU.
"""

import dataclasses
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from catdog.config.head_registry import VARIANTS
from catdog.config.recipe import Recipe
from catdog.config.variants import parse_variant
from catdog.training.loop import _train_epoch, new_state
from catdog.training.precision import autocast_for
from catdog.training.seeding import trial_seeds
from catdog.trial.context import RunContext
from catdog.trial.inputs import load_inputs, new_model

WAITING = {"_local_scalar_dense", "item", "nonzero", "masked_select", "equal", "unique_dim", "_unique2", "is_nonzero"}


class CountWaits(TorchDispatchMode):
    """Counts operations that would make a GPU send a value to the host."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        masks = (i for i in (args[1] if name in ("index", "index_put_") else ()) if i is not None)
        if name in WAITING or any(index.dtype == torch.bool for index in masks):
            self.counts[name] += 1
        return func(*args, **(kwargs or {}))


def waits_of_an_epoch(context: RunContext, label: str) -> int:
    recipe, device = context.identity.recipe, torch.device("cpu")
    inputs = load_inputs(context, device)
    derive_seed = trial_seeds(0)
    model = new_model(inputs, context, parse_variant(label, recipe), derive_seed)
    batches = inputs.batches_for(model.head)
    state = new_state(model, recipe, batches.steps_per_epoch)
    with CountWaits() as waits:
        list(_train_epoch(state, batches, recipe, derive_seed, 0, autocast_for("float32", device)))
    return waits.counts.total()


@pytest.mark.parametrize("freeze", [False, True])
@pytest.mark.parametrize("label", VARIANTS)
def test_an_epoch_waits_for_the_device_twice_regardless_of_its_number_of_steps(
    label: str, freeze: bool, recipe: Recipe, make_context: Callable[..., RunContext]
) -> None:
    if freeze and "stages" in parse_variant(label).arguments and label != "stage-attention":
        label += ":stages=last"  # inside, it would change what is cached
    for batch_size, ema in ((12, 0.0), (4, 0.9)):  # two steps, six steps
        changed = dataclasses.replace(recipe, freeze=freeze, batch_size=batch_size, ema=ema)
        assert waits_of_an_epoch(make_context(changed), label) == 2


def test_waiting_operations_are_counted() -> None:
    values = torch.arange(4.0)
    with CountWaits() as waits:
        values.sum().item()
        values[values > 1]
        values[torch.tensor([0, 1])]
        float(values[0])
    assert waits.counts.total() >= 3
    assert "index" in waits.counts
