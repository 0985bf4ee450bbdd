"""How close the training epochs of a trial get to the bare arithmetic of the same network."""

import dataclasses
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bare import BareTraining
from made_data import made_context, preset_recipe
from measuring import Figure, ratios

from catdog.config.recipe import Recipe
from catdog.config.variants import parse_variant
from catdog.runs.history import EpochRecord
from catdog.trial.context import RunContext
from catdog.trial.run import run_trial

REPEATS = 5
EPOCHS = 2


def measure_finetuning() -> list[Figure]:
    """Measure fine-tuning of both backbones."""
    lite0 = preset_recipe("pets-cpu", image_size=128, epochs=EPOCHS)
    resnet = preset_recipe("paper", weights="none", batch_size=32, epochs=EPOCHS)
    return [
        compare("fine-tuning lite0 at 128 px", lite0, ["baseline"], images=384, threads=2, target=0.95),
        compare("fine-tuning ResNet-34 at 224 px", resnet, ["multi-attention"], images=128, threads=2, target=0.95),
    ]


def measure_frozen() -> list[Figure]:
    """Measure the three heads on frozen features."""
    recipe = preset_recipe("pets-frozen", epochs=EPOCHS)
    labels = ["baseline", "attention", "multi-attention"]
    return [compare("frozen, steps of the three heads", recipe, labels, images=2944, threads=1, target=0.85)]


def compare(
    name: str, recipe: Recipe, labels: Sequence[str], images: int, threads: int, target: float, gpus: float = 0.0
) -> Figure:
    """Run trials and bare training in turn; the ratio of a repeat covers all `labels`."""
    with tempfile.TemporaryDirectory() as folder:
        context = made_context(Path(folder), recipe, images, threads, gpus)
        bare = {label: BareTraining(context, label) for label in labels}
        steps = EPOCHS * images // recipe.batch_size
        trial_seconds, bare_seconds, repeated_seconds = [], [], []
        for repeat in range(REPEATS + 1):
            trial_seconds.append(sum(trial_step(context, label, repeat) for label in labels))
            bare_seconds.append(sum(bare[label].run(steps) for label in labels))
            if recipe.freeze:
                repeated_seconds.append(sum(bare[label].run(steps, distinct=1) for label in labels))
    rates = [
        len(labels) * recipe.batch_size / statistics.median(seconds[1:])  # the first of each warms up
        for seconds in (trial_seconds, bare_seconds, repeated_seconds)
        if seconds
    ]
    shape = f"batch {recipe.batch_size}, {recipe.precision}, {threads} thread{'s' * (threads > 1)}"
    places = ("in a trial", "bare", "where bare steps repeat one batch")
    shown = ", ".join(f"{rate:.0f} images/s {place}" for rate, place in zip(rates, places, strict=False))
    detail = f"{shown} ({shape}; {', '.join(labels)})"
    return Figure(name, ratios(bare_seconds[1:], trial_seconds[1:]), "", target, True, detail)


def epoch_parts(recipe: Recipe, label: str, images: int, threads: int, gpus: float = 0.0) -> str:
    """Return a line on where the time of a trial's epochs goes, in milliseconds per step."""
    with tempfile.TemporaryDirectory() as folder:
        context = made_context(Path(folder), recipe, images, threads, gpus)
        bare, steps = BareTraining(context, label), images // recipe.batch_size
        bare.run(steps)  # warms up
        step = statistics.median(bare.run(steps) for _ in range(REPEATS))
        made = statistics.median(bare.make() for _ in range(REPEATS))
        first, *later = trial_epochs(context, label, seed=0)
    return (
        f"{label}, batch {recipe.batch_size}: {1e3 * step:.1f} ms a bare step, {1e3 * made:.1f} ms to make its batch, "
        f"{1e3 * first:.1f} ms a step in a trial's first epoch, {1e3 * statistics.median(later):.1f} ms in later ones"
    )


def trial_step(context: RunContext, label: str, seed: int) -> float:
    """Run a whole trial; returns the seconds per training step over all epochs."""
    return statistics.mean(trial_epochs(context, label, seed))


def trial_epochs(context: RunContext, label: str, seed: int) -> list[float]:
    """Run a whole trial; returns the seconds per training step of each epoch."""
    recipe, records = context.identity.recipe, list[EpochRecord]()
    context = dataclasses.replace(context, checkpoint_seconds=1e9)
    result = run_trial(context, parse_variant(label, recipe), seed, records.append)
    assert result.images_trained is not None
    steps = result.images_trained / recipe.batch_size / len(records)
    return [record.train_seconds / steps for record in records]
