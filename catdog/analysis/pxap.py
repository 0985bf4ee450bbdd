"""PxAP (Choe et al. 2020): how well a mask's values tell the animal's pixels from the others, without a threshold.

Pixel average precision is the area below the curve of precision against recall over all thresholds of the mask. Cells
count by their area, so it is that of the pixels of a mask enlarged without interpolation.

Shapes: T images, M masks, H × W cells, N cells.
"""

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def pxap(
    masks_TMHW: Array, alive_TM: npt.NDArray[np.bool_], shares_THW: Array, classes_T: npt.NDArray[np.integer]
) -> float:
    """Return the mean over classes of the mean over masks, from 0 to 1; the images of a class are pooled.

    On each image, a mask runs from 0 to 1 (all zeros if it is uniform); those that are not alive are left out.
    """
    low, high = (ends(masks_TMHW, axis=(2, 3), keepdims=True) for ends in (np.min, np.max))
    scaled_TMHW = (masks_TMHW - low) / np.where(high > low, high - low, 1)
    by_class = []
    for label in np.unique(classes_T):
        found = []
        for mask in range(masks_TMHW.shape[1]):
            images = (classes_T == label) & alive_TM[:, mask]
            if shares_THW[images].any():
                found.append(average_precision(scaled_TMHW[images, mask].ravel(), shares_THW[images].ravel()))
        by_class += [np.mean(found)] if found else []
    return float(np.mean(by_class)) if by_class else 0.0


def average_precision(values_N: Array, shares_N: Array) -> float:
    """Return the sum over all thresholds of precision × step of recall; `shares_N` are the cells' on the animal.

    Equal values pass a threshold together.
    """
    order_N = np.argsort(-values_N, kind="stable")
    last = np.flatnonzero(np.diff(values_N[order_N], append=-np.inf))  # cell of each value
    inside = np.cumsum(shares_N[order_N], dtype=np.float64)[last]
    return float((inside / (last + 1) * np.diff(inside, prepend=0)).sum() / inside[-1])
