"""What a sweep can still find, or could find with more seeds. Arrays in, numbers out.

Shapes: n pairs. Source: Lan & Wittes 1988 (conditional power).
"""

import numpy as np
import numpy.typing as npt
import scipy

Array = npt.NDArray[np.float64]


def conditional_power(differences: Array, planned: int, effect: float, level: float) -> tuple[float, float]:
    """Return how probable it is that all `planned` pairs show a difference, and that they show equivalence.

    The pairs to come are drawn around ± `effect` (whichever is better) for the first, around 0 for the second, with the
    standard deviation of `differences` (n,), at least two. Both are tested at `level`.
    """
    n, total = len(differences), float(differences.sum())
    spread = float(differences.std(ddof=1)) or np.finfo(np.float64).tiny
    rest, normal = planned - n, scipy.stats.norm
    scale, whole = spread * np.sqrt(rest), spread * np.sqrt(planned)
    bound = normal.isf(level / 2) * whole
    difference = max(normal.cdf((sign * total + rest * effect - bound) / scale) for sign in (1, -1))
    within = max(0.0, planned * effect - normal.isf(level) * whole)
    equivalence = normal.cdf((within - total) / scale) - normal.cdf((-within - total) / scale)
    return float(difference), float(equivalence)
