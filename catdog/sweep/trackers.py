"""Experiment trackers, through Ray's own callbacks: each trial becomes a run in MLflow or W&B.

Address and credentials are the tracker's to configure (MLFLOW_TRACKING_URI, WANDB_API_KEY, ...). A tracker is a
convenience copy: if it fails, the sweep continues without it.
"""

import importlib.util
import logging
from collections.abc import Callable
from typing import Any

from ray import tune

from catdog.config.sweep_options import Tracker
from catdog.errors import UserError, first_line
from catdog.formatting import ReportProgress

logger = logging.getLogger(__name__)


def open_tracker(name: Tracker, run: str, report_progress: ReportProgress) -> list[tune.Callback]:
    """Return the tracker's callback, which files the trials under the run's name; no callback for `none`.

    Raises:
        UserError: its package is missing.
    """
    if name == "none":
        return []
    if importlib.util.find_spec(name) is None:
        raise UserError(f"--tracker {name}: its package is missing: pip install {name}")
    if name == "mlflow":
        from ray.air.integrations.mlflow import MLflowLoggerCallback

        return [Guarded(MLflowLoggerCallback(experiment_name=run), name, report_progress)]
    from ray.air.integrations.wandb import WandbLoggerCallback

    return [Guarded(WandbLoggerCallback(project=run), name, report_progress)]


class Guarded(tune.Callback):  # type: ignore[misc]  # Ray has no types
    """Forwards Tune's events until the tracker fails."""

    def __init__(self, tracker: tune.Callback, name: str, report_progress: ReportProgress) -> None:
        self._tracker, self._name, self._report_progress = tracker, name, report_progress
        self._failed = False

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its callbacks for a restore that never happens

    def setup(self, *arguments: Any, **info: Any) -> None:
        """Connect the tracker; raises `UserError` if it fails."""
        try:
            self._tracker.setup(*arguments, **info)
        except Exception as error:
            raise UserError(f"--tracker {self._name}: {first_line(error)}") from error

    def on_trial_start(self, *arguments: Any, **info: Any) -> None:
        """Forward a trial's start."""
        self._pass_on(self._tracker.on_trial_start, arguments, info)

    def on_trial_result(self, *arguments: Any, **info: Any) -> None:
        """Forward a trial's result."""
        self._pass_on(self._tracker.on_trial_result, arguments, info)

    def on_trial_complete(self, *arguments: Any, **info: Any) -> None:
        """Forward a trial's completion."""
        self._pass_on(self._tracker.on_trial_complete, arguments, info)

    def on_trial_error(self, *arguments: Any, **info: Any) -> None:
        """Forward a trial's error."""
        self._pass_on(self._tracker.on_trial_error, arguments, info)

    def on_experiment_end(self, *arguments: Any, **info: Any) -> None:
        """Forward the end of the sweep."""
        self._pass_on(self._tracker.on_experiment_end, arguments, info)

    def _pass_on(self, hook: Callable[..., None], arguments: tuple[Any, ...], info: dict[str, Any]) -> None:
        if self._failed:
            return
        try:
            hook(*arguments, **info)
        except Exception as error:
            self._failed = True
            self._report_progress(f"--tracker {self._name} failed; the sweep continues without it: {first_line(error)}")
            logger.warning("the tracker failed", exc_info=error)
