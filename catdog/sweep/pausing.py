"""When a trial stops early, at its next step: its node is about to be reclaimed, or its sweep is ending.

Whoever reclaims a node says so with `ray drain-node`; a driver that is interrupted sets a flag of its launch. Trials
ask Ray for both, since the store may be slow. The checkpoint that a paused trial leaves is of the step it was at.
"""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import ray

from catdog.errors import first_line
from catdog.sweep.ray_internals import clear_flag, draining_nodes, flags, set_flag
from catdog.system.process import in_background

logger = logging.getLogger(__name__)
POLL_SECONDS = 1.0
PATIENCE_SECONDS = 5.0
"""How long an interrupted driver waits for checkpoints: its batch system kills it soon."""


@dataclass
class PauseWatch:
    """Why the trial of this process should stop early, if it should."""

    launch: str
    node_ids: frozenset[str]
    node_is_going: bool = False
    sweep_is_ending: bool = False

    def should_pause(self) -> bool:
        """Return whether there is a reason."""
        return self.node_is_going or self.sweep_is_ending

    def look(self) -> None:
        """Ask Ray; if it does not answer, what was known stays."""
        try:
            self.node_is_going = not self.node_ids.isdisjoint(draining_nodes())
            self.sweep_is_ending = _ENDING in flags(self.launch)
        except Exception as error:
            logger.warning("Ray does not say whether this trial should pause: %s", first_line(error))

    def poll(self, stop: threading.Event) -> None:
        """Look again and again, until there is a reason."""
        while not self.should_pause() and not stop.wait(POLL_SECONDS):
            self.look()


_ENDING = "ending"


@contextmanager
def watching_for_pauses(launch: str, name: str, *other_nodes: str) -> Iterator[PauseWatch]:
    """Watch for reasons to pause the trial `name`, which runs on this node, and needs others, while the block does."""
    watch = PauseWatch(launch, frozenset({ray.get_runtime_context().get_node_id(), *other_nodes}))
    set_flag(launch, name)
    try:
        watch.look()
        with in_background(watch.poll, "pauses"):
            yield watch
    finally:
        clear_flag(launch, name)


def preempted() -> ray.exceptions.RayActorError:
    """Return the error that ends an attempt on a node that is being reclaimed: Tune retries, and counts no failure."""
    return ray.exceptions.RayActorError(error_msg="its node is being reclaimed", preempted=True)


def pause_trials(launch: str) -> None:
    """Ask all trials of a launch to pause; returns when they have, or after `PATIENCE_SECONDS`."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    try:
        set_flag(launch, _ENDING)
        while flags(launch) - {_ENDING} and time.monotonic() < deadline:
            time.sleep(0.1)
    except Exception as error:  # Ray may be gone
        logger.warning("trials could not be asked to pause: %s", first_line(error))
