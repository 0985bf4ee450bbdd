"""Which precision `auto` stands for: settled once for a run, on a worker, since all its trials must share it.

GPUs that have bfloat16 use it. On CPUs it depends on the network: a ResNet trains twice as fast in bfloat16 where the
CPU has instructions for it, a network of depthwise convolutions more slowly than in float32. So a few steps of both are
timed, and bfloat16 has to be clearly faster: a choice within the noise would differ from run to run.
"""

import time

import torch
import torch.nn.functional as F

from catdog.config import Precision, Recipe
from catdog.models.backbones import build_backbone, feature_shape
from catdog.models.network import PetNet, build_head
from catdog.training import autocast_for, new_state
from catdog.variants import parse_variant

CLEARLY_FASTER = 1.2
_STEPS = 3
_CLASSES = 37


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
        self._state = new_state(self._model, recipe, 1)
        self._autocast = autocast_for(precision, images.device)
        self.time()  # the first step prepares the kernels

    def time(self) -> float:
        """Train one step; returns its seconds."""
        started = time.perf_counter()
        with self._autocast:
            output = self._model(self._images)
        F.cross_entropy(output.logits_BK.float(), self._labels).backward()
        self._state.optimizer.step()
        self._state.optimizer.zero_grad(set_to_none=True)
        return time.perf_counter() - started
