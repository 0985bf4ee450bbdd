"""The private parts of Ray that a sweep needs, each with its reason; nothing else in catdog uses any.

tests/sweep/test_ray_internals.py has a test for each, to show what an upgrade of Ray breaks.
"""

import ctypes
import logging
import signal
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray.experimental import internal_kv
from ray.util.placement_group import PlacementGroup, get_current_placement_group, remove_placement_group

if TYPE_CHECKING:
    from ray.tune.experiment import Trial

logger = logging.getLogger(__name__)

_FLAGS = "catdog"
_GROUPS = "catdog-groups"
HEAD_RESOURCE = "node:__internal_head__"
"""Only the head node has it; no public function identifies the head."""

KUBERAY_VARIABLE = "RAY_USAGE_STATS_KUBERAY_IN_USE"
"""KubeRay sets it to 1 in every pod; nothing else reveals that its autoscaler is at work."""

BOOTSTRAP_CONFIG = Path("~/ray_bootstrap_config.yaml")
"""Where `ray up` leaves its configuration on the head; Ray does not tell a driver which nodes may be started."""


def preload_variables(module: str) -> dict[str, str]:
    """Return the variables that make a local Ray's workers import `module` before they have any work.

    Ray kills workers that were idle for a second; packing images takes longer, and the imports would be lost.
    """
    return {"RAY_preload_python_modules": module, "RAY_idle_worker_killing_time_threshold_ms": "600000"}


def start_processes_in_own_sessions() -> None:
    """Keep signals to the driver's process group, such as a batch system's, from the processes that `ray.init` starts.

    They would end beside the driver, which then waits for them in vain. On Linux the kernel ends them after the driver;
    elsewhere Ray needs the common group for that.
    """
    from ray._private import services

    class Popen(services.ConsolePopen):  # type: ignore[misc]
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options | {"start_new_session": True})

    if sys.platform == "linux" and services.ConsolePopen.__module__ == services.__name__:
        services.ConsolePopen = Popen


@contextmanager
def keep_sigterm_handler() -> Iterator[None]:
    """Put the process's handler of SIGTERM back after the block, in which Ray connects.

    Ray's C++ code replaces it, whichever thread connects, by one that prints a stack trace first.
    """
    python = ctypes.pythonapi
    python.PyOS_getsig.restype = ctypes.c_void_p
    python.PyOS_setsig.argtypes = (ctypes.c_int, ctypes.c_void_p)
    handler = python.PyOS_getsig(signal.SIGTERM)
    try:
        yield
    finally:
        python.PyOS_setsig(signal.SIGTERM, handler)


def trim_trial_environment() -> None:
    """Keep Tune from giving trials a runtime environment.

    It would pass them the driver's credentials, which Ray logs in plain text; and a trial with even one variable could
    not reuse the workers that are already up.
    """
    from ray.tune.execution import class_cache

    credentials = {name for name in class_cache.ENV_VARS_TO_PROPAGATE if name.startswith("AWS_")}
    class_cache.ENV_VARS_TO_PROPAGATE -= credentials
    class_cache.DEFAULT_ENV_VARS.clear()


def trial_error(trial: "Trial") -> Exception:
    """Return the error that ended the trial's last attempt: the original one if the trial's own code raised it.

    Tune tells callbacks that there was an error but not which; it has just written it to a file.
    """
    try:
        error: Exception = ray.cloudpickle.loads(Path(trial.pickled_error_file).read_bytes())
    except (OSError, TypeError):
        return RuntimeError("the trial's process was lost")
    cause: Exception | None = getattr(error, "cause", None)
    return cause or error


def dashboard_url() -> str | None:
    """Return HOST:PORT of the dashboard; None if there is none. `ray.init` tells only the process that started Ray."""
    from ray._private.worker import get_dashboard_url

    return get_dashboard_url() or None


def job_package_bytes(folder: Path) -> int:
    """Return how many bytes `ray job submit --working-dir` would upload, packed by Ray's own code."""
    from ray._private.runtime_env.packaging import create_package

    with tempfile.TemporaryDirectory() as scratch:
        package = Path(scratch) / "working_dir.zip"
        create_package(str(folder), package, include_gitignore=True, logger=logger)
        return package.stat().st_size


def draining_nodes() -> set[str]:
    """Return the ids of the nodes that are about to be reclaimed; no public function tells a trial."""
    return set(ray._private.state.state.get_draining_nodes())


def set_flag(launch: str, name: str) -> None:
    """Set a flag that every process of the cluster sees at once; Ray has no public way without an actor."""
    internal_kv._internal_kv_put(f"{launch}/{name}", "", namespace=_FLAGS)


def clear_flag(launch: str, name: str) -> None:
    """Clear a flag."""
    internal_kv._internal_kv_del(f"{launch}/{name}", namespace=_FLAGS)


def flags(launch: str) -> set[str]:
    """Return the names of the flags that are set."""
    keys = internal_kv._internal_kv_list(f"{launch}/", namespace=_FLAGS)
    return {key.decode().removeprefix(f"{launch}/") for key in keys}


@contextmanager
def freeing_placement_group(owner: str) -> Iterator[None]:
    """Free what `own_placement_group` says the owner has, before the block and after it.

    Ray Train's controller frees its workers' resources itself, unless it is killed: then Ray frees them when the job
    ends, and Train's own cleaner sooner only where there is a dashboard. The next attempt would wait for them for ever.
    """
    _free_placement_group(owner)
    try:
        yield
    finally:
        _free_placement_group(owner)


def own_placement_group(owner: str) -> None:
    """Say that the owner has the placement group that this worker is in."""
    group = get_current_placement_group()
    if group is not None:
        internal_kv._internal_kv_put(owner, group.id.hex(), namespace=_GROUPS)


def _free_placement_group(owner: str) -> None:
    key = internal_kv._internal_kv_get(owner, namespace=_GROUPS)
    if key is not None:
        remove_placement_group(PlacementGroup(ray.PlacementGroupID.from_hex(key.decode())))
        internal_kv._internal_kv_del(owner, namespace=_GROUPS)


def head_nodes(nodes: Iterable[dict[str, float]]) -> list[dict[str, float]]:
    """Return the head's resources out of those of all nodes."""
    return [node for node in nodes if HEAD_RESOURCE in node]
