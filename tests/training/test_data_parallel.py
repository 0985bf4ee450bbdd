"""Several processes that train a model together compute what one process does."""

import dataclasses
import io
import itertools
import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from catdog.config.presets import PRESETS
from catdog.config.recipe import Recipe
from catdog.config.variants import parse_variant
from catdog.errors import PausedError, UserError
from catdog.runs.history import read_history
from catdog.runs.manifest import Identity
from catdog.storage import StoreLocation
from catdog.training.data_parallel import ALONE, Workers
from catdog.trial.context import RunContext
from catdog.trial.run import join_trial, run_trial
from tests.helpers.pets import DRAWN_GROUPS, copy_packed

pytestmark = pytest.mark.filterwarnings("ignore:Grad strides do not match:UserWarning")

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "masks": ("multi-attention:dropout=0", {}),
    "mixed images": ("attention:dropout=0", {"mixup": 0.4, "cutmix": 1.0, "gradient_clip": 0.5, "ema": 0.9}),
    "two tasks": ("multi-task:dropout=0", {}),
    "cached features": ("attention:dropout=0,masks=swapped", {"freeze": True}),
}
"""Label, and changes of the recipe. Dropout draws other values on each process."""
PAUSED = "masks"


def train(context: RunContext, label: str, workers: Workers, pause_after: int | None = None) -> None:
    """Run a worker's share of a trial; paused after so many questions whether to, and resumed."""
    about = (context, parse_variant(label, context.identity.recipe), 0, lambda record: None)
    questions = itertools.count(1)

    def run(should_pause: Callable[[], bool]) -> None:
        if workers.index == 0:
            run_trial(*about, should_pause=should_pause, workers=workers)
        else:
            join_trial(*about, should_pause, workers)

    if pause_after is not None:
        with pytest.raises(PausedError):  # all agree, even if only the last one wants it
            run(lambda: next(questions) >= pause_after and workers.index == workers.count - 1)
    run(lambda: False)


def work(index: int, count: int, rendezvous: str, tasks: list[tuple[RunContext, str, int | None]]) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{rendezvous}", rank=index, world_size=count)
    for task in tasks:
        context, label, pause_after = task
        train(context, label, Workers(index, count), pause_after)
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory, packed: Path, drawn_fingerprint: str, recipe: Recipe) -> Any:
    """A function: (case, run, workers) → the context of a trial that fine-tunes lite0."""
    folder = copy_packed(packed, tmp_path_factory.mktemp("store"))
    lite0 = dataclasses.replace(recipe, backbone="timm/tf_efficientnet_lite0", weights="lite0", image_size=64)

    def make(case: str, run: str, workers: int) -> RunContext:
        changed = dataclasses.replace(lite0, **CASES[case][1])
        identity = Identity(changed, drawn_fingerprint, None, 1, groups=DRAWN_GROUPS, workers=workers)
        return RunContext(run, StoreLocation.of(str(folder)), identity, "lite0")

    return make


@pytest.fixture(scope="module")
def trained(make: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Every case, on one process and on two; one also paused and resumed on two."""
    tasks = [(make(case, f"two {case}", 2), CASES[case][0], None) for case in CASES]
    tasks.append((make(PAUSED, "paused", 2), CASES[PAUSED][0], 2))
    rendezvous = str(tmp_path_factory.mktemp("rendezvous") / "file")
    spawn = multiprocessing.get_context("spawn")
    second = spawn.Process(target=work, args=(1, 2, rendezvous, tasks))
    second.start()
    try:
        work(0, 2, rendezvous, tasks)
    finally:
        second.join(timeout=60)
        second.kill()
    assert second.exitcode == 0
    for case, (label, _) in CASES.items():
        train(make(case, f"one {case}", 1), label, ALONE)


def history(context: RunContext, label: str) -> pd.DataFrame:
    spec = parse_variant(label, context.identity.recipe)
    data = context.location.open().get(context.trial_paths(spec, 0).history)
    columns = read_history(data)
    return columns.drop(columns=[name for name in columns if name.endswith(("_seconds", "_at"))])


@pytest.mark.usefixtures("trained")
@pytest.mark.parametrize("case", CASES)
def test_two_processes_compute_what_one_does(case: str, make: Any) -> None:
    label = CASES[case][0]
    one, two = (history(make(case, f"{name} {case}", count), label) for name, count in (("one", 1), ("two", 2)))
    pd.testing.assert_frame_equal(one, two, rtol=0, atol=1e-4)
    assert not one.equals(two), "sums in another order differ in their last digits"


@pytest.mark.usefixtures("trained")
def test_what_is_written_is_whole_and_only_once(make: Any) -> None:
    one, two = make("masks", "one masks", 1), make("masks", "two masks", 2)
    spec, store = parse_variant(CASES["masks"][0], one.identity.recipe), one.location.open()
    folders = [context.trial_paths(spec, 0).folder for context in (one, two)]
    names = [{key.removeprefix(folder) for key in store.list(folder)} for folder in folders]
    assert names[0] == names[1]
    first, second = (np.load(io.BytesIO(store.get(f"{folder}/predictions.npz"))) for folder in folders)
    for name in first:
        if name.endswith("logits"):
            np.testing.assert_allclose(first[name], second[name], atol=5e-3)
        else:
            np.testing.assert_array_equal(first[name], second[name])


@pytest.mark.usefixtures("trained")
def test_workers_that_were_paused_between_two_steps_continue_to_the_same_bits(make: Any) -> None:
    label = CASES[PAUSED][0]
    undisturbed, paused = (history(make(PAUSED, run, 2), label) for run in (f"two {PAUSED}", "paused"))
    pd.testing.assert_frame_equal(undisturbed, paused, rtol=0, atol=0)


def test_a_batch_that_cannot_be_shared_equally_is_rejected() -> None:
    with pytest.raises(UserError, match=r"a batch of 8 images cannot be shared equally by the 3 workers"):
        Workers(0, 3).require_shares(8)
    with pytest.raises(UserError, match=r"^--batch-size 64: must be a multiple of the 3 workers of a trial"):
        dataclasses.replace(PRESETS["paper"], gpus_per_trial=3)


def test_shares_are_put_together_in_the_order_of_the_batches() -> None:
    assert ALONE.all_of(["a", "b"]) == ["a", "b"]
    whole = torch.arange(8)
    assert [Workers(index, 4).share_of(whole).tolist() for index in range(4)] == [[0, 1], [2, 3], [4, 5], [6, 7]]
