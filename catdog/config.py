"""What a user can ask for: the recipe of a trial, the sweep around it, and the presets.

`Recipe` holds everything that changes a result; with the data's fingerprint and the number of threads it is a run's
`Identity`. `SweepConfig` holds the rest: which trials, where they are stored, what they may use. All are frozen and
validated on construction; a mistake is a `UserError` that names the option and the remedy. This file imports no torch.
"""

import dataclasses
import hashlib
import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import tyro

from catdog.errors import UserError
from catdog.fields import from_fields
from catdog.seeding import Purpose
from catdog.variants import VariantSpec, parse_variants

RESULT_FORMAT = 3
"""Raised whenever the same recipe would give other numbers than before; part of a run's identity."""

Precision = Literal["auto", "float32", "bfloat16"]
Tracker = Literal["none", "mlflow", "wandb"]


_INTEGERS = {
    "image_size": (16, 2048),
    "epochs": (1, 100_000),
    "batch_size": (1, 65_536),
    "probe_images": (1, 1000),
    "split_seed": (0, 2**32 - 1),
    "limit_images": (1, 10_000_000),
}
"""The least and the greatest value of the recipe's integers: what is beyond is a slip of the hand."""


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise UserError(message)


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _shorten(text: str, length: int = 60) -> str:
    return text if len(text) <= length else text[:length] + "…"


@dataclass(frozen=True)
class Recipe:
    """Everything that a trial's numbers depend on, besides its variant and seed."""

    dataset: Literal["drawn", "oxford-iiit-pet"] = "oxford-iiit-pet"
    """The images: the drawn pets (nothing to download) or Oxford-IIIT Pet."""
    backbone: str = "resnet34"
    """A torchvision classification model, `timm/NAME`, or `tiny`."""
    weights: str = "imagenet"
    """The backbone's weights: imagenet, lite0, none, a file, or an s3:// url."""
    freeze: bool = False
    """Train the head only, on feature maps that are computed once; the only augmentation is then the mirror image."""
    freeze_batch_norm: bool = True
    """Keep the backbone's batch-norm statistics as they were pretrained (random weights have none to keep)."""
    image_size: int = 224
    """Side of the images that the backbone sees, in pixels."""
    epochs: int = 10
    """Passes over the training images."""
    batch_size: int = 32
    """Images in a training step."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """AdamW, or SGD with Nesterov momentum 0.9."""
    learning_rate: float = 2e-3
    """Peak learning rate of the head."""
    backbone_learning_rate: float = 2e-4
    """Peak learning rate of the backbone."""
    schedule: Literal["one-cycle", "cosine"] = "one-cycle"
    """One-cycle (warm-up over 30 % of the steps, then cosine) or cosine from the start."""
    weight_decay: float = 0.01
    """Weight decay of all weights except the mask convolution's."""
    mask_weight_decay: float = 0.0
    """Weight decay of the mask convolution."""
    label_smoothing: float = 0.0
    """Label smoothing of the cross-entropy in training."""
    lambda_divergence: float = 0.001
    """Weight λ of the divergence loss of multi-attention; it depends on the size of the feature map."""
    crop_scale: float = 0.35
    """Smallest share of the image's area that a random crop keeps (1: no crops)."""
    flip: bool = True
    """Mirror half of the training images."""
    split_seed: int = 0
    """Seed of the split of trainval into train and validation; the same for all trials."""
    limit_images: int | None = None
    """Use at most so many images of each part (train, validation, test), spread over the breeds."""
    probe_images: int = 4
    """How many validation images the contact sheets show."""
    precision: Precision = "auto"
    """float32, bfloat16 (autocast), or auto: the faster of both, measured once at the start of a run."""
    compile: bool = False
    """Compile the network with torch.compile."""
    deterministic: bool = False
    """Use deterministic algorithms on GPUs too (slower)."""
    vary: Purpose | Literal["all"] = "all"
    """Which source of randomness the seed changes; the others stay those of seed 0."""

    def __post_init__(self) -> None:
        for name, (minimum, maximum) in _INTEGERS.items():
            value = getattr(self, name)
            _require(
                value is None or minimum <= value <= maximum,
                f"{_option(name)} {_shorten(str(value))}: must be from {minimum} to {maximum}",
            )
        for name in ("learning_rate", "backbone_learning_rate"):
            value = getattr(self, name)
            _require(0 < value < 100, f"{_option(name)} {value}: must be above 0 and below 100")
        for name in ("weight_decay", "mask_weight_decay"):
            value = getattr(self, name)
            _require(0 <= value < 10, f"{_option(name)} {value}: must be at least 0 and below 10")
        _require(
            0 < self.lambda_divergence < 1e6,
            f"--lambda-divergence {self.lambda_divergence}: must be above 0 and below 1000000 "
            "(variant multi-attention-free has λ = 0)",
        )
        _require(0 <= self.label_smoothing < 1, f"--label-smoothing {self.label_smoothing}: must be in [0, 1)")
        _require(0 < self.crop_scale <= 1, f"--crop-scale {self.crop_scale}: must be in (0, 1]")
        _require(self.backbone != "", "--backbone: empty; give a torchvision model, timm/NAME or tiny")
        _require(self.weights != "", "--weights: empty; say none for random weights")
        _require(
            self.backbone != "tiny" or self.weights == "none",
            f"--weights {self.weights}: the backbone tiny has no pretrained weights; add --weights none",
        )

    @property
    def keeps_batch_norm(self) -> bool:
        """Whether the backbone's batch norms keep the statistics that they came with."""
        return self.freeze_batch_norm and self.weights != "none"

    @property
    def backbone_library(self) -> str | None:
        """The library that builds the backbone; None for our own."""
        if self.backbone == "tiny":
            return None
        return "timm" if self.backbone.startswith("timm/") else "torchvision"

    def variant_defaults(self) -> dict[str, int | float]:
        """The parameters of variants whose default is this recipe's."""
        return {"lambda_divergence": self.lambda_divergence}


