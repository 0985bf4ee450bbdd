"""Put the dataset of a preset into a store, packed, so that the nodes of a cluster find it there.

python jobs/prepare.py PRESET [--store URL] [--data-root DIR]
"""

import sys
from collections.abc import Sequence

from catdog.options import COMPLETE, output_console, parse_preset, run_job
from catdog.paths import pack_key
from catdog.provision import provide_dataset
from catdog.storage import StoreLocation


def main(arguments: Sequence[str]) -> int:
    config = parse_preset(arguments, "Put the dataset of a preset into a store, packed.", "prepare.py")
    console = output_console()
    store = StoreLocation.of(config.store).open()
    store.check()
    dataset = provide_dataset(config, store, lambda message: console.print(message, highlight=False))
    console.print(
        f"{dataset.name} {dataset.fingerprint}: {store.url}/{pack_key(dataset.fingerprint)}",
        soft_wrap=True,
        highlight=False,
    )
    return COMPLETE


if __name__ == "__main__":
    sys.exit(run_job(main))
