"""The exceptions of catdog, one small tree.

`UserError` is the user's mistake (an option, a path, a corrupt file): the jobs print its message as one line and exit
with code 2. `StoreError` and everything else that an unreliable world does to us is worth another try.
"""


class CatdogError(Exception):
    """Base class: everything that catdog raises on purpose."""


class UserError(CatdogError):
    """A mistake in options, data, weights or store; the message names the thing and the remedy."""


class StoreError(CatdogError):
    """The store did not answer as it should, and may do so later."""


class NotFoundError(StoreError):
    """There is no object under this key."""


class StoreRefusedError(StoreError, UserError):
    """The store says no: no such bucket, no permission, a full disk. The user must act."""


class DivergedError(CatdogError):
    """The loss became NaN or infinite in `epoch`; running the trial again would give the same."""

    def __init__(self, epoch: int) -> None:
        super().__init__(f"the loss is not finite in epoch {epoch}")
        self.epoch = epoch


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, at most 300 characters; its class where it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
