"""What the driver knows of GPUs and nodes: which failed trials, which are held back, and when a trial is to blame.

A card that is broken, or that failed two attempts since a trial last finished on it, is held back until the sweep ends:
Ray cannot be told to avoid a card, so small actors occupy it. A trial counts as failed once three of its attempts
failed, on more than one card if there are several. A node where trials meet mistakes that were found nowhere before (a
full cache, weights that it cannot fetch) is like a card, of all its GPUs, or of its cores if trials use no GPU.
"""

import contextlib
import logging
import math
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from catdog.errors import Card, DeviceError, StoreError, UserError, first_line
from catdog.runs.cost import Unit
from catdog.runs.manifest import TrialId
from catdog.sweep.device_errors import is_out_of_memory, this_card

logger = logging.getLogger(__name__)

FAULTS = 2
ATTEMPTS = 3
PATIENCE_SECONDS = 30.0
"""How long other cards of the node are kept from trials while the one to hold back is still in use, and then not.

The process that is to hold one takes some of it to start: ten seconds on a busy node.
"""

T = TypeVar("T")


class CardWatch:
    """The cards that failed in this sweep. Effects are handed in.

    `count_units` returns the GPUs (or cores) of each node that is up, `most_gpus` how many there may be; `hold`
    occupies a card and returns what frees it again. A trial needs `needed` of them: a card for each worker.
    """

    def __init__(
        self,
        count_units: Callable[[], Mapping[str, float]],
        most_gpus: float,
        hold: Callable[[Card], Callable[[], None]],
        needed: float = 1,
    ) -> None:
        self._count_units, self._most_gpus, self._hold, self._needed = count_units, most_gpus, hold, needed
        self._broken: dict[Card, DeviceError] = {}
        self._faults: defaultdict[Card, list[TrialId]] = defaultdict(list)
        self._attempts: defaultdict[TrialId, list[Card]] = defaultdict(list)
        self._held: dict[Card, Callable[[], None]] = {}

    def failed(self, trial_id: TrialId, error: DeviceError) -> int:
        """Record an attempt that a card failed; return the trial's attempts if it is to blame after all, else 0."""
        assert error.card is not None, "an error of a worker names its card"
        attempts = self._attempts[trial_id]
        if error.fault == "broken":
            self._broken[error.card] = error
        else:
            attempts.append(error.card)
        if error.fault == "failed":
            self._faults[error.card].append(trial_id)
        is_last = self._left_without(error.card) < self._needed
        to_blame = len(attempts) >= ATTEMPTS and (len(set(attempts)) > 1 or is_last)
        if to_blame:
            for card, trial_ids in self._faults.items():
                self._faults[card] = [other for other in trial_ids if other != trial_id]
        self._hold_back()
        return len(attempts) if to_blame else 0

    def finished(self, card: Card) -> None:
        """Record that a trial finished on a card, and so on its node."""
        for place in (card, card._replace(gpu="")):
            if self._faults.pop(place, None):
                self._hold_back()

    def on_a_working_card(self, attempt: Callable[[], T]) -> T:
        """Return what the task in `attempt`, a check before any trial, returns on a worker whose card works.

        Raises:
            UserError, StoreError: the task's own; or no card works, or its worker was lost.
        """
        while True:
            try:
                return attempt()
            except ray.exceptions.RayTaskError as error:
                if isinstance(error.cause, UserError | StoreError):
                    raise type(error.cause)(str(error.cause)) from None
                if not isinstance(error.cause, DeviceError):
                    if is_out_of_memory(error.cause):
                        raise _lost_worker(error.cause) from None
                    raise
                self.failed(("", 0), error.cause)
                if error.cause.fault != "broken":
                    raise UserError(f"{error.cause}: run the same command again, or take the card out") from None
                if (reason := self.nothing_works) is not None:
                    raise reason from None
            except ray.exceptions.RayError as error:
                raise _lost_worker(error) from None
            time.sleep(1)

    @property
    def nothing_works(self) -> UserError | None:
        """Return the error that ends the sweep if every card is broken, or too many for a trial."""
        nodes = self._count_units()
        broken = [error for card, error in self._broken.items() if card.node_id in nodes]
        if not broken or max(self._most_gpus, sum(nodes.values())) - len(broken) > self._needed - 1:
            return None
        others = f" (and {len(broken) - 1} more)" * (len(broken) > 1)
        if self._needed > 1:
            remedy = f"fewer GPUs work than a trial needs: repair it, or give less than --gpus-per-trial {self._needed}"
        else:
            remedy = "no GPU works: repair it, or train on the CPU with --gpus-per-trial 0"
        return UserError(f"{broken[0]}{others}: {remedy}")

    def release(self) -> None:
        """Free all cards."""
        for free in self._held.values():
            free()
        self._held.clear()

    def _left_without(self, card: Card) -> float:
        """Return how many units of nodes that are up would not be held back if the card was."""
        held = {*self._held, card}
        whole = {one.node_id for one in held if not one.gpu}
        nodes = {node_id: units for node_id, units in self._count_units().items() if node_id not in whole}
        return sum(nodes.values()) - sum(one.node_id in nodes for one in held)

    def _hold_back(self) -> None:
        """Hold back the cards that deserve it now, and no others; those that a trial needs only if they are broken."""
        deserving = [*self._broken, *(card for card, faults in self._faults.items() if len(faults) >= FAULTS)]
        for card in self._held.keys() - set(deserving):
            self._held.pop(card)()
        for card in deserving:
            if card not in self._held and (card in self._broken or self._left_without(card) >= self._needed):
                self._held[card] = self._hold(card)


