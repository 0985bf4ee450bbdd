"""catdog's exception hierarchy.

`UserError` is the user's mistake (an option, a path, a corrupt file): the jobs print its message on one line and exit
with code 2. `StoreError`, like any other fault of the environment, is worth retrying.
"""

from typing import Literal, NamedTuple


class CatdogError(Exception):
    """Base class of everything catdog raises deliberately."""


class UserError(CatdogError):
    """A mistake in options, data, weights or store; the message names the culprit and the remedy."""


class StoreError(CatdogError):
    """The store failed to answer properly; a later attempt may succeed."""


class NotFoundError(StoreError):
    """No object exists under this key."""


class StoreRefusedError(StoreError, UserError):
    """The store refuses: no such bucket, no permission, a full disk. The user must act."""


class Card(NamedTuple):
    """A GPU of a cluster: its number on a node; without a number, the whole node."""

    node_id: str
    host: str
    gpu: str = ""

    def __str__(self) -> str:
        return f"GPU {self.gpu} of {self.host}" if self.gpu else self.host


class DeviceError(CatdogError):
    """A fault of the GPU, not of the trial: another attempt may succeed, on another GPU even if this one is broken.

    `fault`: the GPU is broken (it fails whatever runs on it), it failed (this time), or it is crowded: others have
    taken memory that it owes the trial.
    """

    def __init__(self, message: str, fault: Literal["broken", "failed", "crowded"], card: Card | None = None) -> None:
        super().__init__(message, fault, card)
        self.message, self.fault, self.card = message, fault, card

    def __str__(self) -> str:
        return self.message if self.card is None else f"{self.card}: {self.message}"


class NodeError(DeviceError):
    """A mistake that a trial met on a node, where only that may be wrong: it cannot write, or fetch weights."""


class WorkerLostError(CatdogError):
    """One of the processes that ran a trial together is gone; a later attempt may succeed."""


class DivergedError(CatdogError):
    """The loss became NaN or infinite in `epoch`; rerunning the trial would end the same way."""

    def __init__(self, epoch: int) -> None:
        super().__init__(f"the loss is not finite in epoch {epoch}")
        self.epoch = epoch


class PausedError(CatdogError):
    """The trial was asked to stop: its checkpoint is stored, and it resumes from there."""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, at most 300 characters, or its class name if it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
