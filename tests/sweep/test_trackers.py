"""Trackers that people already use: MLflow, with its own local store."""

from pathlib import Path

import pytest
from ray import tune

from catdog.cli import run_job
from jobs import sweep
from tests.helpers.sweeps import SMALL


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")  # MLflow's own
@pytest.mark.usefixtures("local_ray")
def test_trials_are_logged_to_mlflow_and_an_unreachable_tracker_is_reported_at_once(
    store_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mlflow = pytest.importorskip("mlflow")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    arguments = ["demo", "--store", str(store_folder), *SMALL, "--tracker", "mlflow", "--variants", "baseline", "se"]
    assert run_job(sweep.main, [*arguments, "--seeds", "1"]) == 0
    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name("demo")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert set(runs) == {"baseline seed 0", "se seed 0"}
    run = runs["se seed 0"]
    assert (run.info.status, run.data.params["trial/variant"], run.data.params["trial/seed"]) == ("FINISHED", "se", "0")
    assert [metric.value for metric in client.get_metric_history(run.info.run_id, "epoch")] == [0, 1]
    assert 0 <= run.data.metrics["test_accuracy"] <= 100

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    capsys.readouterr()
    assert run_job(sweep.main, [*arguments, "--seeds", "2"]) == 2
    assert capsys.readouterr().err.startswith("error: --tracker mlflow: ")


def test_a_tracker_that_fails_later_is_dropped() -> None:
    from catdog.sweep.trackers import Guarded

    class Failing(tune.Callback):
        calls = 0

        def on_trial_start(self, *arguments: object, **info: object) -> None:
            self.calls += 1
            raise ConnectionError("the server went away\nand more")

    tracker, said = Failing(), []
    guarded = Guarded(tracker, "mlflow", said.append)
    guarded.on_trial_start(0, [], None)
    guarded.on_trial_start(1, [], None)
    assert tracker.calls == 1
    assert said == ["--tracker mlflow failed; the sweep continues without it: the server went away"]


def test_a_tracker_whose_package_is_missing_is_named(store_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_job(sweep.main, ["demo", "--store", str(store_folder), "--tracker", "wandb"]) == 2
    assert "--tracker wandb: its package is missing: pip install wandb" in capsys.readouterr().err