def _lost_worker(error: Exception) -> UserError:
    return UserError(
        f"the worker of a check was lost ({first_line(error)}): give nodes more memory, or run the same command again"
    )


def units_by_node(unit: Unit) -> dict[str, float]:
    """Return the number of GPUs, or of cores, of each node that is up."""
    return {node["NodeID"]: node["Resources"].get(unit, 0.0) for node in ray.nodes() if node["Alive"]}


def hold_with_actors(unit: Unit, share: float, card: Card) -> Callable[[], None]:
    """Occupy a card, or a node, with actors of as many shares as workers would take; return what frees it."""
    stop = threading.Event()
    threading.Thread(target=_occupy, args=(card, unit, share, stop), daemon=True, name=f"holding {card}").start()
    return stop.set


class _Holder:
    """Occupies a share of a card, or of a node's cores."""

    def card(self) -> Card:
        """Return the card."""
        return this_card()


def _occupy(card: Card, unit: Unit, share: float, stop: threading.Event) -> None:
    """Take shares of the node until all of this card, or of the node, are taken; keep those until `stop`."""
    pinned = NodeAffinitySchedulingStrategy(card.node_id, soft=False)
    of_unit = {"num_cpus": 0.0, "num_gpus": 0.0} | {{"CPU": "num_cpus", "GPU": "num_gpus"}[unit]: share}
    new_holder = ray.remote(**of_unit, scheduling_strategy=pinned)(_Holder).remote
    units = 1.0 if card.gpu else units_by_node(unit).get(card.node_id, 0.0)
    kept: list[Any] = []
    others: list[Any] = []  # of other cards: given back only at the end, or Ray would give them again
    try:
        while len(kept) < math.floor(units / share + 1e-6) and not stop.is_set():
            others.append(new_holder())
            answer = others[-1].card.remote()
            if not ray.wait([answer], timeout=PATIENCE_SECONDS)[0]:
                _kill(others)  # the card is in use; meanwhile trials need the others
                stop.wait(PATIENCE_SECONDS)
            elif card in (taken := ray.get(answer), taken._replace(gpu="")):
                kept.append(others.pop())
        _kill(others)
        stop.wait()
    except ray.exceptions.RayError as error:  # the node is gone, and the card with it
        logger.warning("%s could not be held back: %s", card, first_line(error))
    finally:
        _kill(kept + others)


def _kill(holders: list[Any]) -> None:
    while holders:
        with contextlib.suppress(ray.exceptions.RayError, ValueError):
            ray.kill(holders.pop())
