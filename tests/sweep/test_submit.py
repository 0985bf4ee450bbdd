"""`ray job submit` for real: to a cluster on this machine, with an S3 store."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from catdog.errors import NotFoundError
from catdog.storage import StoreLocation
from tests.helpers.autoscaling import FakeAutoscalingCluster
from tests.helpers.project import ROOT
from tests.helpers.s3_servers import PLANTED_SECRET, s3_variables
from tests.helpers.sweeps import SMALL, times_computed

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster(s3_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeAutoscalingCluster]:
    """A cluster whose nodes have credentials for the S3 server, as from an instance profile."""
    environment = s3_variables(s3_server, tmp_path_factory.mktemp("node-cache"))
    # No worker nodes: the fake provider's share the head's folders and would delete the job's working_dir.
    with FakeAutoscalingCluster({}, environment, include_dashboard=True, head_cpus=2) as cluster:
        yield cluster
        assert cluster.files_with("runtime_env"), "the logs are where they are looked for"
        assert cluster.files_with(PLANTED_SECRET) == []


def ray_job(cluster: FakeAutoscalingCluster, verb: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `ray job VERB` as a user does: in the project's folder, on their own machine."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    environment |= {name: value for name, value in cluster.environment.items() if name.startswith("RAY_AUTH")}
    environment.pop("RAY_ADDRESS", None)
    command = [str(Path(sys.executable).parent / "ray"), "job", verb, "--address", cluster.dashboard_url, *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=300)


def submit(
    cluster: FakeAutoscalingCluster, name: str, *arguments: str, job: str = "sweep", wait: bool = True
) -> subprocess.CompletedProcess[str]:
    options = ["--submission-id", name, "--working-dir", ".", *([] if wait else ["--no-wait"])]
    return ray_job(cluster, "submit", *options, "--", "python", f"jobs/{job}.py", "demo", *arguments)


def test_a_submitted_sweep_ends_in_a_table_in_the_store(cluster: FakeAutoscalingCluster, s3_bucket: str) -> None:
    url = f"{s3_bucket}/night"  # empty: the job packs the images, too
    arguments = ["--store", url, *SMALL, "--seeds", "1", "--variants", "baseline", "multi-attention"]
    job = submit(cluster, "whole", *arguments)
    assert job.returncode == 0, job.stdout + job.stderr
    assert "2 trials to run, 0 already done; 2 at once" in job.stdout
    assert f"{url}/demo/report/table.md" in job.stdout
    store = StoreLocation.of(url).open()
    assert b"| multi-attention | 1 |" in store.get("demo/report/table.md")
    assert "succeeded" in ray_job(cluster, "status", "whole").stdout


def test_the_doctor_is_submitted_the_same_way(cluster: FakeAutoscalingCluster, s3_store: str) -> None:
    arguments = ["--store", s3_store, *SMALL, "--variants", "baseline"]
    job = submit(cluster, "doctor", *arguments, job="doctor")
    assert job.returncode == 0, job.stdout + job.stderr
    lines = job.stdout.splitlines()
    for words in ("1 node up; 2 trials at once", "asks for the token", "same packages, store writable", "canary"):
        assert any(line.startswith("ok") and words in line for line in lines), (words, job.stdout)
    assert "nothing stands in the way" in lines


def test_a_failing_trial_makes_the_job_fail(cluster: FakeAutoscalingCluster, s3_store: str) -> None:
    impossible = "multi-attention:num_masks=1024,hidden_features=65536"
    arguments = ["--store", s3_store, *SMALL, "--seeds", "1", "--variants", "baseline", impossible]
    job = submit(cluster, "failing", *arguments)
    assert job.returncode == 1, job.stdout + job.stderr
    assert f"failed: {impossible} seed 0: RuntimeError" in job.stdout
    assert "failed" in ray_job(cluster, "status", "failing").stdout


def test_a_job_stopped_halfway_resumes_when_submitted_again(
    cluster: FakeAutoscalingCluster, s3_store: str, tmp_path: Path
) -> None:
    store = StoreLocation.of(s3_store).open()
    trial = "demo/trials/attention/seed-00"
    arguments = [
        "--store", s3_store, "--variants", "attention", "--seeds", "1", "--epochs", "60", "--limit-images", "48",
        "--image-size", "64", "--batch-size", "8", "--checkpoint-seconds", "0",
    ]  # fmt: skip
    assert submit(cluster, "first", *arguments, wait=False).returncode == 0
    for _ in range(600):
        if store.exists(f"{trial}/snapshots/epoch-002.png"):
            break
        time.sleep(0.2)
    assert ray_job(cluster, "stop", "first").returncode == 0
    assert "stopped" in ray_job(cluster, "status", "first").stdout
    with pytest.raises(NotFoundError):
        store.get(f"{trial}/result.json")
    (tmp_path / "checkpoint.pt").write_bytes(store.get(f"{trial}/checkpoint.pt"))
    saved = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["state"]["history"]
    assert len(saved) >= 2

    job = submit(cluster, "again", *arguments)
    assert job.returncode == 0, job.stdout + job.stderr
    times = times_computed(store.get(f"{trial}/history.csv").decode())
    assert len(times) == 60
    assert times[: len(saved)] == [row["finished_at"] for row in saved], "saved epochs were computed again"
