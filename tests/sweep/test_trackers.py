"""Trackers that people already use: MLflow, with its own local store."""

import dataclasses
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest
from ray import tune
from ray.tune.experiment import Trial

from catdog.cli import run_job
from catdog.errors import UserError
from catdog.runs.history import read_history
from catdog.runs.provenance import code_tree
from catdog.runs.status import open_run
from catdog.storage import StoreLocation
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
    monkeypatch.chdir(tmp_path)  # where MLflow puts artifacts
    variant = "se:label_smoothing=0.2"
    arguments = ["demo", "--store", str(store_folder), *SMALL, "--tracker", "mlflow", "--variants", "baseline", variant]
    assert run_job(sweep.main, [*arguments, "--seeds", "1"]) == 0
    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name("demo")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    (report,) = [runs.pop(name) for name in list(runs) if name.startswith("report, ")]
    assert set(runs) == {"baseline seed 0", f"{variant} seed 0"}
    run = runs[f"{variant} seed 0"]
    params = run.data.params
    assert (run.info.status, params["variant"], params["seed"], params["code"]) == (
        "FINISHED",
        variant,
        "0",
        code_tree(),
    )
    assert params["reduction"] == "16", "a parameter of the head"
    recipe = open_run(StoreLocation.of(str(store_folder)).open(), "demo").manifest.identity.recipe
    own = dataclasses.asdict(recipe) | {"label_smoothing": 0.2}
    assert {name: params[name] for name in own} == {name: str(value) for name, value in own.items()}
    assert [metric.value for metric in client.get_metric_history(run.info.run_id, "epoch")] == [0, 1]
    history = read_history(
        (store_folder / f"demo/trials/{variant.replace(':', '__')}/seed-00/history.csv").read_bytes()
    )
    for name in ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "learning_rate"):
        logged = [metric.value for metric in client.get_metric_history(run.info.run_id, name)]
        assert logged[:2] == pytest.approx(history[name].tolist())
    assert 0 <= run.data.metrics["test_accuracy"] <= 100
    assert report.info.status == "FINISHED"
    names = {one.path for one in client.list_artifacts(report.info.run_id)}
    assert {"report.html", "table.md", "table.csv", "figures"} <= names
    page = client.download_artifacts(report.info.run_id, "report.html")
    assert Path(page).read_bytes() == (store_folder / "demo/report/report.html").read_bytes()

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    capsys.readouterr()
    assert run_job(sweep.main, [*arguments, "--seeds", "2"]) == 2
    assert capsys.readouterr().err.startswith("error: --tracker mlflow: ")


def test_a_server_of_mlflow_that_is_away_is_asked_four_times(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow")
    from catdog.sweep.trackers import PATIENCE, open_tracker

    for variable in PATIENCE:
        monkeypatch.setenv(variable, "")  # so that what is set now does not stay
        monkeypatch.delenv(variable)
    asked = []

    class Away(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(503)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Away) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_JITTER", "0")
        (tracker,) = open_tracker("mlflow", SimpleNamespace(run="night"), pytest.fail)  # type: ignore[arg-type]
        with pytest.raises(UserError, match="--tracker mlflow: "):
            tracker.setup()
        server.shutdown()
    assert set(Counter(asked).values()) == {1 + 3}


def test_a_tracker_that_fails_later_is_dropped() -> None:
    from catdog.sweep.trackers import Guarded

    class Failing(tune.Callback):
        seen: ClassVar[list[object]] = []

        def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: object) -> None:
            self.seen.append(trial.config)
            raise ConnectionError("the server went away\nand more")

    tracker, said = Failing(), []
    config = {"trial": {"variant": "se", "seed": 0}}
    trial = SimpleNamespace(config=config)
    guarded = Guarded(tracker, "mlflow", lambda variant, seed: {"variant": variant, "seed": seed}, said.append)
    guarded.on_trial_start(0, [], trial)
    guarded.on_trial_start(1, [], trial)
    assert tracker.seen == [{"variant": "se", "seed": 0}]
    assert trial.config is config
    assert said == ["--tracker mlflow failed; the sweep continues without it: the server went away"]


def test_a_tracker_whose_package_is_missing_is_named(store_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_job(sweep.main, ["demo", "--store", str(store_folder), "--tracker", "wandb"]) == 2
    assert "--tracker wandb: its package is missing: pip install wandb" in capsys.readouterr().err
