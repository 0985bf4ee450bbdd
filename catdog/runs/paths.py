"""Every key of a run in the store, built in one place (the layout is a contract with users; see README).

A key is a relative path with forward slashes: a file below a local store's folder, or an S3 key below its prefix.
"""

from dataclasses import dataclass
from typing import Protocol

WEIGHTS = "model.safetensors"
"""The file of a trial's trained network."""


class _HasFolder(Protocol):
    @property
    def folder(self) -> str: ...


class _Below:
    """The key of a file in the folder of a run or trial; the prefix of all files of a folder there, if it ends in /."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, owner: _HasFolder, _: type) -> str:
        return f"{owner.folder}/{self._name}"


@dataclass(frozen=True)
class TrialPaths:
    """The keys of one trial."""

    run: str
    variant_folder: str
    seed: int

    @property
    def folder(self) -> str:
        """Return the folder of the trial's files."""
        return f"{self.run}/trials/{self.variant_folder}/seed-{self.seed:02d}"

    masks = _Below("masks.npz")
    """Of the probe images."""
    history = _Below("history.csv")
    predictions = _Below("predictions.npz")
    attention = _Below("attention.npz")
    """The masks of images with a trimap."""
    deletion = _Below("deletion.json")
    """What the network loses without the masks' top cells."""
    grad_cam = _Below("grad-cam.npz")
    """Grad-CAM of images with a trimap, of a network without masks."""
    grad_cam_sheet = _Below("snapshots/grad-cam.png")
    checkpoint = _Below("checkpoint.pt")
    weights = _Below(WEIGHTS)
    result = _Below("result.json")

    def snapshot(self, epoch: int) -> str:
        """Return the key of an epoch's contact sheet."""
        return f"{self.folder}/snapshots/epoch-{epoch:03d}.png"

    @property
    def failure(self) -> str:
        """Return the key of the failure record."""
        return f"{self.run}/failures/{self.variant_folder}/seed-{self.seed:02d}.json"


@dataclass(frozen=True)
class RunPaths:
    """The keys of one run."""

    run: str

    @property
    def folder(self) -> str:
        """Return the folder of the run's files."""
        return self.run

    manifest = _Below("manifest.json")
    recipe = _Below("recipe.yaml")
    """The recipe file that makes the run again."""
    lease = _Below("claim.json")
    trials = _Below("trials/")
    failures = _Below("failures/")
    launches = _Below("launches/")
    looks = _Below("looks/")
    imports = _Below("imports/")
    """Files of imported code."""
    tuning = _Below("tuning.json")
    """The record of a tuning."""
    tuned_recipe = _Below("tuned.yaml")
    """The recipe file that a tuning ends with."""
    canary = _Below("canary.json")
    """The doctor's measurements."""

    def launch(self, name: str) -> str:
        """Return the key of a launch record."""
        return f"{self.launches}{name}.json"

    def look(self, planned: int) -> str:
        """Return the key of the record of the look after so many seeds."""
        return f"{self.looks}{planned:05d}.json"

    def head_file(self, digest: str, name: str) -> str:
        """Return the key of a file of imported code."""
        return f"{self.imports}{digest}/{name}"

    def backbone(self, digest: str) -> str:
        """Return the key of a frozen backbone's weights, by their sha256."""
        return f"{self.run}/backbones/{digest}.safetensors"

    def trial(self, variant_folder: str, seed: int) -> TrialPaths:
        """Return the keys of one trial."""
        return TrialPaths(self.run, variant_folder, seed)

    def report(self, name: str) -> str:
        """Return the key of a file of the report."""
        return f"{self.run}/report/{name}"
