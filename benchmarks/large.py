"""A large dataset: the private memory of a process that packs it, computes its features and trains a trial on them."""

import tempfile
import threading
import time
from pathlib import Path

from made_data import made_context
from measuring import Figure

from catdog.config.recipe import Recipe
from catdog.config.variants import parse_variant
from catdog.data.datasets.base import pack_key
from catdog.system.process import in_background, usable_cores
from catdog.trial.inputs import load_inputs
from catdog.trial.run import run_trial
from catdog.trial.setup import prepare_process

CLASSES, TRAINVAL_PER_CLASS, TEST_PER_CLASS = 500, 80, 20
RECIPE = Recipe(
    dataset="made", backbone="tiny", weights="none", freeze=True, image_size=144, batch_size=64, epochs=1,
    precision="float32",
)  # fmt: skip
EVERY_SECONDS = 0.05


class PrivateMemory:
    """The most private memory (RssAnon) that this process has had: without mapped files, which workers share."""

    def __init__(self) -> None:
        self.peak_bytes = 0

    def watch(self, stop: threading.Event) -> None:
        """Look again and again until `stop` is set."""
        while not stop.wait(EVERY_SECONDS):
            lines = Path("/proc/self/status").read_text().splitlines()
            kilobytes = next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))
            self.peak_bytes = max(self.peak_bytes, 1024 * kilobytes)


def measure() -> list[Figure]:
    """Pack the images, compute the features of a frozen backbone and train one trial, all in this process."""
    threads, memory = usable_cores(), PrivateMemory()
    with tempfile.TemporaryDirectory() as folder, in_background(memory.watch, "memory"):
        started = time.perf_counter()
        context = made_context(
            Path(folder), RECIPE, CLASSES * TRAINVAL_PER_CLASS * 4 // 5, threads, classes=CLASSES, test=TEST_PER_CLASS
        )
        packed = time.perf_counter()
        load_inputs(context, prepare_process(threads, 0.0, RECIPE.deterministic))
        computed = time.perf_counter()
        result = run_trial(context, parse_variant("attention"), 0)
        sizes = {path.name: path.stat().st_size / 1e9 for path in Path(folder).rglob("*.safetensors")}
    pack = sizes.pop(Path(pack_key("")).name)
    images = CLASSES * (TRAINVAL_PER_CLASS + TEST_PER_CLASS)
    assert result.train_seconds is not None
    assert result.images_trained is not None
    rates = images / (packed - started), result.images_trained / result.train_seconds
    detail = (
        f"{images:,} images of {CLASSES} classes: {pack:.1f} GB packed at {rates[0]:.0f} images/s, "
        f"{sum(sizes.values()):.1f} GB of features ({RECIPE.backbone} at {RECIPE.image_size} px) computed in "
        f"{computed - packed:.0f} s, an epoch of attention at {rates[1]:.0f} images/s"
    )
    peak = memory.peak_bytes / 1e9
    return [Figure("a large dataset, private memory of a worker", (peak,), " GB", 4, False, detail)]
