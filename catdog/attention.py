"""Where masks look, measured on images whose animal is outlined by a trimap. Arrays in, numbers out; no torch.

The pointing game (Zhang 2016) asks whether a mask's highest position lies on the animal; the energy inside (Wang 2020)
which share of a mask's mass does. Both are averaged within each breed first, then over breeds: few breeds make up most
of the trimaps. A mask that knows nothing scores, too, since animals are large and central: `lift` is what a mask has
over one that is uniform, and over a centred Gaussian.

Shapes: T images with a trimap, M masks, H × W positions of the feature map, S side of the trimap in pixels.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

GAUSSIAN_SIGMA = 0.25
"""Of the centred Gaussian, as a share of the image's side."""


@dataclass(frozen=True)
class Looks:
    """How much of some masks is on the animal, in percent, averaged over masks and macro-averaged over breeds."""

    pointing: float
    energy: float


@dataclass(frozen=True)
class Outlines:
    """Where the animals are, in the cells of an H × W grid."""

    shares_THW: Array
    """The share of each cell that is on the animal, exact where cells cut pixels."""
    centres_THW: npt.NDArray[np.bool_]
    """Whether the pixel in the middle of each cell is."""
    breeds_T: npt.NDArray[np.integer]

    @classmethod
    def of(
        cls, animals_TSS: npt.NDArray[np.bool_], breeds_T: npt.NDArray[np.integer], height: int, width: int
    ) -> "Outlines":
        side = animals_TSS.shape[1]
        rows_HS, columns_WS = _coverage(side, height), _coverage(side, width)
        shares = np.einsum("hs,tsr,wr->thw", rows_HS, animals_TSS.astype(np.float32), columns_WS, optimize=True)
        rows, columns = ((np.arange(cells) + 0.5) * side / cells for cells in (height, width))
        centres = animals_TSS[:, rows.astype(int)[:, None], columns.astype(int)[None, :]]
        return cls(shares, np.asarray(centres), breeds_T)


def measure(masks_TMHW: npt.NDArray[np.floating], outlines: Outlines) -> Looks | None:
    """Return how much of the masks is on the animals; None if there is no image, or no mask with any mass.

    A mask with several highest positions points at each of them in equal shares; one without mass is left out.
    """
    masks = masks_TMHW.astype(np.float64)
    peaks = masks == masks.max(axis=(2, 3), keepdims=True, initial=-np.inf)
    hits_TM = (peaks * outlines.centres_THW[:, None]).sum(axis=(2, 3)) / peaks.sum(axis=(2, 3)).clip(1)
    mass_TM = masks.sum(axis=(2, 3))
    inside_TM = (masks * outlines.shares_THW[:, None]).sum(axis=(2, 3))
    alive_TM = mass_TM > 0
    if not alive_TM.any():
        return None
    energy_TM = np.where(alive_TM, inside_TM / np.where(alive_TM, mass_TM, 1), np.nan)
    return Looks(
        pointing=_macro_average(np.where(alive_TM, hits_TM, np.nan), outlines.breeds_T),
        energy=_macro_average(energy_TM, outlines.breeds_T),
    )


def uniform_mask(height: int, width: int) -> Array:
    """Return a mask without preference (H, W)."""
    return np.ones((height, width))


def gaussian_mask(height: int, width: int) -> Array:
    """Return a Gaussian in the middle of the image (H, W)."""
    y, x = (np.arange(height) + 0.5) / height - 0.5, (np.arange(width) + 0.5) / width - 0.5
    return np.exp(-(y[:, None] ** 2 + x[None, :] ** 2) / (2 * GAUSSIAN_SIGMA**2))


def _macro_average(values_TM: Array, breeds_T: npt.NDArray[np.integer]) -> float:
    """Return the mean over breeds of the means within them, in percent; NaN is left out."""
    means = []
    for breed in np.unique(breeds_T):
        values = values_TM[breeds_T == breed]
        if np.isfinite(values).any():
            means.append(float(np.nanmean(values)))
    return 100 * float(np.mean(means))


def _coverage(pixels: int, cells: int) -> npt.NDArray[np.float32]:
    """Return which share of each cell (rows) each pixel covers: the weights of an average over the cell's area."""
    edges = np.arange(cells + 1) * pixels / cells
    starts, ends = np.arange(pixels), np.arange(pixels) + 1
    overlap = np.minimum(edges[1:, None], ends) - np.maximum(edges[:-1, None], starts)
    return (np.clip(overlap, 0, None) * cells / pixels).astype(np.float32)
