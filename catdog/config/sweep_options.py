"""The sweep around a recipe: its trials, their store, and the resources they may use."""

import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Annotated, Literal

import tyro

from catdog.config.extensions import check_registered
from catdog.config.head_files import HeadFile, load_head_files, read_head_files
from catdog.config.recipe import Recipe, option_name, require
from catdog.config.variants import VariantSpec, multiply_out, parse_variants
from catdog.formatting import shorten

Tracker = Literal["none", "mlflow", "wandb"]
FEWEST_SEEDS = 6
"""Fewer pairs decide nothing."""
IMPORT = tyro.conf.arg(name="import", help_behavior_hint=lambda files: f"(default: {files or 'none'})")


@dataclass(frozen=True)
class SweepConfig:
    """One sweep: the trials of a recipe, their store, and the resources they may use."""

    preset: tyro.conf.Suppress[str]
    """A preset's name, or the path of a recipe file."""
    run: str | None = None
    """Name of the run in the store (default: the preset's name, or the recipe file's without .yaml)."""
    store: str = "results"
    """A folder, or s3://bucket/prefix."""
    variants: tuple[str, ...] = ("baseline", "attention", "multi-attention")
    """The variants to compare, as NAME or NAME:parameter=value,..., also with settings of the recipe
    (baseline:label_smoothing=0.1); with SHORT= in front, tables call it SHORT."""
    grid: tuple[str, ...] = ()
    """Multiply the variants by all combinations of these values: learning_rate=1e-3,2e-3 backbone=resnet18,resnet34."""
    imports: Annotated[tuple[str, ...], IMPORT, tyro.conf.UseAppendAction] = ()
    """A Python file with heads of your own, to be named in --variants; may be given several times."""
    tuning: str | None = None
    """The run in this store in which jobs/tune.py tuned the variants: its seeds are refused, the report tells of it."""
    seeds: str = "30"
    """Number of seeds (30), or which ones (0-9, or 0-4,7)."""
    reference: str | None = None
    """The variant that all others are compared with (default: baseline, else the first)."""
    primary: str | None = None
    """The variant whose contrast with the reference is tested alone at 5 % (default: multi-attention, else the
    first other one)."""
    smallest_effect: float | None = None
    """The smallest difference of Test accuracy that matters, in points: smaller ones can be found equivalent."""
    until_decided: bool = False
    """Look at the results at planned numbers of seeds, and stop what is decided; --seeds is the most there can be."""
    looks: str | None = None
    """After how many seeds to look (12,15,20; default: 20, 30, 40, 50, 67 and 83 % of them), and after all."""
    data_root: str | None = None
    """Oxford-IIIT Pet in torchvision's layout (default: $CATDOG_DATA_ROOT, else the store's copy, else a download); for
    torchvision:NAME, torchvision's root folder (default: a download)."""
    test_share: float = 0.2
    """Share of the images drawn as Test, stratified by class, if the dataset has no test split."""
    pack_size: int = 256
    """Side of the square images that are stored, in pixels."""
    resize: Literal["squash", "crop"] = "squash"
    """How stored images become square: squashed, or cropped to their centre."""
    recipe: tyro.conf.OmitArgPrefixes[Recipe] = field(default_factory=Recipe)
    cpus_per_trial: int = 1
    """CPU cores, and thus threads, per trial; its workers share them, and each has one at least."""
    gpus_per_trial: float | None = 0.0
    """GPUs per trial, or a fraction of one (0.25); None: one if there are any, else none. With several (2), each gets a
    worker, which computes its share of every batch."""
    workers_per_trial: int = 1
    """Without GPUs: how many processes train a trial together, as with several GPUs."""
    checkpoint_seconds: float = 60.0
    """Save a checkpoint whenever the last one is this many seconds old; 0: after every epoch."""
    keep_weights: Literal["auto", "none", "best", "all"] = "auto"
    """Which trained networks to keep: none, each variant's best by validation accuracy, or all. auto: the best ones, if
    their weights are at most 100 MB each (25 million parameters)."""
    max_retries: int = 20
    """How often a trial is retried after a lost node, a killed process or an unavailable store."""
    store_patience: float = 600.0
    """Seconds to keep retrying an unavailable store before a trial gives up and is restarted."""
    hourly_price: float | None = None
    """Hourly price of one GPU (of one CPU core if trials use no GPU), to report what a sweep costs."""
    max_cost: float | None = None
    """Start no more trials once the run has cost this much, idle time included; needs --hourly-price."""
    tracker: Tracker = "none"
    """Also log the trials to MLflow or Weights & Biases, using their own settings (MLFLOW_TRACKING_URI, ...)."""
    notify: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Send messages: at the end, at the first failure, at a look that decides something, at --max-cost. A URL as in the
    documentation of Apprise (ntfy://HOST/TOPIC), or a file of URLs, whose tokens no list of processes or jobs shows.
    May be given several times."""
    dry_run: bool = False
    """Print the plan and start nothing."""
    imported: Annotated[Mapping[str, HeadFile], tyro.conf.SuppressFixed] = field(
        default_factory=dict, compare=False, repr=False
    )
    """The files of `imports`, by path, as they were when they were first read: a command runs the same code to its end,
    also if they are edited meanwhile."""

    def __post_init__(self) -> None:
        check_run_name(self.run_name)
        if self.tuning is not None:
            check_run_name(self.tuning)
        check_store(self.store)
        require(1 <= self.cpus_per_trial <= 256, f"--cpus-per-trial {self.cpus_per_trial}: must be from 1 to 256")
        gpus = self.gpus_per_trial
        require(
            gpus is None or 0 <= gpus <= 1 or (gpus <= 64 and gpus == int(gpus)),
            f"--gpus-per-trial {gpus}: must be from 0 to 1, or a whole number up to 64",
        )
        workers = self.workers_per_trial
        require(1 <= workers <= 64, f"--workers-per-trial {workers}: must be from 1 to 64")
        require(
            workers == 1 or gpus == 0,
            f"--workers-per-trial {workers}: is for CPUs; give --gpus-per-trial 0, or {workers} for a GPU each",
        )
        for name in ("checkpoint_seconds", "store_patience"):
            seconds = getattr(self, name)
            require(0 <= seconds < math.inf, f"{option_name(name)} {seconds}: must be a number of seconds from 0")
        effect = self.smallest_effect
        require(effect is None or 0 < effect <= 100, f"--smallest-effect {effect}: must be a number of points above 0")
        require(
            not self.until_decided or effect is not None,
            "--until-decided: needs --smallest-effect, the difference in points that is too small to matter",
        )
        require(self.looks is None or self.until_decided, "--looks: needs --until-decided")
        parse_looks(self.looks or "2")
        require(0 <= self.max_retries <= 1_000_000, f"--max-retries {self.max_retries}: must be from 0 to 1000000")
        for name in ("hourly_price", "max_cost"):
            amount = getattr(self, name)
            require(amount is None or 0 < amount < math.inf, f"{option_name(name)} {amount}: must be a number above 0")
        require(
            self.max_cost is None or self.hourly_price is not None,
            f"--max-cost {self.max_cost}: needs --hourly-price, the price of a GPU for an hour",
        )
        require("" not in self.notify, "--notify: empty; give a URL or a file, or leave the option out")
        require(self.data_root != "", "--data-root: empty; give the folder of the images, or leave the option out")
        require(0.01 <= self.test_share <= 0.9, f"--test-share {self.test_share}: must be from 0.01 to 0.9")
        require(16 <= self.pack_size <= 2048, f"--pack-size {self.pack_size}: must be from 16 to 2048")
        parse_seeds(self.seeds)
        object.__setattr__(self, "imported", read_head_files(self.imports, self.imported))
        load_head_files(self.imported)
        for recipe in self.recipes:
            check_registered(recipe)
            require(
                recipe.batch_size % self.workers == 0,
                f"--batch-size {recipe.batch_size}: must be a multiple of the {self.workers} workers of a trial",
            )

    @property
    def workers(self) -> int:
        """Return how many processes train a trial together."""
        return max(self.workers_per_trial, int(self.gpus_per_trial or 0))

    @property
    def threads(self) -> int:
        """Return how many threads each of them has."""
        return max(1, self.cpus_per_trial // self.workers)

    @property
    def cpus(self) -> int:
        """Return how many CPU cores a trial takes."""
        return self.workers * self.threads

    @property
    def workers_option(self) -> str:
        """Return the option that says how many workers a trial has, with its value."""
        return f"--{'gpus' if self.gpus_per_trial else 'workers'}-per-trial {self.workers}"

    @property
    def preset_name(self) -> str:
        """Return the name of the preset, or of the recipe file without folder and ending."""
        return PurePath(self.preset).stem

    @property
    def run_name(self) -> str:
        """Return the run's name: the option, else the preset's name."""
        return self.preset_name if self.run is None else self.run

    @property
    def variant_specs(self) -> tuple[VariantSpec, ...]:
        """Return the variants, multiplied by the grid, with their parameters and settings resolved."""
        return parse_variants(multiply_out(self.variants, self.grid), self.recipe)

    @property
    def recipes(self) -> tuple[Recipe, ...]:
        """Return the recipes of the variants, each once."""
        return tuple(dict.fromkeys(self.recipe.changed(**spec.settings) for spec in self.variant_specs))

    @property
    def networks(self) -> tuple[tuple[str, str, int], ...]:
        """Return the variants' backbones, each with its weights and image size."""
        return tuple(dict.fromkeys((one.backbone, one.weights, one.image_size) for one in self.recipes))

    @property
    def head_files(self) -> tuple[HeadFile, ...]:
        """Return the files of heads, as they travel to workers."""
        return tuple(self.imported.values())

    @property
    def seed_list(self) -> tuple[int, ...]:
        """Return the seeds, sorted."""
        return parse_seeds(self.seeds)

    @property
    def look_list(self) -> tuple[int, ...]:
        """Return after how many seeds the sweep may stop; none without `--until-decided`."""
        return self.looks_of(len(self.seed_list)) if self.until_decided else ()

    def looks_of(self, seeds: int) -> tuple[int, ...]:
        """Return after how many of so many seeds a sweep with these options would look, all of them included."""
        return all_looks(seeds) if self.looks is None else up_to(seeds, parse_looks(self.looks))

    @property
    def dataset_root(self) -> str | None:
        """Return where the user says the dataset is: the option, else the environment variable."""
        return self.data_root or os.environ.get("CATDOG_DATA_ROOT") or None


def parse_looks(text: str) -> tuple[int, ...]:
    """Return the numbers of seeds that `text` lists. Raises `UserError`."""
    looks = [int(part) if re.fullmatch("[0-9]{1,5}", part) else 0 for part in text.split(",")]
    require(
        looks == sorted(set(looks)) and looks[0] > 1,
        f"--looks {shorten(text)}: must be rising numbers of seeds from 2, such as 12,15,20",
    )
    return tuple(looks)


def all_looks(seeds: int) -> tuple[int, ...]:
    """Return after how many of `seeds` to look, all of them included.

    With 14 to 41 seeds, the first two looks cannot find a difference, since too little of the level may be spent by
    then; they can find a contrast equivalent or hopeless. With more seeds, or some smaller numbers, they can find one.
    """
    return up_to(seeds, [max(FEWEST_SEEDS, round(share * seeds)) for share in (0.2, 0.3, 0.4, 0.5, 2 / 3, 5 / 6)])


def up_to(seeds: int, looks: Sequence[int]) -> tuple[int, ...]:
    """Return these looks as far as there are seeds, and the one after all of them."""
    return tuple(sorted({min(seeds, look) for look in (*looks, seeds)}))


def require_all_seeds(config: SweepConfig) -> None:
    """Raise `UserError` for a sweep that may stop early, which only one job knows how to run."""
    require(not config.until_decided, "--until-decided: only sweep.py can stop early; leave it out")


def check_run_name(run: str) -> None:
    """Raise `UserError` for a name that is not a valid folder in every store."""
    require(
        re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", run) is not None and run != "datasets",
        f"--run {shorten(run)}: use 1 to 100 letters, digits, '.', '_' and '-', a letter or digit first; "
        "'datasets' is taken",
    )


def check_store(url: str) -> None:
    """Raise `UserError` for an empty store, which would mean the current folder."""
    require(url != "", "--store: empty; give a folder or s3://bucket/prefix")


def parse_seeds(text: str) -> tuple[int, ...]:
    """Return the seeds that `text` names: `30` means 0 to 29, `0-9` and `0-4,7` list them. Raises `UserError`."""
    remedy = "give a number of seeds (30), a range (0-9) or a list of ranges (0-4,7)"
    if re.fullmatch(r"[0-9]{1,9}", text):
        require(1 <= int(text) <= 10_000, f"--seeds {text}: must be from 1 to 10000; {remedy}")
        return tuple(range(int(text)))
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"([0-9]{1,9})(?:-([0-9]{1,9}))?", part)
        require(match is not None, f"--seeds {shorten(text)}: {remedy}")
        assert match is not None
        first, last = int(match[1]), int(match[2] or match[1])
        require(first <= last, f"--seeds {shorten(text)}: {first}-{last} runs backwards; {remedy}")
        require(len(seeds) + last - first < 10_000, f"--seeds {shorten(text)}: more than 10000 seeds; {remedy}")
        seeds.extend(range(first, last + 1))
    require(len(set(seeds)) == len(seeds), f"--seeds {shorten(text)}: a seed is named twice; {remedy}")
    return tuple(sorted(seeds))


def format_seeds(seeds: Iterable[int]) -> str:
    """Return the text that `parse_seeds` reads as these seeds: `30`, or `0-4,7`."""
    ordered = sorted(seeds)
    if ordered == list(range(len(ordered))):
        return str(len(ordered))
    there = set(ordered)
    firsts = [seed for seed in ordered if seed - 1 not in there]
    lasts = [seed for seed in ordered if seed + 1 not in there]
    spans = [f"{first}-{last}" if first < last else str(first) for first, last in zip(firsts, lasts, strict=True)]
    return ",".join(spans) if len(spans) > 1 else f"{ordered[0]}-{ordered[-1]}"
