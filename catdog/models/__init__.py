"""The models: `build_model` joins a backbone and a variant's head.

Shapes: B batch, C channels of an H × W map, M masks, K classes.
"""

from catdog.config.head_registry import VARIANTS
from catdog.models.petnet import ModelOutput, PetNet, build_head, build_model

__all__ = ["VARIANTS", "ModelOutput", "PetNet", "build_head", "build_model"]
