"""Put the packed dataset of a preset into a store, where the nodes of a cluster find it.

python jobs/prepare.py PRESET [--store URL] [--data-root DIR]
"""

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from catdog.cli import ExitCode, output_console, parse, run_job, take_preset
from catdog.data.datasets.base import pack_key
from catdog.data.datasets.registry import check_dataset
from catdog.data.prepare import prepare_dataset
from catdog.storage import StoreLocation


@dataclass(frozen=True)
class Options:
    """Where the dataset is, and the store it goes into."""

    store: str = "results"
    """A folder, or s3://bucket/prefix."""
    data_root: str | None = None
    """Oxford-IIIT Pet in torchvision's layout (default: $CATDOG_DATA_ROOT, else the store's copy, else a download)."""


def main(arguments: Sequence[str]) -> int:
    """Store the dataset; returns the exit code."""
    preset, rest = take_preset(arguments, "prepare.py")
    options = parse(Options, rest, "Put the dataset of a preset into a store, packed.", f"prepare.py {preset.preset}")
    config = dataclasses.replace(preset, store=options.store, data_root=options.data_root)
    console = output_console()
    check_dataset(config)
    store = StoreLocation.of(config.store).open()
    store.check()
    dataset = prepare_dataset(config, store, console.print)
    place = f"{store.url}/{pack_key(dataset.fingerprint)}"
    console.print(f"{dataset.name} {dataset.fingerprint}: {place}", soft_wrap=True)
    return ExitCode.COMPLETE


if __name__ == "__main__":
    sys.exit(run_job(main))
