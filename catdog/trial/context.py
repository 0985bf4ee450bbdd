"""What all trials of a run share, as plain values to send to workers."""

import dataclasses
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from catdog.config.head_files import HeadFile, load_head_files, read_head_file
from catdog.config.sweep_options import SweepConfig
from catdog.config.variants import VariantSpec, parse_variant
from catdog.runs.manifest import Identity
from catdog.runs.paths import RunPaths, TrialPaths
from catdog.storage import StoreLocation
from catdog.system.private_folders import node_cache, private_folder


@dataclass(frozen=True)
class RunContext:
    """A run as a worker sees it; holds no secrets."""

    run: str
    location: StoreLocation
    identity: Identity
    weights: str
    """The backbone's weights: a name, a file or an s3:// url."""
    gpus_per_trial: float = 0.0
    """Share of a GPU and of its memory that each worker of a trial may use; 0 trains on the CPU."""
    checkpoint_seconds: float = 60.0
    keep_weights: Literal["auto", "none", "best", "all"] = "none"
    head_files: tuple[HeadFile, ...] = ()
    """The code of heads from outside the package."""
    short_labels: Mapping[str, str] = field(default_factory=dict, hash=False)

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
            head_files=config.head_files,
            short_labels={spec.label: spec.short_label for spec in config.variant_specs if spec.short_label},
        )

    def variant(self, label: str) -> VariantSpec:
        """Return the variant of a label, with the short one that pictures and messages call it."""
        spec = parse_variant(label, self.identity.recipe)
        return dataclasses.replace(spec, short_label=self.short_labels.get(spec.label))

    def of_variant(self, variant: VariantSpec) -> "RunContext":
        """Return the context of a variant's trials, with its own settings in the recipe."""
        weights = variant.settings.get("weights", self.weights)
        return dataclasses.replace(self, identity=self.identity.of(variant), weights=str(weights))

    def load_heads(self) -> None:
        """Make the heads from outside the package known in this process, from a copy on this node."""
        load_head_files([str(_written(file) / file.name) for file in self.head_files])

    def trial_paths(self, variant: VariantSpec, seed: int) -> TrialPaths:
        """Return the keys of one trial."""
        return RunPaths(self.run).trial(variant.folder, seed)


def _written(file: HeadFile) -> Path:
    """Return this node's folder with a file of heads and its local modules, as they were sent."""
    folder = private_folder(node_cache() / "heads") / file.digest
    if folder.is_dir() and read_head_file(str(folder / file.name)).digest != file.digest:
        shutil.rmtree(folder)
    if not folder.is_dir():
        scratch = Path(tempfile.mkdtemp(dir=folder.parent))
        for inside, source in file.sources:
            (scratch / inside).parent.mkdir(parents=True, exist_ok=True)
            (scratch / inside).write_text(source, encoding="utf-8")
        try:
            scratch.rename(folder)
        except OSError:  # another process was quicker
            shutil.rmtree(scratch)
    return folder
