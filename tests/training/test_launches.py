"""What a training step computes, operation by operation, so that none creeps in: on a GPU each is a kernel to launch.

Counted in torch's dispatcher, on a CPU. Views and empty tensors launch nothing and are left out.
"""

import dataclasses
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from catdog.config.recipe import Recipe
from catdog.config.variants import parse_variant
from catdog.training.loop import fit, new_state
from catdog.training.seeding import trial_seeds
from catdog.trial.context import RunContext
from catdog.trial.inputs import load_inputs, new_model

CPU = torch.device("cpu")


class CountLaunches(TorchDispatchMode):
    """Counts operations that would launch a kernel on a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if func.namespace == "aten" and not func.is_view and "empty" not in name:
            self.counts[name] += 1
        return func(*args, **(kwargs or {}))


def launches_of_a_step(context: RunContext, label: str) -> Counter[str]:
    """From the end of the second optimiser step to that of the third, so that nothing counts that comes once."""
    recipe, derive_seed = context.identity.recipe, trial_seeds(0)
    inputs = load_inputs(context, CPU)
    model = new_model(inputs, context, parse_variant(label, recipe), derive_seed).to(memory_format=torch.channels_last)
    batches = inputs.batches_for(model.head)
    state = new_state(model, recipe, batches.steps_per_epoch)
    ends: list[Counter[str]] = []
    with CountLaunches() as launches:
        state.optimizer.register_step_post_hook(lambda *_: ends.append(launches.counts.copy()))
        list(fit(state, batches, recipe, derive_seed, CPU))
    return ends[2] - ends[1]


LOSS = {
    "_log_softmax": 1,
    "nll_loss_forward": 1,
    "nll_loss_backward": 1,
    "_log_softmax_backward_data": 1,
    "ones_like": 1,
}
ACCURACY = {"argmax": 1, "eq": 1}
DROPOUT = {"bernoulli_": 1}
CROP = {"_foreach_copy_": 1, "stack": 1, "grid_sampler_2d": 1, "sub_": 1, "clone": 1}
TINY = {
    "convolution": 4, "native_batch_norm": 4, "relu_": 4,
    "convolution_backward": 4, "native_batch_norm_backward": 4, "threshold_backward": 4,
}  # fmt: skip
EVERY_STEP = LOSS | ACCURACY | DROPOUT
STEPS = {
    "frozen baseline": EVERY_STEP | {
        "index_select": 1, "mean": 1, "addmm": 1, "mm": 1, "new_zeros": 1,
        "add": 1, "div_": 1, "mul": 1, "sum": 2, "_foreach_add_": 1, "_fused_adamw_": 1,
    },
    "fine-tuned baseline": EVERY_STEP | CROP | TINY | {
        "mean": 1, "addmm": 1, "mm": 2, "new_zeros": 1,
        "add": 3, "div": 1, "div_": 2, "mul": 4, "sum": 2, "_foreach_add_": 2, "_fused_adamw_": 2,
    },
    "fine-tuned multi-attention": EVERY_STEP | CROP | TINY | {
        "sigmoid": 1, "sigmoid_backward": 1, "bmm": 6, "mm": 7, "addmm": 2, "relu": 1, "threshold_backward": 5,
        "amax": 1, "pow": 4, "diagonal_backward": 1, "neg": 2, "sub": 1, "_unsafe_view": 3, "eq": 2, "clone": 2,
        "add": 9, "div": 9, "div_": 2, "mul": 12, "sum": 7, "_foreach_add_": 3, "_fused_adamw_": 3,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", STEPS)
def test_a_training_step_launches_only_what_it_needs(
    name: str, recipe: Recipe, make_context: Callable[..., RunContext]
) -> None:
    how, label = name.split()
    context = make_context(dataclasses.replace(recipe, freeze=how == "frozen", epochs=1))
    found, expected = launches_of_a_step(context, label), Counter(STEPS[name])
    assert found == expected, f"new: {dict(found - expected)}; gone: {dict(expected - found)}"
