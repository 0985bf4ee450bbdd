"""Lightning's Trainer on the same task, from command to end: lite0 at 96 px, two epochs, validated and tested.

Run as a script, this file is that command; its settings are the best found for it on two cores (docs/log.md).
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

from measuring import ROOT, Figure, ratios, real_images

from catdog.system.process import usable_cores

REPEATS = 3
EPOCHS, SIZE, BATCH, CLASSES = 2, 96, 32, 37


def measure() -> list[Figure]:
    """Time both commands in turn."""
    root, cores = real_images("the comparison with Lightning"), str(usable_cores())
    ours, theirs = [], []
    with tempfile.TemporaryDirectory() as folder:
        _make_folders(root, Path(folder) / "images")
        for repeat in range(REPEATS):
            theirs.append(_seconds([__file__, str(Path(folder) / "images")]))
            ours.append(
                _seconds(
                    [
                        "jobs/sweep.py", "pets-cpu", "--data-root", str(root), "--store", f"{folder}/store-{repeat}",
                        "--image-size", str(SIZE), "--epochs", str(EPOCHS), "--batch-size", str(BATCH),
                        "--variants", "baseline", "--seeds", "1", "--cpus-per-trial", cores,
                        "--precision", "float32",
                    ]
                )
            )  # fmt: skip
    detail = (
        f"{statistics.median(ours):.0f} s from command to table, packing the JPEGs included, against "
        f"{statistics.median(theirs):.0f} s; lite0 at {SIZE} px, {EPOCHS} epochs, validation and test"
    )
    return [Figure("Lightning’s Trainer, times faster", ratios(theirs, ours), "×", 1.3, True, detail)]


def _seconds(arguments: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def _make_folders(root: Path, folder: Path) -> None:
    """Lay out the split as ImageFolder expects it, with links to the same files."""
    from catdog.data.datasets.oxford_pets import dataset_folder, open_oxford
    from catdog.data.split import split_images

    source = open_oxford(root)
    split = split_images(source.labels, source.is_test, split_seed=0)
    for part in ("train", "validation", "test"):
        for index in split.indices(part):
            link = folder / part / source.classes[source.labels[index]] / f"{source.names[index]}.jpg"
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to((dataset_folder(root) / "images" / link.name).absolute())


def train(images: Path) -> None:
    """Fine-tune lite0 with Lightning."""
    warnings.simplefilter("ignore")
    import lightning
    import timm
    import torch
    import torch.nn.functional as F
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    from catdog.models.backbones.weights import in_order, packaged_path
    from catdog.models.backbones.weights_file import read_weights

    class Classifier(lightning.LightningModule):  # type: ignore[misc]
        def __init__(self, steps: int) -> None:
            super().__init__()
            self.backbone = timm.create_model("tf_efficientnet_lite0", num_classes=0)
            weights = in_order(read_weights(packaged_path("lite0")), self.backbone)
            self.backbone.load_state_dict(weights, strict=False)
            self.head = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Linear(1280, CLASSES))
            self.steps = steps

        def forward(self, images: torch.Tensor) -> Any:
            return self.head(self.backbone(images.contiguous(memory_format=torch.channels_last)))

        def on_train_epoch_start(self) -> None:
            for module in self.backbone.modules():
                if isinstance(module, torch.nn.BatchNorm2d):
                    module.eval()

        def training_step(self, batch: list[torch.Tensor], index: int) -> torch.Tensor:
            return F.cross_entropy(self(batch[0]), batch[1])

        def validation_step(self, batch: list[torch.Tensor], index: int) -> None:
            self._score("val", batch)

        def test_step(self, batch: list[torch.Tensor], index: int) -> None:
            self._score("test", batch)

        def _score(self, name: str, batch: list[torch.Tensor]) -> None:
            correct = (self(batch[0]).argmax(dim=1) == batch[1]).float().mean()
            self.log(f"{name}_accuracy", correct, batch_size=len(batch[1]), on_epoch=True)

        def configure_optimizers(self) -> Any:
            groups = [
                {"params": self.backbone.parameters(), "lr": 2e-4},
                {"params": self.head.parameters(), "lr": 2e-3},
            ]
            optimizer = torch.optim.AdamW(groups, weight_decay=0.01, fused=True)
            schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, [2e-4, 2e-3], total_steps=self.steps)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    finish = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5] * 3, [0.5] * 3)]
    augmented = v2.Compose([v2.RandomResizedCrop(SIZE, scale=(0.35, 1)), v2.RandomHorizontalFlip(), *finish])
    whole = v2.Compose([v2.Resize((SIZE, SIZE)), *finish])
    workers = int(os.environ.get("LIGHTNING_WORKERS", "2"))
    torch.set_num_threads(int(os.environ.get("LIGHTNING_THREADS", "2")))

    def loader(part: str, transform: v2.Transform, **options: Any) -> torch.utils.data.DataLoader[Any]:
        return torch.utils.data.DataLoader(
            ImageFolder(str(images / part), transform), batch_size=BATCH if part == "train" else 64,
            num_workers=workers, persistent_workers=workers > 0, **options,
        )  # fmt: skip

    training = loader("train", augmented, shuffle=True, drop_last=True)
    lightning.seed_everything(0, verbose=False)
    model = Classifier(EPOCHS * len(training)).to(memory_format=torch.channels_last)
    trainer = lightning.Trainer(
        max_epochs=EPOCHS, accelerator="cpu", precision="32-true", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(model, training, loader("validation", whole))
    trainer.test(model, loader("test", whole))


if __name__ == "__main__":
    train(Path(sys.argv[1]))
