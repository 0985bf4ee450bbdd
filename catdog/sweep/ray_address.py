"""Which Ray a sweep uses: the one that RAY_ADDRESS names, or one of this machine's own."""

import os
import re
import socket

from catdog.errors import UserError

_PLACE = re.compile(r"(?P<host>[^:/\[\]\s]+|\[[0-9A-Fa-f:.]+\]):(?P<port>[0-9]{1,5})")
REMEDY = "give HOST:PORT of the head's GCS (its port is usually 6379), or unset RAY_ADDRESS to start a Ray here"


def ray_address() -> str | None:
    """Return HOST:PORT of the Ray to use, "auto" for whichever runs on this machine, or None to start one here.

    Raises:
        UserError: RAY_ADDRESS is of another kind.
    """
    address = os.environ.get("RAY_ADDRESS", "").strip().rstrip("/")
    if address in ("", "local"):
        return None
    if address == "auto":
        return address
    if address.startswith(("http://", "https://")):
        raise UserError(f"RAY_ADDRESS {address}: a dashboard takes jobs there: use ray job submit, or {REMEDY}")
    if address.startswith("ray://"):
        raise UserError(f"RAY_ADDRESS {address}: a sweep does not run through Ray Client: {REMEDY}")
    place = _PLACE.fullmatch(address)
    if place is None or not 0 < int(place["port"]) < 65536:
        raise UserError(f"RAY_ADDRESS {address}: not HOST:PORT: {REMEDY}")
    return address


def require_answer(address: str) -> None:
    """Raise `UserError` if nothing listens at HOST:PORT; Ray itself would retry for minutes."""
    place = _PLACE.fullmatch(address)
    if place is None:
        return
    try:
        socket.create_connection((place["host"].strip("[]"), int(place["port"])), timeout=20).close()
    except OSError as error:
        raise UserError(f"RAY_ADDRESS {address}: no Ray answers there ({error.strerror or error})") from None
