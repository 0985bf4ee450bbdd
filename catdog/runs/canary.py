"""What the doctor's short trials of all variants measured, before a long sweep starts."""

from dataclasses import dataclass

from catdog.errors import NotFoundError
from catdog.runs.manifest import Identity
from catdog.runs.paths import RunPaths
from catdog.storage import Store
from catdog.storage.serialization import from_fields, read_json


@dataclass(frozen=True)
class CanaryStep:
    """What a worker measured in a short trial of one variant."""

    variant: str
    error: str | None
    """Why the short trial failed; the other fields are then None."""
    train_images_per_second: float | None = None
    evaluate_images_per_second: float | None = None
    peak_memory_bytes: int | None = None
    """Of the GPU, or of the process on a CPU."""


@dataclass(frozen=True)
class Canary:
    """Short trials of all variants on one worker, before a long sweep starts."""

    identity: Identity
    device: str
    memory_bytes: int | None
    """Of the whole GPU; None on a CPU."""
    steps: tuple[CanaryStep, ...]

    @classmethod
    def from_json(cls, data: bytes) -> "Canary":
        """Read a canary; raises `ValueError` if it is invalid, or a speed makes no sense."""
        canary = from_fields(cls, read_json(data))
        for step in canary.steps:
            speeds = (step.train_images_per_second, step.evaluate_images_per_second)
            if step.error is None and not all(speed is not None and 1e-6 < speed < 1e9 for speed in speeds):
                raise ValueError(f"the speed of {step.variant} makes no sense")
        return canary


def read_canary(store: Store, run: str) -> Canary | None:
    """Return what the doctor's short trials measured for this run, or None."""
    try:
        return Canary.from_json(store.get(RunPaths(run).canary))
    except (NotFoundError, ValueError):
        return None
