"""Training precision: autocast, denormals, and what `auto` resolves to.

`auto` is resolved once per run, on a worker, since all trials must share it. GPUs that compute in bfloat16 use it;
older ones only emulate it. On CPUs it depends on the network: where the CPU has bfloat16 instructions, a ResNet trains
twice as fast with them, a network of depthwise convolutions more slowly. So a few steps of each are timed, and bfloat16
must be clearly faster: a choice within the noise would vary from run to run.
"""

import contextlib
import time
from collections.abc import Iterator

import torch
import torch.nn.functional as F

from catdog.config.recipe import Precision, Recipe
from catdog.config.variants import parse_variant
from catdog.models.backbones.build import build_backbone, feature_shape
from catdog.models.petnet import PetNet, build_head
from catdog.training.schedule import new_optimizer

CLEARLY_FASTER = 1.2
_STEPS = 3
_CLASSES = 37


def autocast_for(precision: str, device: torch.device) -> torch.autocast:
    """Return the autocast context for a precision (`float32` or `bfloat16`)."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16")


@contextlib.contextmanager
def flush_denormals() -> Iterator[None]:
    """Flush denormals to zero on this thread.

    An optimiser's moments decay into them once gradients vanish, and CPUs are slow with them.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def choose_precision(recipe: Recipe, device: torch.device) -> Precision:
    """Return the precision in which this process trains the recipe's network faster.

    Heads on cached features stay in float32 on CPUs: they are bound by reading features, not by arithmetic.
    """
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    if recipe.freeze or not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return "float32"
    with torch.random.fork_rng(devices=[]):
        steps = {precision: _Steps(recipe, precision) for precision in ("float32", "bfloat16")}
        seconds = {precision: min(steps[precision].time() for _ in range(_STEPS)) for precision in steps}
    return faster_precision(**seconds)


def faster_precision(float32: float, bfloat16: float) -> Precision:
    """Return bfloat16 if it is clearly faster, given the seconds per step of each."""
    return "bfloat16" if float32 > CLEARLY_FASTER * bfloat16 else "float32"


class _Steps:
    """Training steps on random images with random weights: the values do not affect the time."""

    def __init__(self, recipe: Recipe, precision: str) -> None:
        backbone = build_backbone(recipe.backbone, None, recipe.image_size)
        channels = feature_shape(backbone, recipe.image_size)[0]
        model = PetNet(backbone, build_head(parse_variant("baseline"), channels, _CLASSES))
        images = torch.rand(recipe.batch_size, 3, recipe.image_size, recipe.image_size)
        self._model = model.to(memory_format=torch.channels_last).train()
        self._images = images.contiguous(memory_format=torch.channels_last)
        self._labels = torch.arange(recipe.batch_size) % _CLASSES
        self._optimizer = new_optimizer(self._model, recipe)
        self._autocast = autocast_for(precision, images.device)
        self.time()  # the first step prepares the kernels

    def time(self) -> float:
        """Train one step; return its seconds."""
        started = time.perf_counter()
        with self._autocast:
            output = self._model(self._images)
        F.cross_entropy(output.logits_BK.float(), self._labels).backward()
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return time.perf_counter() - started
