"""Ray Tune runs a list of trials in turn, at the same cost for each however many there are."""

from collections.abc import Callable, Sequence
from typing import Any

from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import BasicVariantGenerator

from catdog.config.sweep_options import SweepConfig
from catdog.runs.manifest import TrialId
from catdog.sweep.callback import SweepStopper
from catdog.sweep.ray_internals import trim_trial_environment
from catdog.system.scratch import scratch_folder


def run_in_turn(
    config: SweepConfig,
    trainable: Callable[[dict[str, Any]], None],
    trial_ids: Sequence[TrialId],
    slots: int,
    callbacks: list[tune.Callback],
    stopper: SweepStopper,
) -> None:
    """Let Tune run these trials; its own files go to a scratch folder: the store is the single source of truth."""
    trim_trial_environment()
    with scratch_folder("catdog-tune-") as scratch:
        tuner = tune.Tuner(
            trainable,
            param_space={"trial": dict.fromkeys(("variant", "seed"))},
            tune_config=tune.TuneConfig(
                # Trials of several workers hold no resources of their own that would limit their number.
                search_alg=listed(trial_ids, most_at_once=slots if config.workers > 1 else 0),
                num_samples=len(trial_ids),
                scheduler=InOrder(),
                reuse_actors=True,
                trial_name_creator=_trial_name,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(
                name=config.run_name,
                storage_path=str(scratch),
                failure_config=tune.FailureConfig(max_failures=config.max_retries),
                callbacks=callbacks,
                stop=stopper,
                verbose=0,
            ),
        )
        tuner.fit()


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


def _trial_name(trial: Trial) -> str:
    return f"{trial.config['trial']['variant']} seed {trial.config['trial']['seed']}"
