"""The precision of training: autocast, denormals, and which one `auto` stands for.

`auto` is settled once for a run, on a worker, since all its trials must share it. GPUs that have bfloat16 use it. On
CPUs it depends on the network: a ResNet trains twice as fast in bfloat16 where the CPU has instructions for it, a
network of depthwise convolutions more slowly than in float32. So a few steps of both are timed, and bfloat16 has to be
clearly faster: a choice within the noise would differ from run to run.
"""

import contextlib
import time
from collections.abc import Iterator

import torch

from catdog.config.recipe import Precision, Recipe
from catdog.config.variant_registry import parse_variant
from catdog.models.backbones.build import build_backbone, feature_shape
from catdog.models.losses import classification_loss
from catdog.models.petnet import PetNet, build_head
from catdog.training.schedule import new_optimizer

CLEARLY_FASTER = 1.2
_STEPS = 3
_CLASSES = 37


def autocast_for(precision: str, device: torch.device) -> torch.autocast:
    """Return the autocast context of a precision (`float32` or `bfloat16`)."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16")


@contextlib.contextmanager
def flush_denormals() -> Iterator[None]:
    """Flush denormals to zero on this thread.

    An optimiser's moments decay into them where no gradient comes any more, and CPUs are slow with them.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def choose_precision(recipe: Recipe, device: torch.device) -> Precision:
    """Return the precision in which this process trains the recipe's network faster.

    Heads on cached features stay in float32 on CPUs: they are bound by reading the features, not by arithmetic.
    """
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
    if recipe.freeze or not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return "float32"
    with torch.random.fork_rng(devices=[]):
        steps = {precision: _Steps(recipe, precision) for precision in ("float32", "bfloat16")}
        seconds = {precision: min(steps[precision].time() for _ in range(_STEPS)) for precision in steps}
    return faster_precision(**seconds)


def faster_precision(float32: float, bfloat16: float) -> Precision:
    """Return bfloat16 where it is clearly faster; of each, the seconds of a step."""
    return "bfloat16" if float32 > CLEARLY_FASTER * bfloat16 else "float32"


class _Steps:
    """Training steps on random images, with random weights: what is in them does not change how long they take."""

    def __init__(self, recipe: Recipe, precision: str) -> None:
        backbone = build_backbone(recipe.backbone, None)
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
        """Train one step; returns its seconds."""
        started = time.perf_counter()
        with self._autocast:
            output = self._model(self._images)
        classification_loss(output.logits_BK.float(), self._labels).backward()
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return time.perf_counter() - started
