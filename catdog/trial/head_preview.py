"""What a head looks at after a few steps: its masks on four drawn pets, without a store or a run."""

import functools

import numpy as np
import torch
import torch.nn.functional as F

from catdog.config.variants import VariantSpec
from catdog.data.datasets.base import UInt8Array
from catdog.data.datasets.drawn import BREEDS, IMAGES_PER_BREED, open_drawn
from catdog.models import build_model
from catdog.models.head_contract import anywhere
from catdog.models.petnet import ModelOutput
from catdog.runs.places import by_place
from catdog.trial.contact_sheet import Probes, contact_sheet

STEPS, BATCH, BATCHES = 60, 32, 15


def preview_masks(spec: VariantSpec) -> bytes | None:
    """Train the head on the backbone `tiny` for `STEPS` steps; return a contact sheet (PNG), None without masks."""
    source = open_drawn()
    torch.manual_seed(0)
    model = build_model(anywhere(spec), backbone="tiny", num_classes=len(source.classes)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    for step in range(STEPS):
        inputs_BCHW, labels_B = _batch(step % BATCHES)
        output: ModelOutput = model(inputs_BCHW)
        optimizer.zero_grad(set_to_none=True)
        (F.cross_entropy(output.logits_BK, labels_B) + output.aux_loss).backward()
        optimizer.step()
    first = len(BREEDS) * IMAGES_PER_BREED["trainval"]
    probes_P = first + np.linspace(0, len(BREEDS) - 1, 4).round().astype(int)  # of Test, which it has not seen
    pictures_PSSC = np.stack([source.read(int(index))[0] for index in probes_P])
    with torch.inference_mode():
        output = model.eval()(_inputs(pictures_PSSC))
    masks = {place: one.numpy() for place, one in by_place(output.masks_BMHW, output.stage_masks).items()}
    if not masks:
        return None
    probes = Probes(pictures_PSSC, tuple(source.names[i] for i in probes_P), source.labels[probes_P], source.classes)
    title = f"{spec.label} after {STEPS} steps on drawn pets"
    return contact_sheet(probes, masks, output.logits_BK.argmax(dim=1).numpy(), title)


@functools.cache  # drawing takes longer than training, and a file may have several heads
def _batch(index: int) -> tuple[torch.Tensor, torch.Tensor]:
    source, rows = open_drawn(), slice(index * BATCH, (index + 1) * BATCH)
    images_BSSC = np.stack([source.read(row)[0] for row in range(rows.start, rows.stop)])
    return _inputs(images_BSSC), torch.from_numpy(source.labels[rows])


def _inputs(images_BSSC: UInt8Array) -> torch.Tensor:
    return torch.from_numpy(images_BSSC).permute(0, 3, 1, 2).float() / 127.5 - 1
