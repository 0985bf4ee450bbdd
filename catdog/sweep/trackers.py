"""Experiment trackers, through Ray's own callbacks: each trial becomes a run in MLflow or W&B.

A trial's run has the variant's whole recipe as parameters, and each epoch's losses and accuracies. Address and
credentials are the tracker's to configure (MLFLOW_TRACKING_URI, WANDB_API_KEY, ...). A tracker is a convenience copy:
if it fails, the sweep continues without it.
"""

import dataclasses
import functools
import importlib.util
import logging
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

from ray import tune
from ray.tune.experiment import Trial

from catdog.config.sweep_options import Tracker
from catdog.errors import UserError, first_line
from catdog.formatting import ReportProgress, printable
from catdog.runs.provenance import code_tree
from catdog.trial.context import RunContext

logger = logging.getLogger(__name__)
PATIENCE = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "15", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3"}
"""Of MLflow where the user sets none: no trial starts while it waits, by default twenty minutes for a dead server."""


def require_tracker(name: Tracker) -> None:
    """Raise `UserError` if the tracker's package is missing."""
    if name != "none" and importlib.util.find_spec(name) is None:
        raise UserError(f"--tracker {name}: its package is missing: pip install {name}")


def open_tracker(name: Tracker, context: RunContext, report_progress: ReportProgress) -> list[tune.Callback]:
    """Return the tracker's callback, which files the trials under the run's name; no callback for `none`."""
    if name == "none":
        return []
    settings = functools.partial(trial_settings, context, code_tree())
    if name == "mlflow":
        for variable, value in PATIENCE.items():
            os.environ.setdefault(variable, value)
        from ray.air.integrations.mlflow import MLflowLoggerCallback

        tracker = MLflowLoggerCallback(experiment_name=context.run)
        _log_in_one_request(tracker.mlflow_util)
        return [Guarded(tracker, name, settings, report_progress)]
    from ray.air.integrations.wandb import WandbLoggerCallback

    return [Guarded(WandbLoggerCallback(project=context.run), name, settings, report_progress)]


def _log_in_one_request(mlflow_util: Any) -> None:
    """Let Ray's MLflow client send a trial's parameters, or an epoch's metrics, together.

    Its own sends one after the other: half a second for a trial, a third for an epoch (SQLite), while no trial starts.
    """
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param

    def log_params(params_to_log: Mapping[str, Any], run_id: str) -> None:
        params = [Param(name, printable(str(value))) for name, value in params_to_log.items()]
        MlflowClient().log_batch(run_id, params=params)

    def log_metrics(step: int, metrics_to_log: Mapping[str, Any], run_id: str) -> None:
        numbers = {name: one for name, one in metrics_to_log.items() if isinstance(one, int | float)}
        at = int(1000 * time.time())
        MlflowClient().log_batch(run_id, [Metric(name, float(one), at, step) for name, one in numbers.items()])

    mlflow_util.log_params, mlflow_util.log_metrics = log_params, log_metrics


def trial_settings(context: RunContext, code: str | None, label: str, seed: int) -> dict[str, Any]:
    """Return all that a trial's results depend on: its variant and seed, the recipe, the data, and the code's hash."""
    variant = context.variant(label)
    identity = context.identity.of(variant)
    own = {"variant": label, "seed": seed, "fingerprint": identity.fingerprint, "code": code}
    return own | dataclasses.asdict(identity.recipe) | dict(variant.arguments)


class Guarded(tune.Callback):  # type: ignore[misc]  # Ray has no types
    """Forwards Tune's events until the tracker fails; the tracker sees a trial's settings as its configuration."""

    def __init__(
        self,
        tracker: tune.Callback,
        name: str,
        settings: Callable[[str, int], Mapping[str, Any]],
        report_progress: ReportProgress,
    ) -> None:
        self._tracker, self._name, self._settings, self._report_progress = tracker, name, settings, report_progress
        self._failed = False

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its callbacks for a restore that never happens

    def setup(self, *arguments: Any, **info: Any) -> None:
        """Connect the tracker; raises `UserError` if it fails."""
        try:
            self._tracker.setup(*arguments, **info)
        except Exception as error:
            raise UserError(f"--tracker {self._name}: {first_line(error)}") from error

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Forward a trial's start."""
        config = trial.config
        trial.config = dict(self._settings(config["trial"]["variant"], config["trial"]["seed"]))
        try:
            self._pass_on(self._tracker.on_trial_start, (iteration, trials, trial), info)
        finally:
            trial.config = config

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
