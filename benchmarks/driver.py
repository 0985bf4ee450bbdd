"""The driver's cost of a trial: its CPU time in a sweep of trivial trials, and how that grows with their number."""

import os
import tempfile
import time

from measuring import Figure
from rich.console import Console

from catdog.config.presets import PRESETS
from catdog.config.sweep_options import SweepConfig

FEW, MANY = 100, 1000


def measure() -> list[Figure]:
    """Measure sweeps of few and of many trials."""
    few, _ = sweep(FEW)
    many, wall = sweep(MANY)
    detail = f"processor time of the driver, {MANY:,} trials in {wall:.0f} s; {1e3 * few:.0f} ms a trial for {FEW}"
    return [
        Figure("the driver’s cost of a trial", (1e3 * many,), " ms", 20, False, detail),
        Figure(f"the same for {MANY:,} trials ÷ for {FEW}", (many / few,), "", 1.25, False, "linear: it does not grow"),
    ]


def sweep(trials: int) -> tuple[float, float]:
    """Run a sweep of trials that do next to nothing; returns the driver's CPU seconds per trial and the wall time."""
    from dataclasses import replace

    from catdog.sweep.notifications import telling_the_end
    from catdog.sweep.run import run_sweep

    demo = PRESETS["demo"]
    recipe = replace(
        demo.recipe, epochs=1, limit_images=12, batch_size=12, image_size=16, precision="float32", probe_images=1
    )
    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as silence:
        config: SweepConfig = replace(demo, store=folder, recipe=recipe, variants=("baseline",), seeds=str(trials))
        warm = replace(config, seeds="1", run="warm-up")
        console = Console(file=silence)
        with telling_the_end(config, console) as notifier:
            run_sweep(warm, (), console, notifier)
            wall, started = time.perf_counter(), time.process_time()
            run_status = run_sweep(config, (), console, notifier)
            seconds = time.process_time() - started
        assert run_status.is_complete
        return seconds / trials, time.perf_counter() - wall
