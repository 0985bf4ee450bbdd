"""The models: `build_model` joins a backbone and the head of a variant.

Shapes: B batch, C channels of an H × W map, M masks, K classes.
"""

from catdog.models.network import ModelOutput, PetNet, build_head, build_model
from catdog.variants import VARIANTS

__all__ = ["VARIANTS", "ModelOutput", "PetNet", "build_head", "build_model"]
