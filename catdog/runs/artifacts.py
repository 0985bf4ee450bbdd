"""The arrays that a trial stores, each written and read here: masks.npz, predictions.npz, attention.npz.

A run's status counts only trials whose files match result.json, so an unreadable array is never skipped silently:
`parse_artifact` raises `UserError`.

Shapes: E epochs, P probe images, N images of a split, T of them with a trimap, M masks, K breeds, S side in pixels.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from catdog.errors import UserError
from catdog.storage.serialization import npz_bytes, read_npz

T = TypeVar("T")


def parse_artifact(key: str, data: bytes, parse: Callable[[bytes], T]) -> T:
    """Return what `parse` reads from the file of `key`; raises `UserError` if it is damaged."""
    try:
        return parse(data)
    except ValueError as error:
        raise UserError(
            f"{key}: not readable ({error}); delete its trial's result.json, then run the sweep's command again"
        ) from None


@dataclass(frozen=True)
class ProbeMasks:
    """masks.npz: the probe images with their masks and predictions in every epoch."""

    images_PSSC: npt.NDArray[np.uint8]
    names: Sequence[str]
    labels_P: npt.NDArray[np.int64]
    breeds: Sequence[str]
    masks_EPMHW: npt.NDArray[np.float16]
    predicted_EP: npt.NDArray[np.int64]

    def to_npz(self) -> bytes:
        """Return masks.npz."""
        return npz_bytes(
            images=self.images_PSSC,
            names=np.array(self.names),
            labels=self.labels_P,
            breeds=np.array(self.breeds),
            masks=self.masks_EPMHW,
            predicted=self.predicted_EP,
        )

    @classmethod
    def from_npz(cls, data: bytes) -> "ProbeMasks":
        """Read masks.npz; raises `ValueError` if it is damaged."""
        content = read_npz(data, "images", "names", "labels", "breeds", "masks", "predicted")
        return cls(
            content["images"],
            content["names"].tolist(),
            content["labels"],
            tuple(content["breeds"].tolist()),
            content["masks"],
            content["predicted"],
        )


@dataclass(frozen=True)
class SplitPredictions:
    """The predictions of a trial's chosen epoch on one split."""

    images_N: npt.NDArray[np.str_]
    """Image names."""
    labels_N: npt.NDArray[np.int16]
    logits_NK: npt.NDArray[np.float16]


def predictions_npz(breeds: Sequence[str], splits: Mapping[str, SplitPredictions]) -> bytes:
    """Return predictions.npz: the breeds' names and, for each split, image names, labels and logits."""
    arrays: dict[str, Any] = {"breeds": np.array(breeds)}
    for split, predictions in splits.items():
        arrays[f"{split}_images"] = predictions.images_N
        arrays[f"{split}_labels"] = predictions.labels_N
        arrays[f"{split}_logits"] = predictions.logits_NK
    return npz_bytes(**arrays)


def read_predictions_npz(data: bytes, split: str) -> tuple[tuple[str, ...], SplitPredictions]:
    """Return the breeds' names and the predictions on one split; raises `ValueError` if damaged."""
    content = read_npz(data, "breeds", f"{split}_images", f"{split}_labels", f"{split}_logits")
    return tuple(content["breeds"].tolist()), SplitPredictions(
        content[f"{split}_images"], content[f"{split}_labels"], content[f"{split}_logits"]
    )


@dataclass(frozen=True)
class TrimapMasks:
    """The masks of a trial's chosen epoch on those images of one split that have a trimap."""

    images: Sequence[str]
    """Names of the T images."""
    masks_TMHW: npt.NDArray[np.float16]


def attention_npz(splits: Mapping[str, TrimapMasks]) -> bytes:
    """Return attention.npz: image names and masks of each split."""
    arrays: dict[str, Any] = {}
    for split, attention in splits.items():
        arrays[f"{split}_images"] = np.array(attention.images, dtype=str)
        arrays[f"{split}_masks"] = attention.masks_TMHW
    return npz_bytes(**arrays)


def read_attention_npz(data: bytes, splits: Sequence[str]) -> dict[str, TrimapMasks]:
    """Return the masks of these splits; raises `ValueError` if damaged."""
    content = read_npz(data, *(f"{split}_{kind}" for split in splits for kind in ("images", "masks")))
    return {split: TrimapMasks(content[f"{split}_images"].tolist(), content[f"{split}_masks"]) for split in splits}
