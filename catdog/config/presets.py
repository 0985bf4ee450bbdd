"""The named sweeps, and the sweeps that make up a study."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

from catdog.config.recipe import PURPOSES, Recipe, Vary
from catdog.config.sweep_options import SweepConfig
from catdog.config.variants import multiply_out
from catdog.errors import UserError
from catdog.formatting import shorten

PRESETS: dict[str, SweepConfig] = {
    config.preset: config
    for config in (
        SweepConfig(
            preset="demo",
            seeds="3",
            recipe=Recipe(
                dataset="drawn",
                backbone="tiny",
                weights="none",
                image_size=96,
                epochs=12,
                batch_size=64,
                learning_rate=4e-3,
                backbone_learning_rate=4e-3,
                crop_scale=0.6,
                lambda_divergence=1e-4,
                precision="float32",
            ),
        ),
        SweepConfig(
            preset="pets-frozen",
            recipe=Recipe(
                backbone="timm/tf_efficientnet_lite0",
                weights="lite0",
                freeze=True,
                image_size=224,
                epochs=20,
                batch_size=64,
                weight_decay=0.3,
                label_smoothing=0.1,
                lambda_divergence=1e-4,
            ),
        ),
        SweepConfig(
            preset="pets-cpu",
            seeds="3",
            recipe=Recipe(
                backbone="timm/tf_efficientnet_lite0",
                weights="lite0",
                image_size=176,
                epochs=4,
                batch_size=32,
            ),
        ),
        SweepConfig(
            preset="paper",
            gpus_per_trial=None,
            recipe=Recipe(
                backbone="resnet34",
                weights="imagenet",
                image_size=224,
                epochs=20,
                batch_size=64,
                freeze_batch_norm=False,
                precision="bfloat16",
            ),
        ),
    )
}
"""The named sweeps; a preset's values are the defaults of all options."""


def preset_config(name: str) -> SweepConfig:
    """Return the preset of this name; raises `UserError` listing the valid names."""
    if name not in PRESETS:
        raise UserError(
            f"unknown preset {shorten(name)!r}: choose from {', '.join(PRESETS)}, or name a recipe file (.yaml)"
        )
    return PRESETS[name]


LAMBDAS = {"sum": "1e-6,1e-5,1e-4,1e-3,1e-2,0.1", "mean": "1e-3,1e-2,0.1,1,10,100"}
"""The weights of a λ study, by the form of the divergence loss; 0 is compared as well."""
WITH, WITHOUT = "multi-attention", "multi-attention-free"
"""The variant with λ, and that with λ = 0."""
ALL: Literal["all"] = "all"


def lambda_config(config: SweepConfig) -> SweepConfig:
    """Return the sweep of a λ study: of the one multi-attention in `config`, whose other values stay.

    The run is named after the preset unless the user named it. Raises `UserError` if there are several, or none.
    """
    heads = [spec for spec in config.variant_specs if spec.name == WITH]
    if len(heads) != 1:
        raise UserError(f"the study lambda is of one {WITH}, and --variants has {len(heads)}: name it there")
    items = [item for item in heads[0].label.partition(":")[2].split(",") if item]
    items = [item for item in items if not item.startswith("lambda_divergence=")]
    without = [item for item in items if not item.startswith("divergence=")]
    labels = multiply_out(
        [_label("lambda", WITH, items)],
        [f"lambda_divergence={LAMBDAS[str(heads[0].arguments.get('divergence', 'sum'))]}"],
    )
    return dataclasses.replace(
        config,
        run=config.run or f"{config.preset_name}-lambda",
        variants=(_label("lambda 0", WITHOUT, without), *labels),
        grid=(),
    )


def _label(short_label: str, name: str, items: Sequence[str]) -> str:
    return f"{short_label}={name}:{','.join(items)}" if items else f"{short_label}={name}"


def scatter_configs(config: SweepConfig, with_split: bool) -> dict[str, SweepConfig]:
    """Return the sweeps of a scatter study, keyed by what varies with the seed; in the last one, everything.

    The split is one of the sources only `with_split`.
    """
    base = config.run or f"{config.preset_name}-scatter"
    sources: tuple[Vary, ...] = (*PURPOSES, "split", ALL) if with_split else (*PURPOSES, ALL)
    return {
        source: dataclasses.replace(
            config,
            run=f"{base}-{source}",
            recipe=dataclasses.replace(config.recipe, vary=source, resample_split=source == ALL and with_split),
        )
        for source in sources
    }
