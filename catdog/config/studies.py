"""The sweeps that make up a study."""

import dataclasses
from typing import Literal

from catdog.config.recipe import PURPOSES, Purpose
from catdog.config.sweep_options import SweepConfig

LAMBDAS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
WITHOUT = "multi-attention-free"
"""The variant with λ = 0."""
ALL: Literal["all"] = "all"


def lambda_config(config: SweepConfig) -> SweepConfig:
    """Return the sweep of a λ study; the run is named after the preset unless the user named it."""
    labels = (WITHOUT, *(f"multi-attention:lambda_divergence={value:g}" for value in LAMBDAS))
    return dataclasses.replace(config, run=config.run or f"{config.preset}-lambda", variants=labels)


def scatter_configs(config: SweepConfig) -> dict[str, SweepConfig]:
    """Return the sweeps of a scatter study, keyed by what varies with the seed; in the last one, everything."""
    base = config.run or f"{config.preset}-scatter"
    purposes: tuple[Purpose | Literal["all"], ...] = (*PURPOSES, ALL)
    return {
        purpose: dataclasses.replace(
            config, run=f"{base}-{purpose}", recipe=dataclasses.replace(config.recipe, vary=purpose)
        )
        for purpose in purposes
    }
