"""Training as notebooks do it, against a trial: ResNet-34 with four masks at 224 px, from JPEG files.

A notebook opens the files with PIL in two DataLoader workers, trains in float32 on contiguous tensors, and multiplies
every mask with every feature (B×M×C×H×W).
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from made_data import made_context, preset_recipe
from measuring import Figure, ratios, real_images
from torch import nn

from catdog.system.process import ENVIRONMENT, usable_cores

HERE = Path(__file__).parent
REPEATS = 3
BATCH, STEPS = 32, 8


def measure() -> list[Figure]:
    """Measure both in turn."""
    root = real_images("the notebook")
    ordinary = {name: value for name, value in os.environ.items() if name not in ENVIRONMENT}
    tuned = ordinary | ENVIRONMENT
    ours, theirs = [], []
    for _ in range(REPEATS):
        theirs.append(_rate(f"notebook.train({str(root)!r})", ordinary))
        ours.append(_rate("notebook.train_trial()", tuned))
    detail = f"{median(ours):.1f} images/s in a trial in bfloat16, {median(theirs):.1f} in the notebook"
    return [Figure("the notebook’s training, times faster", ratios(ours, theirs), "×", 2.5, True, detail)]


def _rate(call: str, environment: dict[str, str]) -> float:
    """Return the images per second that `call` returns in a process of its own."""
    command = [sys.executable, "-c", f"import notebook; print({call})"]
    output = subprocess.run(command, cwd=HERE, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return float(output.stdout.split()[-1])


def train_trial() -> float:
    """Run a trial; returns its images per second."""
    from training import trial_step

    recipe = preset_recipe("paper", weights="none", batch_size=BATCH, epochs=2)
    with tempfile.TemporaryDirectory() as folder:
        context = made_context(Path(folder), recipe, BATCH * STEPS, usable_cores())
        return BATCH / trial_step(context, "multi-attention", 0)


def train(root: str) -> float:
    """Train as a notebook does; returns images per second after the first steps."""
    from PIL import Image
    from torchvision import models, transforms

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = nn.Sequential(*list(models.resnet34().children())[:-2])
            self.mask_conv = nn.Conv2d(512, 4, 1, bias=False)
            self.hidden, self.dropout, self.classifier = nn.Linear(4 * 512, 256), nn.Dropout(0.5), nn.Linear(256, 37)

        def forward(self, images: torch.Tensor) -> Any:
            features = self.backbone(images)
            masks = self.mask_conv(features).sigmoid()
            pooled = (masks.unsqueeze(2) * features.unsqueeze(1)).mean(dim=(3, 4))
            return self.classifier(self.dropout(self.hidden(pooled.flatten(1)).relu()))

    transform = transforms.Compose(
        [
            transforms.RandomResizedCrop(224, scale=(0.35, 1)),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    dataset = [(Path(root) / "images" / f"{line.split()[0]}.jpg", int(line.split()[1]) - 1)
               for line in (Path(root) / "annotations" / "trainval.txt").read_text().splitlines()]  # fmt: skip

    class Files(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return len(dataset)

        def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
            path, label = dataset[index]
            with Image.open(path) as image:
                return transform(image.convert("RGB")), label

    loader = torch.utils.data.DataLoader(Files(), batch_size=BATCH, shuffle=True, num_workers=2, drop_last=True)
    network = Network()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    started = 0.0
    for step, (images, labels) in enumerate(loader):
        if step == 2:
            started = time.perf_counter()
        loss = F.cross_entropy(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step == 1 + STEPS:
            break
    return BATCH * STEPS / (time.perf_counter() - started)
