"""Export a run's trained network as one file that runs without catdog, checked on real images. No Ray.

python jobs/export.py --store URL --run NAME --variant V [--out DIR] [--onnx]
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from catdog.cli import ExitCode, NetworkOptions, output_console, parse, run_job
from catdog.config.recipe import require


@dataclass(frozen=True)
class Options(NetworkOptions):
    """The network, and where its files go."""

    onnx: bool = False
    """Write model.onnx, too."""
    out: str = "export"
    """A folder, or s3://bucket/prefix."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.out != "", "--out: empty; give the folder of the files, or leave the option out")


def main(arguments: Sequence[str]) -> int:
    """Write the exported network and how far it is from the original; returns the exit code."""
    options = parse(Options, arguments, "Export a run's trained network, checked on real images.", "export.py")
    from catdog.api import load_run
    from catdog.inference.export import agreement, export_onnx, export_program, read_images
    from catdog.report.terminal import place_of
    from catdog.storage import open_target

    run, target = load_run(options.store, options.run), open_target("--out", options.out)
    network = run.network(options.variant, options.seed)
    where = run.trial_paths(network.card.variant, network.card.seed)
    images = read_images(run.store, run.manifest.identity.fingerprint, where)
    share, console = agreement(network, images), output_console()
    console.print(
        f"{network.card.variant}, seed {network.card.seed}: predicts what its trial did for {100 * share:.1f} % of "
        f"{len(images.predicted_B)} test images",
        soft_wrap=True,
    )
    writers = {"model.pt2": export_program, **({"model.onnx": export_onnx} if options.onnx else {})}
    for name, export in writers.items():
        data, furthest = export(network, images)
        target.put(name, data)
        console.print(
            f"{place_of(target.url, name)}: {len(data) / 1e6:.1f} MB, outputs within {furthest:.1g} of the network's",
            soft_wrap=True,
        )
    return ExitCode.COMPLETE


if __name__ == "__main__":
    sys.exit(run_job(main))
