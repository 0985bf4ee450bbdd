"""Sweeps on a cluster whose nodes start on demand, get reclaimed, and stop when idle."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from catdog.runs.paths import RunPaths
from catdog.storage import StoreLocation
from catdog.sweep.placement import AutoscalerLimits, autoscaler_limits
from catdog.trial.device import SIMULATED_GPUS
from tests.helpers.autoscaling import FakeAutoscalingCluster
from tests.helpers.project import ROOT
from tests.helpers.refusing_provider import RECORD, REFUSED
from tests.helpers.s3_servers import s3_variables
from tests.helpers.sweeps import SMALL, small, start_job

CLUSTER = yaml.safe_load((ROOT / "cluster.yaml").read_text())
GPU_TYPE = {"resources": {"CPU": 1, "GPU": 1}, "max_workers": 2}
CPU_TYPE = {"resources": {"CPU": 2}, "max_workers": 1}
SECONDS_TO_WAIT = 300


@pytest.fixture(scope="module")
def cluster(s3_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeAutoscalingCluster]:
    environment = s3_variables(s3_server, tmp_path_factory.mktemp("node-cache")) | {SIMULATED_GPUS: "none"}
    with FakeAutoscalingCluster({"gpu": GPU_TYPE, "cpu": CPU_TYPE}, environment) as cluster:
        yield cluster
    assert not cluster.processes()


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    for _ in range(SECONDS_TO_WAIT * 5):
        if condition():
            return
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.2)
    process.kill()
    raise AssertionError(f"it did not come to that:\n{process.communicate()[0]}")


@pytest.mark.slow
def test_a_node_starts_for_a_task_that_needs_a_gpu_and_stops_when_idle(cluster: FakeAutoscalingCluster) -> None:
    script = (
        "import ray\n"
        "ray.init(logging_level='ERROR', log_to_driver=False)\n"
        "assert not ray.cluster_resources().get('GPU')\n"
        "print(ray.get(ray.remote(num_gpus=1)(lambda: 'it ran').remote()))\n"
    )
    cluster.wait_for_nodes(0)
    cluster.highest = 0
    process = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | cluster.environment,
        capture_output=True,
        text=True,
        timeout=SECONDS_TO_WAIT,
        check=False,
    )
    assert (process.returncode, process.stdout) == (0, "it ran\n"), process.stderr
    assert cluster.highest == 1
    cluster.wait_for_nodes(0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--cpus-per-trial", "64"], "--cpus-per-trial 64: the largest node here has 2 cores"),
        (
            ["--cpus-per-trial", "2", "--gpus-per-trial", "1"],
            "--cpus-per-trial 2 and --gpus-per-trial 1: no node here has both",
        ),
    ],
)
def test_resources_that_no_node_can_have_are_rejected_before_any_node_starts(
    cluster: FakeAutoscalingCluster, s3_store: str, arguments: list[str], message: str
) -> None:
    cluster.wait_for_nodes(0)
    cluster.highest = 0
    process = start_job(s3_store, *SMALL, *arguments, environment=cluster.environment)
    output = process.communicate(timeout=SECONDS_TO_WAIT)[0]
    assert (process.returncode, output) == (2, f"error: {message}\n")
    assert cluster.highest == 0


@pytest.mark.slow
def test_a_folder_is_rejected_as_the_store_of_a_cluster_that_can_start_nodes(
    cluster: FakeAutoscalingCluster, store_folder: Path
) -> None:
    process = start_job(store_folder, *SMALL, environment=cluster.environment)
    output = process.communicate(timeout=SECONDS_TO_WAIT)[0]
    assert process.returncode == 2, output
    assert "nodes that this cluster starts later may not share a folder (4 nodes at most)" in output
    assert output.count("\n") == 1


@pytest.mark.slow
def test_without_a_node_type_with_gpus_the_sweep_reports_that_there_is_no_gpu(
    cluster: FakeAutoscalingCluster, s3_store: str, tmp_path: Path
) -> None:
    config = {"max_workers": 2, "head_node_type": "head", "available_node_types": {"head": {}, "cpu": CPU_TYPE}}
    (tmp_path / "ray_bootstrap_config.yaml").write_text(json.dumps(config))
    environment = cluster.environment | {"HOME": str(tmp_path)}
    cluster.wait_for_nodes(0)
    process = start_job(s3_store, *SMALL, "--gpus-per-trial", "1", environment=environment)
    output = process.communicate(timeout=SECONDS_TO_WAIT)[0]
    message = "--gpus-per-trial 1: there is no GPU here; use --gpus-per-trial 0 to train on the CPU"
    assert (process.returncode, output) == (2, f"error: {message}\n")


@pytest.mark.slow
def test_a_sweep_starts_its_nodes_survives_their_loss_and_releases_them(
    cluster: FakeAutoscalingCluster, s3_store: str
) -> None:
    cluster.wait_for_nodes(0)
    cluster.highest = 0
    arguments = small(  # many epochs, so that the last trials are far from finished when their nodes are killed
        "--epochs", "60", "--seeds", "2", "--variants", "baseline", "attention",
        "--gpus-per-trial", "1", "--cpus-per-trial", "1", "--checkpoint-seconds", "0",
    )  # fmt: skip
    process = start_job(s3_store, *arguments, environment=cluster.environment)
    store = StoreLocation.of(s3_store).open()

    def keys(part: str) -> list[str]:
        return [key for key in store.list("demo/trials/") if part in key]

    # Trials start seed by seed: once the last seed has started, at most one trial of an earlier seed is still running.
    wait_until(lambda: bool(keys("/seed-01/")), process)
    assert {key.split("/")[2] for key in keys("/seed-00/")} == {"baseline", "attention"}
    assert 1 <= len(keys("/result.json")) < 4

    lost = cluster.nodes()
    for node in lost:  # both of them, as when capacity is reclaimed: the pending trials need new ones
        cluster.kill_node(node)
    names = {node.name for node in lost}
    wait_until(lambda: any(node.name not in names for node in cluster.nodes()), process)

    output = process.communicate(timeout=SECONDS_TO_WAIT)[0]
    assert process.returncode == 0, output
    assert "waiting until the cluster has started one" in output
    assert "4 trials to run, 0 already done; 2 at once" in output
    assert len(keys("/result.json")) == 4
    assert not keys("checkpoint")
    assert cluster.highest == 2
    cluster.wait_for_nodes(0)


@pytest.mark.slow
def test_a_node_that_is_drained_costs_no_retry(cluster: FakeAutoscalingCluster, s3_store: str) -> None:
    cluster.wait_for_nodes(0)
    arguments = (  # long enough for the drain to come in the middle, on any machine
        "--limit-images", "1000", "--image-size", "96", "--batch-size", "4", "--epochs", "8", "--seeds", "1",
        "--variants", "baseline", "--gpus-per-trial", "1", "--max-retries", "0", "--checkpoint-seconds", "1",
    )  # fmt: skip
    process = start_job(s3_store, *arguments, environment=cluster.environment)
    store, where = StoreLocation.of(s3_store).open(), RunPaths("demo").trial("baseline", 0)

    wait_until(lambda: store.exists(where.checkpoint), process)
    (node,) = cluster.nodes()
    cluster.drain_node(node, seconds=120)
    wait_until(lambda: cluster.nodes_running("ImplicitFunc") - {node.name} != set(), process)
    cluster.kill_node(node)

    output = process.communicate(timeout=SECONDS_TO_WAIT)[0]
    assert process.returncode == 0, output


@pytest.mark.slow
def test_the_doctor_starts_and_checks_a_node_of_each_type(cluster: FakeAutoscalingCluster, s3_store: str) -> None:
    cluster.wait_for_nodes(0)
    process = start_job(s3_store, *SMALL, "--variants", "baseline", environment=cluster.environment, job="doctor")
    output = process.communicate(timeout=SECONDS_TO_WAIT)[0]
    assert process.returncode == 0, output
    lines = output.splitlines()
    for words in ("up to 2 of gpu, up to 1 of cpu", "type gpu  ", "type cpu  ", "canary baseline"):
        assert any(line.startswith("ok") and words in line for line in lines), (words, output)
    cluster.wait_for_nodes(0)


@pytest.mark.slow
def test_the_doctor_waits_for_all_types_at_once_and_calls_one_that_is_refused_a_fault_only_if_a_trial_needs_it(
    s3_server: str, s3_store: str, tmp_path: Path
) -> None:
    kinds = {"small": {"CPU": 1, "left": 1}, "large": {"CPU": 2}, "larger": {"CPU": 3}}
    types = {name: {"resources": resources, "max_workers": 1} for name, resources in kinds.items()}
    hold = (
        "import ray, time\n"
        "ray.init(logging_level='ERROR', log_to_driver=False)\n"
        "ray.get(ray.remote(num_cpus=0, resources={'left': 1})(lambda: time.sleep(600)).remote())\n"
    )
    with FakeAutoscalingCluster(types, s3_variables(s3_server, tmp_path), most=1) as cluster:
        holder = subprocess.Popen([sys.executable, "-c", hold], env=os.environ | cluster.environment)
        cluster.wait_for_nodes(1)
        arguments = (*SMALL, "--variants", "baseline", "--wait-seconds", "20")
        for cpus, code, word, canaries in (("1", 0, "warning", 1), ("2", 2, "FAULT", 0)):
            options = (*arguments, "--cpus-per-trial", cpus)
            process = start_job(s3_store, *options, environment=cluster.environment, job="doctor")
            output = process.communicate(timeout=SECONDS_TO_WAIT)[0]
            assert process.returncode == code, output
            lines = output.splitlines()
            for name in ("large", "larger"):
                assert any(line.startswith(word) and f"type {name} " in line for line in lines), output
            assert sum("canary baseline" in line for line in lines) == canaries, output
        holder.terminate()
        holder.wait()


@pytest.mark.slow
def test_another_type_is_started_for_one_that_is_refused_even_a_larger_one(tmp_path: Path) -> None:
    """As cluster.yaml starts the head: with deploy/ray_fallback on its path."""
    start = next(command for command in CLUSTER["head_start_ray_commands"] if "ray start" in command)
    assert "PYTHONPATH=~/environment/ray_fallback " in start
    assert CLUSTER["file_mounts"]["~/environment/ray_fallback"] == "deploy/ray_fallback"
    record = tmp_path / "launches"
    environment = {
        "PYTHONPATH": f"{ROOT / 'deploy/ray_fallback'}{os.pathsep}{ROOT}",
        REFUSED: "fitting",
        RECORD: str(record),
    }
    types = {name: {"resources": {"CPU": cpus}, "max_workers": 2} for name, cpus in (("fitting", 1), ("larger", 4))}
    script = (
        "import ray\n"
        "ray.init(logging_level='ERROR', log_to_driver=False)\n"
        "ray.get(ray.remote(num_cpus=1)(lambda: 'it ran').remote())\n"
    )
    provider = "tests.helpers.refusing_provider.RefusingProvider"
    with FakeAutoscalingCluster(types, environment, provider=provider) as cluster:
        process = subprocess.Popen([sys.executable, "-c", script], env=os.environ | cluster.environment)
        process.wait(timeout=SECONDS_TO_WAIT)
    assert process.returncode == 0
    asked = record.read_text().split()
    assert (asked[0], asked[-1]) == ("fitting", "larger"), asked
    assert asked.count("fitting") <= 2, "it is not asked for again at once"


def test_the_nodes_that_can_start_are_read_from_the_autoscalers_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, wanted = tmp_path / "ray_bootstrap_config.yaml", {"CPU": 1.0, "GPU": 0.5}
    monkeypatch.delenv("RAY_USAGE_STATS_KUBERAY_IN_USE", raising=False)
    assert autoscaler_limits(wanted, path) == AutoscalerLimits()
    config = {
        "max_workers": 3,
        "head_node_type": "head",
        "available_node_types": {
            "head": {"resources": {"CPU": 8}},
            "large": {"resources": {"CPU": 4, "GPU": 4, "memory": 9, "accelerator_type:L4": 1}, "max_workers": 2},
            "any": {"resources": {"CPU": 1, "GPU": 1}},
        },
    }
    path.write_text(json.dumps(config))
    autoscaler = autoscaler_limits(wanted, path)
    assert autoscaler.most == 3
    assert [node["GPU"] for node in autoscaler.nodes] == [4, 4, 1, 1, 1]
    large, small = autoscaler.groups
    assert large.task_options == {"num_cpus": 4, "num_gpus": 4, "resources": {"accelerator_type:L4": 1}}
    assert small.matches({"CPU": 4.0, "GPU": 4.0})
    assert not large.matches({"CPU": 4.0, "GPU": 4.0})


def test_kubernetes_does_not_say_what_it_can_start_so_any_request_is_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_USAGE_STATS_KUBERAY_IN_USE", "1")
    autoscaler = autoscaler_limits({"CPU": 2.0, "GPU": 1.0}, tmp_path / "none.yaml")
    assert autoscaler.nodes[0] == {"CPU": 2.0, "GPU": 1.0}
    assert autoscaler.most > 1
