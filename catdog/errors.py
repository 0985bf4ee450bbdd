"""catdog's exception hierarchy.

`UserError` is the user's mistake (an option, a path, a corrupt file): the jobs print its message on one line and exit
with code 2. `StoreError`, like any other fault of the environment, is worth retrying.
"""


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


class DivergedError(CatdogError):
    """The loss became NaN or infinite in `epoch`; rerunning the trial would end the same way."""

    def __init__(self, epoch: int) -> None:
        super().__init__(f"the loss is not finite in epoch {epoch}")
        self.epoch = epoch


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, at most 300 characters, or its class name if it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
