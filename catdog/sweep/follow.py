"""What the driver does while Tune runs trials: follows them, records those that are given up, ends what must end."""

import logging
from collections import Counter
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.experiment import Trial

from catdog.claim import Claim
from catdog.context import RunContext
from catdog.errors import StoreError, StoreRefusedError, UserError, first_line
from catdog.progress import SweepProgress
from catdog.records import PlannedTrial, to_json
from catdog.spending import Meter
from catdog.sweep.trainable import describe_failure, failed_attempts
from catdog.variants import parse_variant

logger = logging.getLogger(__name__)

Cell = tuple[str, int]
"""A trial: label of its variant, seed."""


class Ending(tune.Stopper):
    """Ends the whole sweep as soon as there is a reason."""

    def __init__(self) -> None:
        self.reason: UserError | None = None

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self.reason is not None


class Follow(tune.Callback):
    """Tells progress and meter what Tune's trials do, and records those that Tune gave up."""

    def __init__(
        self,
        progress: SweepProgress,
        meter: Meter,
        context: RunContext,
        claim: Claim,
        ending: Ending,
        max_retries: int,
    ) -> None:
        self._progress, self._meter = progress, meter
        self._context, self._claim, self._ending = context, claim, ending
        self._max_retries = max_retries
        self._failures: Counter[Cell] = Counter()
        self._store = context.location.open()
        self.lost: list[Cell] = []
        """Trials that Tune gave up although they may be tried again."""

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its callbacks for a restore that never happens

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._end_if_taken_over()
        self._progress.started(*_cell(trial))
        self._meter.started(*_cell(trial))

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        self._end_if_taken_over()
        if "epoch" in result and "status" not in result:
            epochs = self._context.identity.recipe.epochs
            self._progress.epoch(*_cell(trial), result["epoch"], epochs, result["val_accuracy"], result["collapse"])

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        error = _cause(trial)
        self._end_if_refused(error)
        self._progress.interrupted(*_cell(trial), first_line(error))
        self._meter.ended(*_cell(trial))

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        result = trial.last_result
        self._meter.ended(*_cell(trial))
        if result.get("status") == "complete":
            self._progress.finished(*_cell(trial), result["val_accuracy"], result["test_accuracy"], result["seconds"])
        elif result.get("status") == "diverged":
            self._progress.diverged(*_cell(trial), result["seconds"])
        elif result.get("status") == "not started":
            self._progress.left_out(*_cell(trial))
        else:
            self._progress.failed(*_cell(trial))

    def _end_if_taken_over(self) -> None:
        try:
            self._claim.verify()
        except UserError as mistake:
            self._ending.reason = mistake

    def _end_if_refused(self, error: Exception) -> None:
        """End the sweep where the store refuses to be written (a full disk): no trial would fare better."""
        if isinstance(error, StoreRefusedError):
            try:
                self._store.check()
            except StoreRefusedError as refusal:
                self._ending.reason = refusal
            except StoreError:
                pass  # it is away, which trials wait for
            if self._context.location.is_local:
                self._ending.reason = error

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        error, cell = _cause(trial), _cell(trial)
        self._end_if_refused(error)
        self._meter.ended(*cell)
        self._failures[cell] += trial.num_failures
        if self._failures[cell] <= self._max_retries:
            # Tune gives up a trial at once whose worker is lost just when it changes from one trial to the next.
            self.lost.append(cell)
            self._progress.interrupted(*cell, first_line(error))
            return
        self._progress.failed(*cell)
        planned = PlannedTrial(parse_variant(cell[0], self._context.identity.recipe.variant_defaults()), cell[1])
        failure = describe_failure(self._context, planned, error, self._claim.launch, self._failures[cell])
        where = self._context.trial_paths(planned.variant, planned.seed)
        try:
            if failed_attempts(self._store, self._context, planned, self._claim.launch) >= 0:
                self._store.put(where.failure, to_json(failure))
        except StoreError as refusal:
            logger.error("the failure of %s could not be recorded: %s", planned.name, refusal)


def _cell(trial: Trial) -> Cell:
    return trial.config["trial"]["variant"], trial.config["trial"]["seed"]


def _cause(trial: Trial) -> Exception:
    """Return what ended the trial's last attempt, as it was raised where that was in its own code."""
    try:
        error = ray.cloudpickle.loads(Path(trial.pickled_error_file).read_bytes())  # Tune has just written it
    except (OSError, TypeError):
        return RuntimeError("the trial's process was lost")
    return getattr(error, "cause", None) or error
