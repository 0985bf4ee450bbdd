"""The report of a thousand trials with stored predictions, by the command itself."""

import sys
import tempfile
from pathlib import Path

from measuring import ROOT, Figure, timed_job

from catdog.storage import LocalStore

SEEDS = 125
VARIANTS = [
    "baseline", "attention", "multi-attention", "attention-relu", "attention-softmax", "se", "multi-attention-free",
    "multi-attention-fixed",
]  # fmt: skip
TEST_IMAGES = 3669


def measure() -> list[Figure]:
    """Measure the command's duration and peak memory."""
    sys.path.insert(0, str(ROOT))
    from tests.helpers.made_runs import make_run  # simulated runs, in the layout of real ones

    trials = SEEDS * len(VARIANTS)
    with tempfile.TemporaryDirectory() as folder:
        store = LocalStore(Path(folder))
        make_run(store, VARIANTS, range(SEEDS), epochs=20, test_images=TEST_IMAGES, run="made")
        seconds, gigabytes = timed_job(folder, "made", "aggregate", "--out", f"{folder}/out")
    detail = f"jobs/aggregate.py, {TEST_IMAGES:,} test images a trial"
    return [
        Figure(f"aggregation of {trials:,} trials", (seconds,), " s", 90, False, detail),
        Figure(f"aggregation of {trials:,} trials, memory", (gigabytes,), " GB", 2, False, "the process's peak"),
    ]
