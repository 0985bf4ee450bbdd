"""What an epoch's contact sheet costs the training thread, and what drawing it costs its own thread."""

import functools
import tempfile
import time
from pathlib import Path

import numpy as np
from measuring import Figure

from catdog.runs.places import HEAD
from catdog.storage import BackgroundUploads, LocalStore
from catdog.trial.contact_sheet import Probes, contact_sheet

EPOCHS, MASKS, PROBES, SIDE = 60, 4, 4, 256


def measure() -> list[Figure]:
    """Time queueing a contact sheet, and drawing it."""
    generator = np.random.default_rng(0)
    probes = Probes(
        images_PSSC=generator.integers(0, 256, (PROBES, SIDE, SIDE, 3), dtype=np.uint8),
        names=tuple(f"image_{index}" for index in range(PROBES)),
        labels_P=np.arange(PROBES),
        classes=tuple(f"breed_{index}" for index in range(37)),
    )
    masks_PMHW = generator.random((PROBES, MASKS, 7, 7)).astype(np.float16)
    predicted_P = np.arange(PROBES)
    queueing, drawing = [], []
    with tempfile.TemporaryDirectory() as folder, BackgroundUploads(LocalStore(Path(folder))) as uploads:
        for epoch in range(EPOCHS):
            started = time.perf_counter()
            draw = functools.partial(contact_sheet, probes, {HEAD: masks_PMHW}, predicted_P, f"epoch {epoch}")
            uploads.put(f"epoch-{epoch:03d}.png", draw)
            queueing.append(1e3 * (time.perf_counter() - started))
            uploads.flush()
            started = time.perf_counter()
            draw()
            drawing.append(1e3 * (time.perf_counter() - started))
    detail = f"drawing and encoding it takes {sorted(drawing)[EPOCHS // 2]:.1f} ms of another thread"
    return [Figure("a contact sheet, on the training thread", tuple(queueing), " ms", 2, False, detail)]
