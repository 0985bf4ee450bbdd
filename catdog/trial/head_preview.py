"""What a head looks at after a few steps: its masks on four drawn pets, without a store or a run."""

import numpy as np
import torch
import torch.nn.functional as F

from catdog.config.variants import VariantSpec
from catdog.data.datasets.drawn import BREEDS, IMAGES_PER_BREED, open_drawn
from catdog.models import build_model
from catdog.models.petnet import ModelOutput
from catdog.trial.contact_sheet import Probes, contact_sheet

STEPS, BATCH = 60, 32


def preview_masks(spec: VariantSpec) -> bytes | None:
    """Train the head on the backbone `tiny` for `STEPS` steps; return a contact sheet (PNG), None without masks."""
    source = open_drawn()
    images_NSSC = np.stack([source.read(index)[0] for index in range(STEPS * BATCH // 4)])
    labels_N = torch.from_numpy(source.labels[: len(images_NSSC)])
    inputs_NCHW = torch.from_numpy(images_NSSC).permute(0, 3, 1, 2).float() / 127.5 - 1
    torch.manual_seed(0)
    model = build_model(spec, backbone="tiny", num_classes=len(source.classes)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    for step in range(STEPS):
        rows = torch.arange(step * BATCH, (step + 1) * BATCH) % len(labels_N)
        output: ModelOutput = model(inputs_NCHW[rows])
        optimizer.zero_grad(set_to_none=True)
        (F.cross_entropy(output.logits_BK, labels_N[rows]) + output.aux_loss).backward()
        optimizer.step()
    first = len(BREEDS) * IMAGES_PER_BREED["trainval"]
    probes_P = first + np.linspace(0, len(BREEDS) - 1, 4).round().astype(int)  # of Test, which it has not seen
    pictures_PSSC = np.stack([source.read(int(index))[0] for index in probes_P])
    with torch.inference_mode():
        output = model.eval()(torch.from_numpy(pictures_PSSC).permute(0, 3, 1, 2).float() / 127.5 - 1)
    if output.masks_BMHW is None:
        return None
    probes = Probes(pictures_PSSC, tuple(source.names[i] for i in probes_P), source.labels[probes_P], source.classes)
    title = f"{spec.label} after {STEPS} steps on drawn pets"
    return contact_sheet(probes, output.masks_BMHW.numpy(), output.logits_BK.argmax(dim=1).numpy(), title)
