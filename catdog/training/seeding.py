"""(seed, purpose, epoch) → the seed of a generator; the split has seeds of its own (`Recipe.split_seeds`).

Every purpose and epoch of a trial has its own generator, so an epoch can be recomputed without those before it, and
one source of variance can be varied while the others stay fixed (Bouthillier et al. 2021, "Accounting for
Variance in Machine Learning Benchmarks").
"""

from collections.abc import Callable

import numpy as np

from catdog.config.recipe import PURPOSES, Purpose, Vary

DeriveSeed = Callable[[Purpose, int], int]
"""(purpose, epoch) → seed of a generator, for one trial."""


def derive_seed(seed: int, purpose: Purpose, epoch: int = 0) -> int:
    """Return a 63-bit seed, unrelated to that of any other (seed, purpose, epoch); torch uses 32 bits of it on CPUs."""
    sequence = np.random.SeedSequence([seed, PURPOSES.index(purpose), epoch])
    return int(sequence.generate_state(1, np.uint64)[0] >> 1)


def trial_seeds(seed: int, vary: Vary = "all") -> DeriveSeed:
    """Return the (purpose, epoch) → seed function of one trial.

    If `vary` names one purpose, only that one depends on `seed`; the others use seed 0, as all do if only the split
    varies.
    """

    def derive(purpose: Purpose, epoch: int) -> int:
        return derive_seed(seed if vary in ("all", purpose) else 0, purpose, epoch)

    return derive
