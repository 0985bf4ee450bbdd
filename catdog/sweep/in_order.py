"""Tune's search and scheduling of a list of trials, at the same cost for each however many there are."""

from collections.abc import Sequence
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import BasicVariantGenerator

from catdog.runs.manifest import TrialId


def listed(trial_ids: Sequence[TrialId], most_at_once: int = 0) -> BasicVariantGenerator:
    """Return the search that tries these trials in turn, no more at once than that if it is not 0.

    A grid search would copy the whole grid for each of them.
    """
    points = [{"trial": {"variant": label, "seed": seed}} for label, seed in trial_ids]
    return BasicVariantGenerator(points, max_concurrent=most_at_once)


class InOrder(FIFOScheduler):  # type: ignore[misc]  # Ray has no types
    """Starts trials in order. Tune's own looks through all that have ended, four times for each trial."""

    def __init__(self) -> None:
        super().__init__()
        self._added: dict[str, int] = {}

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        """Note the trial's place."""
        self._added.setdefault(trial.trial_id, len(self._added))

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """Return the first pending trial, else the first paused one."""
        waiting = [one for one in tune_controller.get_live_trials() if one.status in (Trial.PENDING, Trial.PAUSED)]
        return min(waiting, key=lambda one: (one.status == Trial.PAUSED, self._added[one.trial_id]), default=None)
