"""Show the masks of a trial forming, epoch by epoch, as an animated WebP. No Ray.

python jobs/film.py --store URL --run NAME --variant V [--seed N] [--out FILE.webp]
"""

import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from catdog.cli import ExitCode, TrialOptions, output_console, parse, run_job
from catdog.config.recipe import require
from catdog.errors import UserError
from catdog.formatting import counted
from catdog.storage import put_file

LAST_SECONDS = 3.0
"""How long the last epoch stays."""


@dataclass(frozen=True)
class Options(TrialOptions):
    """The trial, and where its film goes."""

    frames_per_second: float = 4.0
    """Epochs shown in a second."""
    images: int = 2
    """How many of the contact sheets' images to show."""
    out: str = "masks.webp"
    """The file."""

    def __post_init__(self) -> None:
        super().__post_init__()
        frames = self.frames_per_second
        require(self.out.endswith(".webp"), f"--out {self.out}: give a file that ends in .webp")
        require(0.1 <= frames <= 60, f"--frames-per-second {frames}: must be from 0.1 to 60")
        require(self.images >= 1, f"--images {self.images}: must be at least 1")


def main(arguments: Sequence[str]) -> int:
    """Write the film; returns the exit code."""
    options = parse(Options, arguments, "Show the masks of a trial forming, as an animated WebP.", "film.py")
    from catdog.api import load_run
    from catdog.trial.contact_sheet import Probes, contact_sheet

    run = load_run(options.store, options.run)
    seed = run.best_seed(options.variant) if options.seed is None else options.seed
    masks, history = run.probe_masks(options.variant, seed), run.history
    epochs = history[(history["variant"] == run.title(options.variant)) & (history["seed"] == seed)]
    shown = slice(options.images)
    probes = Probes(masks.images_PSSC[shown], tuple(masks.names[shown]), masks.labels_P[shown], tuple(masks.classes))
    frames = []
    for epoch, accuracy in enumerate(epochs["val_accuracy"]):
        title = f"{run.title(options.variant)} · seed {seed} · epoch {epoch} · validation {accuracy:.1f} %"
        cells = {place: np.asarray(one[epoch, shown]) for place, one in masks.masks.items()}
        frames.append(Image.open(io.BytesIO(contact_sheet(probes, cells, masks.predicted_EP[epoch, shown], title))))
    if not frames:
        raise UserError(f"{options.variant} seed {seed}: it has no epochs to show")
    step = 1000 / options.frames_per_second
    durations = [round(step)] * (len(frames) - 1) + [round(1000 * LAST_SECONDS)]
    data = io.BytesIO()
    frames[0].save(data, "WEBP", save_all=True, append_images=frames[1:], duration=durations, loop=0, quality=80)
    put_file("--out", options.out, data.getvalue())
    size = f"{len(data.getvalue()) / 1000:.0f} kB"
    output_console().print(f"{options.out}: {counted(len(frames), 'epoch')} of {options.variant}, seed {seed}, {size}")
    return ExitCode.COMPLETE


if __name__ == "__main__":
    sys.exit(run_job(main))