@dataclass(frozen=True)
class SweepConfig:
    """One sweep: which trials of which recipe, where they are stored and what they may use."""

    preset: tyro.conf.Suppress[str]
    run: str | None = None
    """Name of the run in the store (default: the preset's name)."""
    store: str = "results"
    """A folder, or s3://bucket/prefix."""
    variants: tuple[str, ...] = ("baseline", "attention", "multi-attention")
    """The variants to compare, as NAME or NAME:parameter=value,..."""
    seeds: str = "30"
    """How many seeds (30), or which (0-9, or 0-4,7)."""
    data_root: str | None = None
    """Oxford-IIIT Pet in torchvision's layout (default: $CATDOG_DATA_ROOT, else the store's copy, else a download)."""
    recipe: tyro.conf.OmitArgPrefixes[Recipe] = field(default_factory=Recipe)
    cpus_per_trial: int = 1
    """CPU cores, and so threads, of a trial."""
    gpus_per_trial: float | None = 0.0
    """GPUs of a trial, or a part of one (0.25); None: one where there are any, else none."""
    checkpoint_seconds: float = 60.0
    """Save an unfinished trial at the end of an epoch when the last time is so long ago."""
    keep_weights: Literal["none", "best", "all"] = "none"
    """Keep the weights of each variant's best run by validation, of all trials, or none."""
    max_retries: int = 20
    """How often a trial is started again after a lost node, a killed process or a store that stayed away."""
    store_patience: float = 600.0
    """Seconds to wait for an S3 store that is away, before a trial gives up and is started again."""
    hourly_price: float | None = None
    """Price of one GPU for an hour (of one CPU core, where trials use no GPU), to say what a sweep costs."""
    max_cost: float | None = None
    """Start no more trials when the run has cost so much, idle time included; needs --hourly-price."""
    tracker: Tracker = "none"
    """Also file the trials in MLflow or Weights & Biases, as their own settings say (MLFLOW_TRACKING_URI, ...)."""
    dry_run: bool = False
    """Print the plan and start nothing."""

    def __post_init__(self) -> None:
        check_run_name(self.run_name)
        check_store(self.store)
        _require(1 <= self.cpus_per_trial <= 256, f"--cpus-per-trial {self.cpus_per_trial}: must be from 1 to 256")
        gpus = self.gpus_per_trial
        _require(
            gpus is None or 0 <= gpus <= 1,
            f"--gpus-per-trial {gpus}: must be from 0 to 1; a trial uses one GPU at most",
        )
        for name in ("checkpoint_seconds", "store_patience"):
            seconds = getattr(self, name)
            _require(0 <= seconds < math.inf, f"{_option(name)} {seconds}: must be a number of seconds from 0")
        _require(0 <= self.max_retries <= 1_000_000, f"--max-retries {self.max_retries}: must be from 0 to 1000000")
        for name in ("hourly_price", "max_cost"):
            amount = getattr(self, name)
            _require(amount is None or 0 < amount < math.inf, f"{_option(name)} {amount}: must be a number above 0")
        _require(
            self.max_cost is None or self.hourly_price is not None,
            f"--max-cost {self.max_cost}: needs --hourly-price, the price of a GPU for an hour",
        )
        _require(self.data_root != "", "--data-root: empty; give the folder of the images, or leave the option out")
        _require(
            self.data_root is None or self.recipe.dataset == "oxford-iiit-pet",
            f"--data-root {self.data_root}: the dataset of this preset is drawn in code; leave the option out",
        )
        parse_seeds(self.seeds)
        parse_variants(self.variants, self.recipe.variant_defaults())

    @property
    def run_name(self) -> str:
        return self.preset if self.run is None else self.run

    @property
    def variant_specs(self) -> tuple[VariantSpec, ...]:
        return parse_variants(self.variants, self.recipe.variant_defaults())

    @property
    def seed_list(self) -> tuple[int, ...]:
        return parse_seeds(self.seeds)

    @property
    def dataset_root(self) -> str | None:
        """Where the user says the dataset is: the option, or else the environment."""
        return self.data_root or os.environ.get("CATDOG_DATA_ROOT") or None


