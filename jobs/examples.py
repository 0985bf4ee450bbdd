"""Show where the networks of a run look, on test images chosen by a rule: good, typical and failed ones. No Ray.

    python jobs/examples.py --store URL --run NAME [--variants V ...] [--out FILE.png]

Each variant is shown by its best run: its masks' mean, or its Grad-CAM map if it has none. The images with an outline
are ranked by the share of the maps that lies on the animal, averaged over the variants: 0 is a uniform mask's, 1 all,
so an animal that fills the image is no easy success. Shown are those around the 95th, the 50th and the 5th percentile.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from catdog.cli import ExitCode, RunOptions, output_console, parse, run_job
from catdog.config.recipe import require
from catdog.errors import UserError
from catdog.formatting import counted
from catdog.storage import put_file

if TYPE_CHECKING:
    from catdog.api import Run

PERCENTILES, RANKS = (95, 50, 5), "95th, 50th and 5th"
SPLIT = "test"


@dataclass(frozen=True)
class Options(RunOptions):
    """The run, which of its variants, and where the picture goes."""

    variants: tuple[str, ...] = ()
    """The variants to show (default: all that keep masks, or Grad-CAM maps)."""
    images: int = 2
    """How many images around each percentile."""
    out: str = "examples.png"
    """The file."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.out.endswith(".png"), f"--out {self.out}: give a file that ends in .png")
        require(1 <= self.images <= 20, f"--images {self.images}: must be from 1 to 20")


@dataclass(frozen=True)
class Looks:
    """Where the variants' best runs look on the T test images with an outline."""

    names: Sequence[str]
    maps: Mapping[str, npt.NDArray[np.float64]]
    """By variant, (T, H, W) each: the mean of its masks."""

    def ranked(self, run: "Run") -> npt.NDArray[np.intp]:
        """Return the images (T,), those first where least of the maps is on the animal."""
        from catdog.analysis.localization import Outlines, energy_inside
        from catdog.data.trimaps import read_trimaps

        trimaps = read_trimaps(run.store, run.manifest.identity.fingerprint)
        assert trimaps is not None, "maps are kept of images with a trimap"
        rows = trimaps.rows(self.names)
        animals, labels = trimaps.animals_TSS[rows], trimaps.labels_T[rows]
        inside = [
            energy_inside(one[:, None], Outlines.of(animals, labels, *one.shape[1:])) for one in self.maps.values()
        ]
        on_animal_T, uniform_T = np.nan_to_num(np.concatenate(inside, axis=1)).mean(axis=1), animals.mean(axis=(1, 2))
        return np.argsort((on_animal_T - uniform_T) / np.maximum(1 - uniform_T, 1e-6), kind="stable")


def main(arguments: Sequence[str]) -> int:
    """Write the picture; returns the exit code."""
    options = parse(Options, arguments, "Show where networks look on good, typical and failed images.", "examples.py")
    from catdog.api import load_run
    from catdog.inference.export import read_images
    from catdog.trial.contact_sheet import Probes, contact_sheet

    run = load_run(options.store, options.run)
    looks = _looks(run, [run.title(one) for one in options.variants] or run.status.manifest.variants)
    chosen = around_percentiles(looks.ranked(run), options.images)
    variant = next(iter(looks.maps))
    where = run.trial_paths(variant, run.best_seed(variant))
    names = [looks.names[one] for one in chosen]
    images = read_images(run.store, run.manifest.identity.fingerprint, where, names=names)
    title = f"{run.manifest.run} · test images by how much of the maps is on the animal: {RANKS} percentile"
    probes = Probes(images.images_BSSC.numpy(), tuple(names), images.labels_B.astype(np.int64), images.classes)
    cells = {name: maps_THW[chosen][:, None] for name, maps_THW in looks.maps.items()}
    put_file("--out", options.out, contact_sheet(probes, cells, images.predicted_B.astype(np.int64), title))
    console = output_console()
    shown = f"{len(chosen)} of {len(looks.names)} images, ranked over {counted(len(looks.maps), 'variant')}"
    console.print(f"{options.out}: {shown}; predictions by {variant}, seed {run.best_seed(variant)}", soft_wrap=True)
    return ExitCode.COMPLETE


def _looks(run: "Run", variants: Sequence[str]) -> Looks:
    from catdog.analysis.localization import MAPS
    from catdog.runs.artifacts import read_attention_npz
    from catdog.runs.places import HEAD
    from catdog.runs.trial_files import read_files

    best = {variant: run.status.best_runs[variant] for variant in variants}
    finished = {where: one for where, one in run.status.finished.items() if one in best.values()}
    found = {
        result.variant: content[SPLIT]
        for kind in MAPS
        for result, content in read_files(run.store, finished, kind.arrays, read_attention_npz)
        if SPLIT in content and HEAD in content[SPLIT].masks
    }
    maps = {name: found[name].masks[HEAD].astype(np.float64).mean(axis=1) for name in variants if name in found}
    if not maps:
        raise UserError(f"run {run.manifest.run}: none of its trials keeps maps of test images with a trimap")
    return Looks(next(iter(found.values())).images, maps)


def around_percentiles(ranked_T: npt.NDArray[np.intp], count: int) -> npt.NDArray[np.intp]:
    """Return `count` neighbours in the ranking around each percentile, the best first."""
    found = []
    for percentile in PERCENTILES:
        middle = round(percentile / 100 * (len(ranked_T) - 1))
        start = min(max(0, middle - count // 2), max(0, len(ranked_T) - count))
        found.append(ranked_T[start : start + count][::-1])
    return np.concatenate(found)


if __name__ == "__main__":
    sys.exit(run_job(main))
