"""Every key of a run in the store, built in one place (the layout is a contract with users; see README).

A key is a relative path with forward slashes: a file below a local store's folder, or an S3 key below its prefix.
"""

from dataclasses import dataclass

WEIGHTS = "model.safetensors"
"""The file of a trial's trained network."""


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

    def snapshot(self, epoch: int) -> str:
        """Return the key of an epoch's contact sheet."""
        return f"{self.folder}/snapshots/epoch-{epoch:03d}.png"

    @property
    def masks(self) -> str:
        """Return the key of the probe images' masks."""
        return f"{self.folder}/masks.npz"

    @property
    def history(self) -> str:
        """Return the key of the epoch records."""
        return f"{self.folder}/history.csv"

    @property
    def predictions(self) -> str:
        """Return the key of the predictions."""
        return f"{self.folder}/predictions.npz"

    @property
    def attention(self) -> str:
        """Return the key of the masks of images with a trimap."""
        return f"{self.folder}/attention.npz"

    @property
    def deletion(self) -> str:
        """Return the key of what the network loses without the masks' top cells."""
        return f"{self.folder}/deletion.json"

    @property
    def grad_cam(self) -> str:
        """Return the key of the Grad-CAM maps of images with a trimap, of a network without masks."""
        return f"{self.folder}/grad-cam.npz"

    @property
    def grad_cam_sheet(self) -> str:
        """Return the key of the contact sheet of Grad-CAM maps."""
        return f"{self.folder}/snapshots/grad-cam.png"

    @property
    def checkpoint(self) -> str:
        """Return the key of the checkpoint."""
        return f"{self.folder}/checkpoint.pt"

    @property
    def weights(self) -> str:
        """Return the key of the trained weights."""
        return f"{self.folder}/{WEIGHTS}"

    @property
    def result(self) -> str:
        """Return the key of the result."""
        return f"{self.folder}/result.json"

    @property
    def failure(self) -> str:
        """Return the key of the failure record."""
        return f"{self.run}/failures/{self.variant_folder}/seed-{self.seed:02d}.json"


@dataclass(frozen=True)
class RunPaths:
    """The keys of one run."""

    run: str

    @property
    def manifest(self) -> str:
        """Return the key of the manifest."""
        return f"{self.run}/manifest.json"

    @property
    def recipe(self) -> str:
        """Return the key of the recipe file that makes the run again."""
        return f"{self.run}/recipe.yaml"

    @property
    def lease(self) -> str:
        """Return the key of the lease."""
        return f"{self.run}/claim.json"

    @property
    def trials(self) -> str:
        """Return the prefix of all trials' files."""
        return f"{self.run}/trials/"

    @property
    def failures(self) -> str:
        """Return the prefix of all failure records."""
        return f"{self.run}/failures/"

    @property
    def launches(self) -> str:
        """Return the prefix of all launch records."""
        return f"{self.run}/launches/"

    def launch(self, name: str) -> str:
        """Return the key of a launch record."""
        return f"{self.launches}{name}.json"

    @property
    def looks(self) -> str:
        """Return the prefix of the records of all looks."""
        return f"{self.run}/looks/"

    def look(self, planned: int) -> str:
        """Return the key of the record of the look after so many seeds."""
        return f"{self.looks}{planned:05d}.json"

    @property
    def imports(self) -> str:
        """Return the prefix of all files of imported code."""
        return f"{self.run}/imports/"

    def head_file(self, digest: str, name: str) -> str:
        """Return the key of a file of imported code."""
        return f"{self.imports}{digest}/{name}"

    def backbone(self, digest: str) -> str:
        """Return the key of a frozen backbone's weights, by their sha256."""
        return f"{self.run}/backbones/{digest}.safetensors"

    @property
    def tuning(self) -> str:
        """Return the key of the record of a tuning."""
        return f"{self.run}/tuning.json"

    @property
    def tuned_recipe(self) -> str:
        """Return the key of the recipe file that a tuning ends with."""
        return f"{self.run}/tuned.yaml"

    @property
    def canary(self) -> str:
        """Return the key of the doctor's measurements."""
        return f"{self.run}/canary.json"

    def trial(self, variant_folder: str, seed: int) -> TrialPaths:
        """Return the keys of one trial."""
        return TrialPaths(self.run, variant_folder, seed)

    def report(self, name: str) -> str:
        """Return the key of a file of the report."""
        return f"{self.run}/report/{name}"
