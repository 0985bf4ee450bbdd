"""The private parts of Ray that a sweep needs, each with its reason: nothing else in catdog uses any.

tests/sweep/test_ray_internals.py has a test for each, so that an upgrade of Ray tells what broke.
"""

import logging
import tempfile
from collections.abc import Iterable
from pathlib import Path

import ray
from ray._private.worker import get_dashboard_url
from ray.tune.execution import class_cache
from ray.tune.experiment import Trial

logger = logging.getLogger(__name__)

HEAD_RESOURCE = "node:__internal_head__"
"""Only the head node has it: no public function says which node that is."""

KUBERAY_VARIABLE = "RAY_USAGE_STATS_KUBERAY_IN_USE"
"""KubeRay sets it to 1 in every pod: nothing else says that its autoscaler is at work."""

BOOTSTRAP_CONFIG = Path("~/ray_bootstrap_config.yaml")
"""Where `ray up` leaves its configuration on the head: Ray does not tell a driver which nodes may be started."""


def preload_variables(module: str) -> dict[str, str]:
    """Return the variables with which a local Ray's workers import `module` before they have anything to do.

    Ray ends workers that were idle for a second; packing images takes longer, and the imports would be lost.
    """
    return {"RAY_preload_python_modules": module, "RAY_idle_worker_killing_time_threshold_ms": "600000"}


def trim_trial_environment() -> None:
    """Keep Tune from giving trials a runtime environment.

    It would hand them the driver's credentials, which Ray logs in plain text; and any variable at all, even one, would
    keep a trial from the workers that are up already.
    """
    credentials = {name for name in class_cache.ENV_VARS_TO_PROPAGATE if name.startswith("AWS_")}
    class_cache.ENV_VARS_TO_PROPAGATE -= credentials
    class_cache.DEFAULT_ENV_VARS.clear()


def trial_error(trial: Trial) -> Exception:
    """Return what ended the trial's last attempt, as it was raised where that was in its own code.

    Tune tells callbacks of an error, but not which: it has just written it into a file.
    """
    try:
        error: Exception = ray.cloudpickle.loads(Path(trial.pickled_error_file).read_bytes())
    except (OSError, TypeError):
        return RuntimeError("the trial's process was lost")
    cause: Exception | None = getattr(error, "cause", None)
    return cause or error


def dashboard_url() -> str | None:
    """Return HOST:PORT of the dashboard; None where there is none. `ray.init` tells it to whoever started Ray only."""
    return get_dashboard_url() or None


def job_package_bytes(folder: Path) -> int:
    """Return how much `ray job submit --working-dir` would upload, packed by Ray's own code."""
    from ray._private.runtime_env.packaging import create_package

    with tempfile.TemporaryDirectory() as scratch:
        package = Path(scratch) / "working_dir.zip"
        create_package(str(folder), package, include_gitignore=True, logger=logger)
        return package.stat().st_size


def head_nodes(nodes: Iterable[dict[str, float]]) -> list[dict[str, float]]:
    """Return the resources of the head among those of nodes."""
    return [node for node in nodes if HEAD_RESOURCE in node]
