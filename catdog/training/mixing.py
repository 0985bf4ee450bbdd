"""Mixup and CutMix, by torchvision: training images and their labels mixed within a batch."""

from collections.abc import Mapping
from typing import Any

import torch

from catdog.config.recipe import Recipe


class Mixing:
    """Mixes the batches of an epoch as the recipe says, from a generator state of its own."""

    def __init__(self, recipe: Recipe, num_classes: int, seed: int) -> None:
        self._mixes: list[Any] = []
        if recipe.mixup or recipe.cutmix:
            from torchvision.transforms import v2

            kinds = ((v2.MixUp, recipe.mixup), (v2.CutMix, recipe.cutmix))
            self._mixes = [kind(num_classes=num_classes, alpha=alpha) for kind, alpha in kinds if alpha]
            self._state = torch.Generator().manual_seed(seed).get_state()

    @property
    def is_on(self) -> bool:
        """Return whether anything is mixed."""
        return bool(self._mixes)

    def state(self) -> dict[str, torch.Tensor]:
        """Return the generator's state; nothing if nothing is mixed."""
        return {"mixing": self._state} if self._mixes else {}

    def load_state(self, states: Mapping[str, torch.Tensor]) -> None:
        """Continue from a state that `state` returned."""
        if self._mixes:
            self._state = states["mixing"]

    def __call__(self, inputs_BCHW: torch.Tensor, labels_B: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a batch mixed, with shares of labels (B, K); as it is, with its labels, if nothing is to be mixed."""
        if not self._mixes:
            return inputs_BCHW, labels_B
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(self._state)
            mix = self._mixes[int(torch.randint(len(self._mixes), ()))]
            mixed: tuple[torch.Tensor, torch.Tensor] = mix(inputs_BCHW, labels_B)
            self._state = torch.get_rng_state()
        return mixed
