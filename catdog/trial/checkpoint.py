"""checkpoint.pt: the progress of an unfinished trial, and resuming from it."""

import copy
import io
import logging
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from catdog.errors import NotFoundError, first_line
from catdog.runs.places import HEAD
from catdog.storage import Store
from catdog.training.loop import TrainState

logger = logging.getLogger(__name__)


@dataclass
class ProbeHistory:
    """Masks and predictions of the probe images in every epoch so far."""

    masks: list[dict[str, torch.Tensor]] = field(default_factory=list)
    """For each epoch the masks by place, (P, M, H, W) in float16; empty for networks without masks."""
    predicted_P: list[torch.Tensor] = field(default_factory=list)


def checkpoint_bytes(config_hash: str, state: TrainState, probe_history: ProbeHistory) -> bytes:
    """Return the content of checkpoint.pt after an epoch, or between two steps of one."""
    buffer = io.BytesIO()
    content = {
        "config_hash": config_hash,
        "state": state.state_dict(),
        "probe_masks": probe_history.masks,
        "probe_predicted": probe_history.predicted_P,
    }
    torch.save(content, buffer)
    return buffer.getvalue()


def resume(store: Store, key: str, config_hash: str, state: TrainState, steps_per_epoch: int) -> ProbeHistory:
    """Load the trial's checkpoint into `state`, if there is an undamaged one of the same config.

    Returns the probe history of the epochs so far; empty if the trial starts from scratch.
    """
    try:
        data = store.get(key)
    except NotFoundError:
        return ProbeHistory()
    fresh = copy.deepcopy(state.state_dict())
    try:
        _check_archive(data)
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        if content["config_hash"] != config_hash:
            return ProbeHistory()
        state.load_state_dict(content["state"])
        masks = [
            one if isinstance(one, dict) else {HEAD: one} for one in content["probe_masks"]
        ]  # or an earlier version's
        probe_history = ProbeHistory(masks, content["probe_predicted"])
        _check_fit(state, probe_history)
        _check_partial(state, steps_per_epoch)
    except Exception as error:  # a damaged file can make the unpickler raise anything
        logger.warning("%s is damaged (%s: %s): starting again", key, type(error).__name__, first_line(error))
        state.load_state_dict(fresh)
        return ProbeHistory()
    return probe_history


def _check_fit(state: TrainState, probe_history: ProbeHistory) -> None:
    """Raise `ValueError` unless the parts of a loaded state fit together: the optimiser itself does not look."""
    shaped_like_weights = type(state.optimizer) in (torch.optim.AdamW, torch.optim.SGD)  # a user's may factor them
    for parameter, moments in state.optimizer.state.items() if shaped_like_weights else ():
        for name, moment in moments.items():
            if isinstance(moment, torch.Tensor) and moment.ndim and moment.shape != parameter.shape:
                raise ValueError(f"{name} has shape {tuple(moment.shape)}, its parameter {tuple(parameter.shape)}")
    if _shapes(state.best_weights) != (_shapes(state.model.state_dict()) if state.history else {}):
        raise ValueError("the best weights are another model's")
    best = state.best_validation
    if (best is None) != (not state.history):
        raise ValueError("the outputs on the validation images do not belong to its epochs")
    if best is not None:
        if best.logits_NK.ndim != 2 or len(best.logits_NK) != len(best.labels_N):
            raise ValueError("it lacks the outputs on the validation images")
        if any(len(masks_NMHW) != len(best.labels_N) for masks_NMHW in best.masks.values()):
            raise ValueError("its masks are of other images than its labels")
    epochs = [record.epoch for record in state.history]
    if epochs != list(range(len(epochs))) or len(probe_history.masks) not in (0, len(epochs)):
        raise ValueError("its epochs do not fit together")


def _shapes(weights: Mapping[str, Any]) -> dict[str, torch.Size | None]:
    """Return the shapes of a model's state; None for what a head keeps that is no tensor."""
    return {name: getattr(value, "shape", None) for name, value in weights.items()}


def _check_partial(state: TrainState, steps_per_epoch: int) -> None:
    """Raise unless what a loaded state holds of the epoch under way is whole, and the schedule is at its last step."""
    done = state.scheduler.last_epoch - len(state.history) * steps_per_epoch
    if not 0 <= done <= steps_per_epoch or bool(done) != bool(state.partial):
        raise ValueError("its schedule is not where its epochs are")
    if state.partial and len(state.partial) != state.workers.count:
        raise ValueError("it is of another number of workers")
    for begun in state.partial:
        for generator in (begun["random"], begun.get("mixing", begun["random"])):
            torch.Generator().set_state(generator)  # which refuses what is none
        if not begun["losses"].shape == begun["correct"].shape == (done,) or begun["seconds"].ndim:
            raise ValueError("the epoch under way does not fit together")


def _check_archive(data: bytes) -> None:
    """Raise if a checksum in a `torch.save` file (a zip archive) is wrong; `torch.load` ignores them.

    Or if it is compressed, which torch never does: such a file might unpack to any size.
    """
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        if any(member.compress_type for member in archive.infolist()):
            raise ValueError("it is compressed")
        damaged = archive.testzip()
    if damaged is not None:
        raise ValueError(f"the checksum of {damaged} is wrong")
