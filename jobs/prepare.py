"""Put a packed dataset into a store, where the nodes of a cluster find it.

python jobs/prepare.py PRESET [--store URL] [--data-root DIR]
python jobs/prepare.py --dataset folder:DIR --name NAME [--store URL]: for sweeps with --dataset store:NAME
"""

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from catdog.cli import ExitCode, output_console, parse, run_job, take_preset
from catdog.config.presets import PRESETS
from catdog.data.datasets.base import pack_key
from catdog.data.datasets.registry import check_dataset
from catdog.data.prepare import check_dataset_name, prepare_dataset
from catdog.errors import UserError
from catdog.storage import StoreLocation


@dataclass(frozen=True)
class Options:
    """Where the dataset is, how it is packed, and the store it goes into."""

    dataset: str | None = None
    """The images, as in sweep.py: folder:DIR, csv:FILE, ... (default: the preset's)."""
    name: str | None = None
    """The dataset's name in the store, for sweeps with --dataset store:NAME."""
    store: str = "results"
    """A folder, or s3://bucket/prefix."""
    data_root: str | None = None
    """Oxford-IIIT Pet in torchvision's layout (default: $CATDOG_DATA_ROOT, else the store's copy, else a download); for
    torchvision:NAME, torchvision's root folder (default: a download)."""
    test_share: float = 0.2
    """Share of the images drawn as Test, stratified by class, if the dataset has no test split."""
    pack_size: int = 256
    """Side of the square images that are stored, in pixels."""
    resize: Literal["squash", "crop"] = "squash"
    """How stored images become square: squashed, or cropped to their centre."""
    split_seed: int = 0
    """Seed for drawing Test."""


def main(arguments: Sequence[str]) -> int:
    """Store the dataset; returns the exit code."""
    has_preset = not arguments or not arguments[0].startswith("--") or arguments[0] == "--help"
    preset, rest = take_preset(arguments, "prepare.py") if has_preset else (PRESETS["demo"], arguments)
    program = f"prepare.py {preset.preset}" if has_preset else "prepare.py"
    own = {name: getattr(preset, name) for name in ("store", "data_root", "test_share", "pack_size", "resize")}
    default = Options(**own, split_seed=preset.recipe.split_seed)
    options = parse(Options, rest, "Put a dataset into a store, packed.", program, default=default)
    if not has_preset and options.dataset is None:
        raise UserError("prepare.py: name the images: a preset, or --dataset folder:DIR; see prepare.py --help")
    if options.name is not None:
        check_dataset_name(options.name)
    settings = dataclasses.asdict(options)
    dataset, split_seed, name = (settings.pop(key) for key in ("dataset", "split_seed", "name"))
    recipe = dataclasses.replace(preset.recipe, dataset=dataset or preset.recipe.dataset, split_seed=split_seed)
    config = dataclasses.replace(preset, recipe=recipe, **settings)
    console = output_console()
    check_dataset(config).check()
    store = StoreLocation.of(config.store).open()
    store.check()
    info = prepare_dataset(config, store, console.print, name)
    place = f"{store.url}/{pack_key(info.fingerprint)}"
    console.print(f"{config.recipe.dataset} {info.fingerprint}: {place}", soft_wrap=True)
    if name is not None:
        console.print(f"sweeps find it with --store {config.store} --dataset store:{name}", soft_wrap=True)
    return ExitCode.COMPLETE


if __name__ == "__main__":
    sys.exit(run_job(main))
