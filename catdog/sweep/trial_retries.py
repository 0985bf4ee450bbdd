"""How trials that ended early are retried, and the record of those that are not.

A lost worker, a lost node or an unavailable store ends a trial for now: Tune notices and retries it on another worker
(`max_failures` in `sweep.run`), where it resumes from its checkpoint. `LostTrials` retries those that Tune itself gave
up on. Errors that would recur (a bug in a head, a wrong shape, a mistake in data or weights) are recorded under
failures/ instead; after those that spoil the process (out of memory), the process is replaced first. An error of the
GPU or of the node ends an attempt; `cards` decides when so many failed that the trial is to blame, and it is recorded.
"""

import logging
import os
import platform
import traceback
from collections import Counter

from catdog.errors import NotFoundError, StoreError, first_line
from catdog.formatting import now
from catdog.runs.manifest import PlannedTrial, TrialId
from catdog.runs.results import Failure
from catdog.storage import Store
from catdog.storage.serialization import MOST_LETTERS, to_json
from catdog.trial.context import RunContext

logger = logging.getLogger(__name__)


class LostTrials:
    """The trials that Tune gave up on in this launch, retried until they have failed more than `max_retries` times."""

    def __init__(self, context: RunContext, launch: str, max_retries: int) -> None:
        self._context, self._launch, self._max_retries = context, launch, max_retries
        self._failures: Counter[TrialId] = Counter()
        self._waiting: list[TrialId] = []

    def take(self) -> list[TrialId]:
        """Return the trials to retry, and forget them."""
        waiting, self._waiting = self._waiting, []
        return waiting

    def add(self, trial_id: TrialId, failures: int) -> bool:
        """Record that Tune gave up on a trial after so many failures; returns whether it will be retried.

        Tune gives up at once on a trial whose worker is lost just as it switches from one trial to the next.
        """
        self._failures[trial_id] += failures
        if self._failures[trial_id] <= self._max_retries:
            self._waiting.append(trial_id)
            return True
        return False

    def record(self, trial_id: TrialId, error: Exception, attempts: int | None = None) -> None:
        """Store the failure of a trial that is not retried any more; an attempt that begins later ends at once."""
        store, (label, seed) = self._context.location.open(), trial_id
        trial = PlannedTrial(self._context.variant(label), seed)
        attempts = self._failures[trial_id] if attempts is None else attempts
        failure = describe_failure(self._context, trial, error, self._launch, attempts)
        try:
            if failed_attempts(store, self._context, trial, self._launch) >= 0:
                store.put(self._context.trial_paths(trial.variant, seed).failure, to_json(failure))
        except StoreError as refusal:
            logger.error("the failure of %s could not be recorded: %s", trial.name, refusal)


def failed_attempts(store: Store, context: RunContext, trial: PlannedTrial, launch: str) -> int:
    """Return how often the trial failed before; -1 if it failed for good in this launch."""
    try:
        failure = Failure.from_json(store.get(context.trial_paths(trial.variant, trial.seed).failure))
    except (NotFoundError, ValueError):
        return 0
    return -1 if failure.launch == launch else failure.attempts


def describe_failure(context: RunContext, trial: PlannedTrial, error: Exception, launch: str, attempts: int) -> Failure:
    """Return the record of a trial that ended with this error, here and now."""
    return Failure(
        variant=trial.variant.label,
        seed=trial.seed,
        config_hash=context.identity.trial_hash(trial.variant, trial.seed),
        error=type(error).__name__,
        message=first_line(error),
        traceback="".join(traceback.format_exception(error))[-MOST_LETTERS:],
        attempts=attempts,
        launch=launch,
        log=f"{platform.node()}:{os.path.realpath('/proc/self/fd/2')}",
        failed_at=now(),
    )
