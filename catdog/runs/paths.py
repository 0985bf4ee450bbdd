"""Every key of a run in the store, built in one place (the layout is a contract with users; see README).

A key is a relative path with forward slashes: a file below a local store's folder, or an S3 key below its prefix.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class TrialPaths:
    """The keys of one trial."""

    run: str
    variant_folder: str
    seed: int

    @property
    def folder(self) -> str:
        return f"{self.run}/trials/{self.variant_folder}/seed-{self.seed:02d}"

    def snapshot(self, epoch: int) -> str:
        return f"{self.folder}/snapshots/epoch-{epoch:03d}.png"

    @property
    def masks(self) -> str:
        return f"{self.folder}/masks.npz"

    @property
    def history(self) -> str:
        return f"{self.folder}/history.csv"

    @property
    def predictions(self) -> str:
        return f"{self.folder}/predictions.npz"

    @property
    def attention(self) -> str:
        return f"{self.folder}/attention.npz"

    @property
    def checkpoint(self) -> str:
        return f"{self.folder}/checkpoint.pt"

    @property
    def weights(self) -> str:
        return f"{self.folder}/model.safetensors"

    @property
    def result(self) -> str:
        return f"{self.folder}/result.json"

    @property
    def failure(self) -> str:
        return f"{self.run}/failures/{self.variant_folder}/seed-{self.seed:02d}.json"


@dataclass(frozen=True)
class RunPaths:
    """The keys of one run."""

    run: str

    @property
    def manifest(self) -> str:
        return f"{self.run}/manifest.json"

    @property
    def lease(self) -> str:
        return f"{self.run}/claim.json"

    @property
    def trials(self) -> str:
        return f"{self.run}/trials/"

    @property
    def failures(self) -> str:
        return f"{self.run}/failures/"

    @property
    def launches(self) -> str:
        return f"{self.run}/launches/"

    def launch(self, name: str) -> str:
        return f"{self.launches}{name}.json"

    @property
    def canary(self) -> str:
        return f"{self.run}/canary.json"

    def trial(self, variant_folder: str, seed: int) -> TrialPaths:
        return TrialPaths(self.run, variant_folder, seed)

    def report(self, name: str) -> str:
        return f"{self.run}/report/{name}"
