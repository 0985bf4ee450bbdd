"""checkpoint.pt: the progress of an unfinished trial, and resuming from it."""

import io
import logging
import zipfile

import torch

from catdog.errors import NotFoundError
from catdog.storage import Store
from catdog.training.loop import TrainState
from catdog.trial.contact_sheet import ProbeHistory

logger = logging.getLogger(__name__)


def checkpoint_bytes(config_hash: str, state: TrainState, probe_history: ProbeHistory) -> bytes:
    """Return the content of checkpoint.pt after an epoch."""
    buffer = io.BytesIO()
    content = {
        "config_hash": config_hash,
        "state": state.state_dict(),
        "probe_masks": probe_history.masks_PMHW,
        "probe_predicted": probe_history.predicted_P,
    }
    torch.save(content, buffer)
    return buffer.getvalue()


def resume(store: Store, key: str, config_hash: str, state: TrainState) -> ProbeHistory:
    """Load the trial's checkpoint into `state`, if there is an undamaged one of the same config.

    Returns the probe history of the epochs so far; empty if the trial starts from scratch.
    """
    try:
        data = store.get(key)
    except NotFoundError:
        return ProbeHistory()
    try:
        _check_archive(data)
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        if content["config_hash"] != config_hash:
            return ProbeHistory()
    except Exception as error:  # a damaged file can make the unpickler raise anything
        logger.warning("%s is damaged (%r): starting again", key, error)
        return ProbeHistory()
    state.load_state_dict(content["state"])
    return ProbeHistory(content["probe_masks"], content["probe_predicted"])


def _check_archive(data: bytes) -> None:
    """Raise if a checksum in a `torch.save` file (a zip archive) is wrong; `torch.load` ignores them."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise ValueError(f"the checksum of {damaged} is wrong")
