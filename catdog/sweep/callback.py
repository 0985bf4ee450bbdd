"""Tune callbacks: progress, cost, abandoned trials, messages, stopping."""

from collections.abc import Iterator
from typing import Any

from ray import tune
from ray.tune.experiment import Trial

from catdog.errors import DeviceError, StoreError, StoreRefusedError, UserError, first_line
from catdog.runs.manifest import TrialId
from catdog.runs.results import Failure
from catdog.sweep.cards import CardWatch
from catdog.sweep.lease import RunLease
from catdog.sweep.notifications import Notifier
from catdog.sweep.progress import SweepProgress
from catdog.sweep.ray_internals import trial_error
from catdog.sweep.trial_retries import LostTrials
from catdog.sweep.usage_meter import Meter
from catdog.trial.context import RunContext


class SweepStopper(tune.Stopper):  # type: ignore[misc]  # Ray has no types
    """Stops the whole sweep as soon as `reason` is set."""

    def __init__(self) -> None:
        self.reason: UserError | None = None

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Return False: a single trial is never stopped."""
        return False

    def stop_all(self) -> bool:
        """Return whether there is a reason to stop."""
        return self.reason is not None


class SweepCallback(tune.Callback):  # type: ignore[misc]
    """Forwards Tune's trial events to `progress`, `meter`, `lost` and `cards`, and the first failure to `notifier`."""

    def __init__(
        self,
        progress: SweepProgress,
        meter: Meter,
        context: RunContext,
        lease: RunLease,
        stopper: SweepStopper,
        lost: LostTrials,
        cards: CardWatch,
        notifier: Notifier,
    ) -> None:
        self._progress, self._meter, self._notifier = progress, meter, notifier
        self._context, self._lease, self._stopper = context, lease, stopper
        self._lost, self._cards = lost, cards
        self._store = context.location.open()

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its callbacks for a restore that never happens

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Record that a worker took the trial."""
        self._stop_if_taken_over()
        self._progress.started(*_trial_id(trial))
        self._meter.started(*_trial_id(trial))

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """Record an epoch; the final result, which has a status, is left to `on_trial_complete`."""
        self._stop_if_taken_over()
        if "epoch" in result and "status" not in result:
            values = (result[name] for name in ("epoch", "epochs", "val_accuracy", "collapse"))
            self._progress.epoch(*_trial_id(trial), *values)

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Record that Tune will retry the trial."""
        error = trial_error(trial)
        self._stop_if_refused(error)
        self._blame_card(_trial_id(trial), error)
        self._progress.interrupted(*_trial_id(trial), first_line(error))
        self._meter.ended(*_trial_id(trial))

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Record how the trial ended."""
        result = trial.last_result
        self._meter.ended(*_trial_id(trial))
        if result.get("card") is not None:
            self._cards.finished(result["card"])
        if result.get("status") == "complete":
            self._progress.finished(
                *_trial_id(trial), result["val_accuracy"], result["test_accuracy"], result["seconds"]
            )
        elif result.get("status") == "diverged":
            self._progress.diverged(*_trial_id(trial), result["seconds"])
        elif result.get("status") == "not started":
            self._progress.left_out(*_trial_id(trial))
        else:
            self._failed(_trial_id(trial))

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Queue a trial that Tune gave up on for a retry, or count it as failed."""
        error, trial_id = trial_error(trial), _trial_id(trial)
        self._stop_if_refused(error)
        self._blame_card(trial_id, error)
        self._meter.ended(*trial_id)
        if self._lost.add(trial_id, trial.num_failures):
            self._progress.interrupted(*trial_id, first_line(error))
        else:
            self._lost.record(trial_id, error)
            self._failed(trial_id)

    def _failed(self, trial_id: TrialId) -> None:
        """Count a trial whose failure is recorded; the first one is told."""
        label, seed = trial_id
        variant = self._context.variant(label)
        self._progress.failed(label, seed)

        def details() -> Iterator[str]:
            failure = Failure.from_json(self._store.get(self._context.trial_paths(variant, seed).failure))
            yield f"{failure.error}: {failure.message} (log: {failure.log})"
            yield self._progress.line()

        self._notifier.send("failure", f"{variant.title} seed {seed} failed, the first one", details)

    def _blame_card(self, trial_id: TrialId, error: Exception) -> None:
        """Count an error of a GPU or a node against it, or the trial in the end; stop the sweep if no GPU works."""
        if isinstance(error, DeviceError):
            if attempts := self._cards.failed(trial_id, error):
                self._lost.record(trial_id, error, attempts)
            self._stopper.reason = self._stopper.reason or self._cards.nothing_works

    def _stop_if_taken_over(self) -> None:
        try:
            self._lease.verify()
        except UserError as mistake:
            self._stopper.reason = mistake

    def _stop_if_refused(self, error: Exception) -> None:
        """Stop the sweep if the store refuses writes (a full disk): every trial would fail the same way."""
        if not isinstance(error, StoreRefusedError):
            return
        if not self._store.is_shared:
            self._stopper.reason = error
            return
        try:
            self._store.check()
        except StoreRefusedError as refusal:
            self._stopper.reason = refusal
        except StoreError:
            pass  # unavailable: trials retry


def _trial_id(trial: Trial) -> TrialId:
    return trial.config["trial"]["variant"], trial.config["trial"]["seed"]
