"""What one attempt of a trial tells Tune, and where it runs."""

import os
import platform
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray
from ray import tune

from catdog.config.recipe import Recipe
from catdog.errors import NodeError, StoreError
from catdog.runs.cost import Launch
from catdog.runs.paths import RunPaths
from catdog.storage import StoreLocation
from catdog.storage.serialization import to_json
from catdog.sweep.lease import RunLease
from catdog.sweep.trainable import train_trial
from catdog.trial.context import RunContext

MakeContext = Callable[..., RunContext]


class Attempts(tune.Callback):  # type: ignore[misc]
    def __init__(self) -> None:
        self.count = 0

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.count += 1


def run(
    context: RunContext, variant: str, scratch: Path, seeds: int = 1, max_failures: int = 3
) -> tuple[ray.tune.Result, int]:
    """Return the result of a trial that Tune may retry, and the number of attempts of all seeds' trials."""
    attempts = Attempts()
    tuner = tune.Tuner(
        tune.with_parameters(train_trial, context=context, launch="launch"),
        param_space={"trial": tune.grid_search([{"variant": variant, "seed": seed} for seed in range(seeds)])},
        tune_config=tune.TuneConfig(reuse_actors=True, max_concurrent_trials=1),
        run_config=tune.RunConfig(
            storage_path=str(scratch),
            failure_config=tune.FailureConfig(max_failures=max_failures),
            callbacks=[attempts],
            verbose=0,
        ),
    )
    with RunLease(context.location.open(), context.run, "launch").hold(lambda message: None):
        results = tuner.fit()
    return results[0], attempts.count


@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize(
    ("variant", "said"),
    [("baseline", "gone.pth: no such file"), ("no-such-head", "choose from baseline")],  # of a worker with other code
)
def test_a_mistake_that_a_worker_finds_is_its_nodes_and_not_the_trials(
    variant: str, said: str, make_context: MakeContext, recipe: Recipe, tmp_path: Path
) -> None:
    context = make_context(recipe, weights=str(tmp_path / "gone.pth"))
    result, attempts = run(context, variant, tmp_path / "tune", max_failures=1)
    assert attempts == 2
    assert isinstance(result.error, ray.exceptions.RayTaskError)
    assert isinstance(result.error.cause, NodeError)
    assert str(result.error.cause).startswith(f"{platform.node()}: ")
    assert said in str(result.error.cause)
    assert context.location.open().list(f"{context.run}/failures") == []


@pytest.mark.usefixtures("local_ray")
def test_all_trials_of_a_worker_run_in_one_thread(make_context: MakeContext, recipe: Recipe, tmp_path: Path) -> None:
    class Context(RunContext):
        def load_heads(self) -> None:
            with (tmp_path / "threads").open("a") as file:
                file.write(f"{os.getpid()} {threading.get_native_id()}\n")
            super().load_heads()

    context = Context(**vars(make_context(recipe)))
    closed = Launch("launch", "", "CPU", None, closed=True)
    context.location.open().put(RunPaths(context.run).launch("launch"), to_json(closed))
    assert run(context, "baseline", tmp_path / "tune", seeds=3)[1] == 3
    notes = (tmp_path / "threads").read_text().splitlines()
    assert len(notes) == 3
    assert len(set(notes)) == 1


def test_no_trial_starts_on_a_node_where_the_folder_is_not_the_drivers(
    make_context: MakeContext, recipe: Recipe, tmp_path: Path
) -> None:
    """Such as one that joined the cluster after the check of all nodes."""
    context = make_context(recipe, location=StoreLocation.of(str(tmp_path / "another")))
    with pytest.raises(StoreError, match=r"no sweep holds the run in .*another: not the driver's folder"):
        train_trial({"trial": {"variant": "baseline", "seed": 0}}, context, "launch")
    assert not (tmp_path / "another").exists()
