"""The models: `build_model` joins a backbone and a variant's head; `register_head` adds a head of your own.

Shapes: B batch, C channels of an H × W map, M masks, K classes.
"""

from catdog.config.head_registry import VARIANTS, Parameter, register_head
from catdog.models.petnet import ModelOutput, PetNet, build_head, build_model

__all__ = ["VARIANTS", "ModelOutput", "Parameter", "PetNet", "build_head", "build_model", "register_head"]
