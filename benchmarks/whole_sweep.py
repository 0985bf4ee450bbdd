"""A whole sweep, 30 seeds × 3 variants on frozen features of the real images, against the bare steps of its heads."""

import contextlib
import dataclasses
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measuring import ROOT, Figure, real_images

from catdog.runs.status import open_run
from catdog.storage import LocalStore, StoreLocation
from catdog.system.process import usable_cores
from catdog.trial.context import RunContext

BARE_STEPS = 200


def measure(seeds: int = 30) -> list[Figure]:
    """Measure the sweep, with the bare steps before and after it."""
    root, slots = real_images("the whole sweep"), usable_cores()
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        # The first launch packs the images and computes the features.
        cold = _sweep(folder, root, "caches", ["--seeds", "1", "--variants", "baseline", "--epochs", "1"])
        before = _bare(folder, slots)
        wall = _sweep(folder, root, "pets-frozen", ["--seeds", str(seeds)])
        after = _bare(folder, slots)
        run_status = open_run(LocalStore(Path(folder)), "pets-frozen")
    results = [trial.result for trial in run_status.trials if trial.result is not None]
    batch = run_status.manifest.identity.recipe.batch_size
    bare = 0.0
    for result in results:
        assert result.images_trained is not None
        step = statistics.mean((before[result.variant], after[result.variant]))
        bare += result.images_trained / batch * step
    detail = (
        f"{len(results)} trials in {wall:.0f} s on {slots} slots, {bare:.0f} s of bare steps; packed images and "
        f"features were there: the launch that makes them took {cold:.0f} s"
    )
    name = f"a sweep of {len(results)} frozen trials: bare steps ÷ (wall × slots)"
    return [Figure(name, (bare / (wall * slots),), "", 0.8, True, detail)]


def _sweep(store: str, root: Path, run: str, options: list[str]) -> float:
    command = [
        sys.executable, "jobs/sweep.py", "pets-frozen", "--store", store, "--run", run, "--data-root", str(root),
        *options,
    ]  # fmt: skip
    started = time.perf_counter()
    subprocess.run(command, cwd=ROOT, check=True)
    return time.perf_counter() - started


def _bare(store: str, processes: int) -> dict[str, float]:
    """Return the seconds of a bare step of each head, while one process per slot of the sweep does the same."""
    script = f"import whole_sweep; whole_sweep.print_bare({store!r})"
    running = [
        subprocess.Popen([sys.executable, "-c", script], cwd=Path(__file__).parent, stdout=subprocess.PIPE, text=True)
        for _ in range(processes)
    ]
    outputs = [process.communicate()[0] for process in running]
    assert not any(process.returncode for process in running)
    seconds: dict[str, list[float]] = {}
    for line in "".join(outputs).splitlines():
        label, value = line.split()
        seconds.setdefault(label, []).append(float(value))
    return {label: statistics.mean(values) for label, values in seconds.items()}


def print_bare(store: str) -> None:
    """Print the seconds of a bare step of each variant's head, on the sweep's own features."""
    from bare import BareTraining

    run_status = open_run(LocalStore(Path(store)), "caches")
    recipe = dataclasses.replace(run_status.manifest.identity.recipe, epochs=20)
    identity = dataclasses.replace(run_status.manifest.identity, recipe=recipe)
    context = RunContext("bare", StoreLocation.of(store), identity, recipe.weights)
    for label in ("baseline", "attention", "multi-attention"):
        bare = BareTraining(context, label)
        bare.run(20)
        print(label, bare.run(BARE_STEPS))
