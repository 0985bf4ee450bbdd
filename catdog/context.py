"""What all trials of a run share, as plain values that travel to workers."""

from dataclasses import dataclass
from typing import Literal

from catdog.config import Identity
from catdog.paths import RunPaths, TrialPaths
from catdog.storage import StoreLocation
from catdog.variants import VariantSpec


@dataclass(frozen=True)
class RunContext:
    """A run, seen from a worker; holds no secrets."""

    run: str
    location: StoreLocation
    identity: Identity
    weights: str
    """Where the backbone's weights are: a name, a file or an s3:// url."""
    gpus_per_trial: float = 0.0
    """A GPU, or the part of one whose memory a trial may use; 0 trains on the CPU."""
    checkpoint_seconds: float = 60.0
    keep_weights: Literal["none", "best", "all"] = "none"

    def trial_paths(self, variant: VariantSpec, seed: int) -> TrialPaths:
        return RunPaths(self.run).trial(variant.folder, seed)
