"""One test for each private Ray API that the sweep needs: after a Ray upgrade they show what broke."""

import importlib
import inspect
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray import tune
from ray._common.usage.usage_constants import KUBERAY_ENV
from ray.tune.execution import class_cache, cluster_info
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from catdog.sweep import ray_internals
from tests.helpers.project import ROOT


@pytest.fixture
def tune_environment() -> None:
    """Tune's original trial environment: an earlier sweep in this process may have trimmed it."""
    importlib.reload(class_cache)


@pytest.mark.usefixtures("local_ray")
def test_only_the_head_has_the_resource_that_names_it() -> None:
    nodes = [node["Resources"] for node in ray.nodes()]
    assert ray_internals.head_nodes(nodes) == nodes
    assert ray_internals.head_nodes([{"CPU": 4.0}]) == []


@pytest.fixture(scope="module")
def facts() -> list[str]:
    """What a script prints about a local Ray that was started as the product does."""
    script = (
        "import ctypes, os, ray, signal, time\n"
        "from catdog.sweep import ray_internals\n"
        "os.environ.update(ray_internals.preload_variables('wave'))\n"
        "ray_internals.start_processes_in_own_sessions()\n"
        "ctypes.pythonapi.PyOS_getsig.restype = ctypes.c_void_p\n"
        "handler = ctypes.pythonapi.PyOS_getsig(signal.SIGTERM)\n"
        "options = dict(num_cpus=1, include_dashboard=False, object_store_memory=128 << 20, log_to_driver=False)\n"
        "with ray_internals.keep_sigterm_handler():\n"
        "    ray.init('local', **options)\n"
        "@ray.remote\n"
        "def describe():\n"
        "    import sys\n"
        "    from catdog.system.process import process_started\n"
        "    uptime = float(open('/proc/uptime').read().split()[0])\n"
        "    started = int(process_started(os.getpid())) / os.sysconf('SC_CLK_TCK')\n"
        "    return 'wave' in sys.modules, uptime - started > 5\n"
        "time.sleep(6)  # idle for longer than the second after which Ray ends a worker\n"
        "print(ray.get(describe.remote()))\n"
        "print(ctypes.pythonapi.PyOS_getsig(signal.SIGTERM) == handler)\n"
        "processes = [p for kind in ray._private.worker._global_node.all_processes.values() for p in kind]\n"
        "print(len(processes) > 2 and all(os.getsid(p.process.pid) == p.process.pid for p in processes))\n"
    )
    environment = os.environ | {"RAY_AUTH_MODE": "token", "PYTHONPATH": str(ROOT)}
    output = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment, timeout=120
    ).stdout
    return output.splitlines()[-3:]


def test_idle_workers_of_a_local_ray_preload_the_module_and_wait_for_work(facts: list[str]) -> None:
    assert facts[0] == "(True, True)"


def test_ray_does_not_keep_its_own_handler_of_sigterm(facts: list[str]) -> None:
    assert facts[1] == "True"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere Ray needs the driver's process group")
def test_rays_processes_are_in_no_process_group_of_the_driver(facts: list[str]) -> None:
    assert facts[2] == "True"


@pytest.mark.usefixtures("tune_environment")
def test_tune_passes_neither_credentials_nor_environment_to_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    assert any(name.startswith("AWS_") for name in class_cache.ENV_VARS_TO_PROPAGATE), "Ray names them no more"
    assert class_cache.DEFAULT_ENV_VARS, "Ray sets none any more"
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    ray_internals.trim_trial_environment()
    assert not any(name.startswith("AWS_") for name in class_cache.ENV_VARS_TO_PROPAGATE)
    assert not class_cache.DEFAULT_ENV_VARS


class Errors(tune.Callback):
    def __init__(self) -> None:
        self.seen: list[Exception] = []

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.seen.append(ray_internals.trial_error(trial))


@pytest.mark.usefixtures("local_ray")
def test_a_trials_error_is_the_one_its_code_raised(tmp_path: Path) -> None:
    def fail(config: dict[str, Any]) -> None:
        raise ValueError("as it was raised")

    errors = Errors()
    run = tune.RunConfig(storage_path=str(tmp_path), callbacks=[errors], verbose=0)
    tune.Tuner(fail, run_config=run).fit()
    assert [(type(error), str(error)) for error in errors.seen] == [(ValueError, "as it was raised")]


def test_ray_still_uses_the_names_that_have_no_public_api() -> None:
    assert KUBERAY_ENV == ray_internals.KUBERAY_VARIABLE
    assert str(ray_internals.BOOTSTRAP_CONFIG) in inspect.getsource(cluster_info)


def test_a_trial_without_an_error_lost_its_process() -> None:
    nothing = SimpleNamespace(pickled_error_file=None)
    assert str(ray_internals.trial_error(nothing)) == "the trial's process was lost"


@pytest.mark.usefixtures("local_ray")
def test_a_ray_without_a_dashboard_has_no_dashboard_url() -> None:
    assert ray_internals.dashboard_url() is None


def test_a_jobs_package_leaves_out_files_listed_in_rayignore(tmp_path: Path) -> None:
    (tmp_path / "code.py").write_text("print()\n")
    small = ray_internals.job_package_bytes(tmp_path)
    (tmp_path / "data.bin").write_bytes(os.urandom(100_000))
    assert ray_internals.job_package_bytes(tmp_path) > 100_000
    (tmp_path / ".rayignore").write_text("data.bin\n")
    assert ray_internals.job_package_bytes(tmp_path) < small + 1000


@pytest.mark.usefixtures("local_ray")
def test_a_placement_group_whose_owner_is_gone_is_freed_by_the_next_attempt() -> None:
    group = ray.util.placement_group([{"CPU": 1}])
    in_group = PlacementGroupSchedulingStrategy(group)
    ray.get(
        ray.remote(num_cpus=1, scheduling_strategy=in_group)(ray_internals.own_placement_group).remote(
            "launch/baseline seed 0"
        )
    )
    with ray_internals.freeing_placement_group("launch/attention seed 0"):
        assert ray.util.placement_group_table(group)["state"] == "CREATED", "another trial's"
    with ray_internals.freeing_placement_group("launch/baseline seed 0"):
        assert ray.util.placement_group_table(group)["state"] == "REMOVED"