@dataclass(frozen=True)
class Identity:
    """What makes two runs the same run: results of equal identities can stand in one table."""

    recipe: Recipe
    fingerprint: str
    """Of the dataset's content."""
    weights_digest: str | None
    """sha256 of the weights where they are a file or an s3 url."""
    threads: int
    result_format: int = RESULT_FORMAT

    def __post_init__(self) -> None:
        if self.recipe.precision == "auto":
            raise ValueError("the precision of a run is resolved once, before its identity is made")

    def trial_hash(self, variant: VariantSpec, seed: int) -> str:
        """Return the config hash of one trial (16 hexadecimal digits)."""
        content = dataclasses.asdict(self) | {
            "variant": [variant.name, dict(variant.arguments)],
            "seed": seed,
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Identity":
        """Read an identity; raises `ValueError` when it is not one."""
        return from_fields(cls, content)

    def differences(self, other: "Identity") -> list[str]:
        """Return one line `name: mine → theirs` for each setting that differs."""
        mine, theirs = ({**i.to_json(), **i.to_json()["recipe"]} for i in (self, other))
        return [
            f"{name}: {mine[name]} → {theirs[name]}" for name in mine if name != "recipe" and mine[name] != theirs[name]
        ]


def check_run_name(run: str) -> None:
    """Raise `UserError` for a name that could not be a folder of every store."""
    _require(
        re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", run) is not None and run != "datasets",
        f"--run {_shorten(run)}: use 1 to 100 letters, digits, '.', '_' and '-', a letter or digit first; "
        "'datasets' is taken",
    )


def check_store(url: str) -> None:
    """Raise `UserError` for a store without a name, which would be the current folder."""
    _require(url != "", "--store: empty; give a folder or s3://bucket/prefix")


def parse_seeds(text: str) -> tuple[int, ...]:
    """Return the seeds that `text` names: `30` is 0 to 29, `0-9` and `0-4,7` name them. Raises `UserError`."""
    remedy = "give a number of seeds (30), a range (0-9) or a list of ranges (0-4,7)"
    if re.fullmatch(r"[0-9]{1,9}", text):
        _require(1 <= int(text) <= 10_000, f"--seeds {text}: must be from 1 to 10000; {remedy}")
        return tuple(range(int(text)))
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"([0-9]{1,9})(?:-([0-9]{1,9}))?", part)
        _require(match is not None, f"--seeds {_shorten(text)}: {remedy}")
        assert match is not None
        first, last = int(match[1]), int(match[2] or match[1])
        _require(first <= last, f"--seeds {_shorten(text)}: {first}-{last} runs backwards; {remedy}")
        _require(len(seeds) + last - first < 10_000, f"--seeds {_shorten(text)}: more than 10000 seeds; {remedy}")
        seeds.extend(range(first, last + 1))
    _require(len(set(seeds)) == len(seeds), f"--seeds {_shorten(text)}: a seed is named twice; {remedy}")
    return tuple(sorted(seeds))


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
                learning_rate=2e-3,
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
    """Return the preset of this name; raises `UserError` with the legal names."""
    if name not in PRESETS:
        raise UserError(f"unknown preset {_shorten(name)!r}: choose from {', '.join(PRESETS)}")
    return PRESETS[name]
