"""Trials on several workers, on a real local Ray."""

import contextlib
import io
import os
import signal
from pathlib import Path

import pytest
import ray
import torch
from ray.train import ControllerError, TrainingFailedError, WorkerGroupError

from catdog.errors import Card, DeviceError, PausedError, UserError, WorkerLostError
from catdog.runs.paths import RunPaths
from catdog.storage import LocalStore, StoreLocation
from catdog.sweep.worker_group import _cause
from tests.helpers.autoscaling import FakeAutoscalingCluster
from tests.helpers.pets import copy_packed
from tests.helpers.s3_servers import s3_variables
from tests.helpers.sweeps import comparable, processes_of, report, run_sweep, small, start_job, wait_for


def long(epochs: int, *arguments: str) -> list[str]:
    return small(
        *("--limit-images", "300", "--image-size", "64", "--batch-size", "4", "--epochs", str(epochs), "--seeds", "1"),
        *("--variants", "multi-attention", "--workers-per-trial", "2", "--checkpoint-seconds", "1", *arguments),
    )


@pytest.fixture(scope="module")
def undisturbed(local_ray: None, packed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of a sweep whose workers all live."""
    store = copy_packed(packed, tmp_path_factory.mktemp("undisturbed") / "store")
    with contextlib.redirect_stdout(io.StringIO()) as output:
        assert run_sweep(store, *long(3)) == 0
    assert "started again" not in output.getvalue()
    return store


@pytest.mark.slow
@pytest.mark.parametrize("victim", [b"RayTrainWorker", b"TrainController"])
def test_a_killed_worker_costs_its_trial_a_retry_and_no_digit(
    victim: bytes, store_folder: Path, undisturbed: Path, tmp_path: Path
) -> None:
    process = start_job(store_folder, *long(3), environment={"CATDOG_TEST_WORKERS": str(tmp_path)})
    store = LocalStore(store_folder)
    wait_for(lambda: store.exists("demo/trials/multi-attention/seed-00/checkpoint.pt"), process)
    victims = [pid for pid, line in processes_of(str(tmp_path)).items() if victim in line]
    assert len(victims) == (2 if victim == b"RayTrainWorker" else 1)
    os.kill(victims[-1], signal.SIGKILL)
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0, output
    mine, theirs = (comparable(report(folder, "trials.csv")) for folder in (store_folder, undisturbed))
    assert mine.equals(theirs)


@pytest.mark.slow
def test_a_group_across_nodes_moves_from_one_that_is_drained(s3_server: str, s3_store: str, tmp_path: Path) -> None:
    store, where = StoreLocation.of(s3_store).open(), RunPaths("demo").trial("multi-attention", 0)
    nodes = {"cpu": {"resources": {"CPU": 1}, "max_workers": 3}}
    arguments = long(12, "--max-retries", "0")
    with FakeAutoscalingCluster(nodes, s3_variables(s3_server, tmp_path)) as cluster:
        process = start_job(s3_store, *arguments, environment=cluster.environment)
        wait_for(lambda: store.exists(where.checkpoint), process)
        two = cluster.nodes()
        assert len(two) == 2
        cluster.drain_node(two[1], seconds=120)
        wait_for(lambda: not cluster.nodes_running("RayTrainWorker") <= {node.name for node in two}, process)
        cluster.kill_node(two[1])
        output = process.communicate(timeout=400)[0]
    assert process.returncode == 0, output


def cause(*failures: Exception) -> Exception:
    return _cause(WorkerGroupError("", dict(enumerate(failures))))


def test_the_error_of_a_group_is_the_workers_own_unless_one_is_lost_or_all_paused() -> None:
    own = UserError("--weights: no such file")
    peer = RuntimeError("gloo/transport/tcp/pair.cc:545 Read error: Connection closed by peer")
    lost = ray.exceptions.ActorDiedError()
    assert cause(own) is own
    assert cause(torch.OutOfMemoryError("CUDA out of memory"), peer).args == ("CUDA out of memory",)
    assert isinstance(cause(peer), WorkerLostError)
    assert isinstance(cause(peer, lost), WorkerLostError)
    assert isinstance(cause(PausedError("paused in epoch 1"), peer), PausedError)
    assert isinstance(_cause(TrainingFailedError("the controller is gone")), WorkerLostError)
    assert isinstance(_cause(lost), WorkerLostError)
    assert isinstance(cause(RuntimeError("CUDA error: invalid device ordinal")), WorkerLostError), "it names no card"
    assert str(_cause(ControllerError(ValueError("no\nroom")))) == "the trial's workers did not start: no"
    broken = DeviceError("it computes wrong numbers", "broken", Card("node", "host", "1"))
    assert cause(broken) is broken
