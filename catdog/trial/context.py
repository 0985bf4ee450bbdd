"""What all trials of a run share, as plain values to send to workers."""

import os
from dataclasses import dataclass
from typing import Literal

from catdog.config.sweep_options import SweepConfig
from catdog.config.variants import VariantSpec
from catdog.runs.manifest import Identity
from catdog.runs.paths import RunPaths, TrialPaths
from catdog.storage import StoreLocation


@dataclass(frozen=True)
class RunContext:
    """A run as a worker sees it; holds no secrets."""

    run: str
    location: StoreLocation
    identity: Identity
    weights: str
    """The backbone's weights: a name, a file or an s3:// url."""
    gpus_per_trial: float = 0.0
    """Share of a GPU and of its memory that a trial may use; 0 trains on the CPU."""
    checkpoint_seconds: float = 60.0
    keep_weights: Literal["none", "best", "all"] = "none"

    @classmethod
    def of(
        cls, config: SweepConfig, location: StoreLocation, identity: Identity, gpus_per_trial: float
    ) -> "RunContext":
        """Return the context of the run that `config` describes."""
        weights = config.recipe.weights
        is_file = identity.weights_digest is not None and "://" not in weights
        return cls(
            run=config.run_name,
            location=location,
            identity=identity,
            weights=os.path.abspath(os.path.expanduser(weights)) if is_file else weights,
            gpus_per_trial=gpus_per_trial,
            checkpoint_seconds=config.checkpoint_seconds,
            keep_weights=config.keep_weights,
        )

    def trial_paths(self, variant: VariantSpec, seed: int) -> TrialPaths:
        """Return the keys of one trial."""
        return RunPaths(self.run).trial(variant.folder, seed)
