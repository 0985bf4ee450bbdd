"""The arrays that a trial stores, each written and read here: masks.npz, predictions.npz, attention.npz.

In the published form of a trial (`catdog.report.publish`), predictions.npz is smaller, and localization.json stands for
attention.npz. Above `MOST_LOGITS`, a trial itself writes its predictions without logits.

Readers check dtypes, shapes and ranges, and raise `ValueError` for anything that a trial cannot have written.

Masks are kept by place (see `catdog.runs.places`): an array for each, with its own M, H and W.

Shapes: E epochs, P probe images, N images of a split, T of them with a trimap, M masks, K classes, S side in pixels.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from catdog.runs.places import FINEST, HEAD, at_place, places_of
from catdog.storage import sha256
from catdog.storage.serialization import (
    from_fields,
    npz_bytes,
    npz_names,
    read_json,
    read_npz,
    small_npz_bytes,
    to_json,
)

SPLITS: tuple[Literal["validation"], Literal["test"]] = ("validation", "test")
"""The splits that trials are evaluated on."""


@dataclass(frozen=True)
class ProbeMasks:
    """masks.npz: the probe images with their masks and predictions in every epoch."""

    images_PSSC: npt.NDArray[np.uint8]
    names: Sequence[str]
    labels_P: npt.NDArray[np.int64]
    classes: Sequence[str]
    masks: Mapping[str, npt.NDArray[np.float16]]
    """By place, (E, P, M, H, W) each, at the masks' own resolution."""
    predicted_EP: npt.NDArray[np.int64]

    def to_npz(self) -> bytes:
        """Return masks.npz."""
        return npz_bytes(
            images=self.images_PSSC,
            names=np.array(self.names),
            labels=self.labels_P,
            breeds=np.array(self.classes),
            **{at_place("masks", place): masks_EPMHW for place, masks_EPMHW in self.masks.items()},
            predicted=self.predicted_EP,
        )

    @classmethod
    def from_npz(cls, data: bytes) -> "ProbeMasks":
        """Read masks.npz; raises `ValueError` if it is damaged."""
        layouts = {
            "images": "u PSS3", "names": "U P", "labels": "iu P", "breeds": "U K", "predicted": "iu EP",
        }  # fmt: skip
        content = read_npz(data, layouts)
        _check_classes(content, "labels", "predicted")
        return cls(
            content["images"].astype(np.uint8),
            content["names"].tolist(),
            content["labels"],
            tuple(content["breeds"].tolist()),
            _read_masks(data, "masks", "EPMHW", {"predicted": "iu EP"}),
            content["predicted"],
        )


@dataclass(frozen=True)
class SplitLogits:
    """The outputs of a trial's chosen epoch on one split."""

    images_N: npt.NDArray[np.str_]
    """Image names."""
    labels_N: npt.NDArray[np.int16]
    logits_NK: npt.NDArray[np.float16]


@dataclass(frozen=True)
class SplitPredictions:
    """The predictions of a trial's chosen epoch on one split."""

    classes: tuple[str, ...]
    """Names of the K classes, by label."""
    images_N: npt.NDArray[np.str_]
    """Image names."""
    labels_N: npt.NDArray[np.int16]
    predicted_N: npt.NDArray[np.int16]
    log_probability_N: npt.NDArray[np.float32]
    """Natural logarithm of the true class's probability."""

    @property
    def accuracy(self) -> float:
        """Return the percentage of images classified correctly."""
        return float(100 * (self.predicted_N == self.labels_N).mean())

    @property
    def log_loss(self) -> float | None:
        """Return minus the mean log-probability of the true class, in nats; None if a logit may have been clipped.

        All forms of the file give the same: that of log-probabilities in float16, as the smaller ones keep them.
        """
        kept_N = _in_float16(self.log_probability_N)
        return None if (kept_N < MAY_BE_CLIPPED).any() else 0.0 - float(kept_N.mean(dtype=np.float64))

    @functools.cached_property
    def about(self) -> str:
        """Return a hash of the images and their classes, which the trials of a split share."""
        names = _digest_of_distinct(self.images_N.tobytes(), self.images_N.dtype.str)
        return sha256(repr([self.classes, names, sha256(self.labels_N.tobytes())]).encode())

    @property
    def own_bytes(self) -> int:
        """Return how much memory the arrays take that it shares with no other trial."""
        return self.predicted_N.nbytes + self.log_probability_N.nbytes

    def beside(self, other: "SplitPredictions") -> "SplitPredictions":
        """Return these predictions with the arrays of another trial of the same images: memory holds them once."""
        return dataclasses.replace(self, classes=other.classes, images_N=other.images_N, labels_N=other.labels_N)


MOST_LOGITS = 2**22
"""The most logits kept of a split, 8 MB: images × classes. Of a larger split, predictions.npz has no logits."""
MAY_BE_CLIPPED = float(np.finfo(np.float16).min) / 2
"""A log-probability below this may come from a logit that float16 could not hold."""


def predictions_npz(classes: Sequence[str], splits: Mapping[str, SplitLogits]) -> bytes:
    """Return predictions.npz: the classes' names and, for each split, image names, labels and logits.

    A split of more than `MOST_LOGITS` has the predicted class and the log-probability of the true one instead.
    """
    arrays: dict[str, Any] = {"breeds": np.array(classes)}
    for split, outputs in splits.items():
        arrays |= {f"{split}_images": outputs.images_N, f"{split}_labels": outputs.labels_N}
        if outputs.logits_NK.size <= MOST_LOGITS:
            arrays[f"{split}_logits"] = outputs.logits_NK
        else:
            arrays |= _without_logits(split, *_of_logits(outputs.logits_NK, outputs.labels_N))
    return npz_bytes(**arrays)


def published_predictions_npz(splits: Mapping[str, SplitPredictions]) -> bytes:
    """Return predictions.npz in its published form: without logits, and packed tightly."""
    arrays: dict[str, Any] = {}
    for split, predictions in splits.items():
        arrays["breeds"] = np.array(predictions.classes)
        arrays |= {f"{split}_images": predictions.images_N, f"{split}_labels": predictions.labels_N}
        arrays |= _without_logits(split, predictions.predicted_N, predictions.log_probability_N)
    return small_npz_bytes(**arrays)


def _without_logits(
    split: str, predicted_N: npt.NDArray[np.int16], log_probability_N: npt.NDArray[np.float32]
) -> dict[str, Any]:
    return {f"{split}_predicted": predicted_N, f"{split}_log_probability": _in_float16(log_probability_N)}


def _in_float16(log_probability_N: npt.NDArray[np.float32]) -> npt.NDArray[np.float16]:
    return log_probability_N.clip(np.finfo(np.float16).min).astype(np.float16)


def read_predictions_npz(data: bytes, split: str) -> SplitPredictions:
    """Return the predictions on one split, with logits or without; raises `ValueError` if damaged."""
    images, labels, logits, predicted, log_probability = (
        f"{split}_{kind}" for kind in ("images", "labels", "logits", "predicted", "log_probability")
    )
    has_logits = predicted not in npz_names(data)
    outputs = {logits: "e NK"} if has_logits else {predicted: "iu N", log_probability: "f N"}
    content = read_npz(data, {"breeds": "U K", images: "U N", labels: "iu N", **outputs})
    _check_classes(content, labels, *([] if has_logits else [predicted]))
    for name in outputs:
        if not len(content[name]) or np.isnan(content[name]).any():
            raise ValueError(f"{name} is empty or has NaN")
    if _digest_of_distinct(content[images].tobytes(), content[images].dtype.str) is None:
        raise ValueError(f"{images} names an image twice")
    labels_N = content[labels].astype(np.int16)
    if has_logits:
        predicted_N, log_probability_N = _of_logits(content[logits], labels_N)
    else:
        predicted_N, log_probability_N = content[predicted].astype(np.int16), content[log_probability]
        if (log_probability_N > 0).any():
            raise ValueError(f"{log_probability} is above 0")
    classes = tuple(content["breeds"].tolist())
    return SplitPredictions(classes, content[images], labels_N, predicted_N, log_probability_N.astype(np.float32))


@functools.lru_cache(maxsize=8)
def _digest_of_distinct(names_N: bytes, dtype: str) -> str | None:
    """Return a hash of image names, of whatever width; None if one is there twice. Cached: trials share their names."""
    names = np.frombuffer(names_N, dtype).tolist()
    return sha256(repr(names).encode()) if len(set(names)) == len(names) else None


def _of_logits(
    logits_NK: npt.NDArray[np.floating], labels_N: npt.NDArray[np.int16]
) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.float32]]:
    """Return the predicted classes, and the log-probabilities of the true ones."""
    finite = np.finfo(np.float16)
    # One array throughout: half of the time would go into making others.
    array_NK = logits_NK.astype(np.float32)
    np.clip(array_NK, finite.min, finite.max, out=array_NK)  # as far as float16 could hold them
    predicted_N = array_NK.argmax(axis=1)
    array_NK -= np.take_along_axis(array_NK, predicted_N[:, None], axis=1)
    true_N = np.take_along_axis(array_NK, labels_N[:, None].astype(np.intp), axis=1)[:, 0]
    return predicted_N.astype(np.int16), true_N - np.log(np.exp(array_NK, out=array_NK).sum(axis=1))


@dataclass(frozen=True)
class TrimapMasks:
    """The masks of a trial's chosen epoch on those images of one split that have a trimap."""

    images: Sequence[str]
    """Names of the T images."""
    masks: Mapping[str, npt.NDArray[np.float16]]
    """By place, (T, M, H, W) each; a stage's are at most `FINEST` × `FINEST`."""


def attention_npz(splits: Mapping[str, TrimapMasks]) -> bytes:
    """Return attention.npz: image names and masks of each split."""
    arrays: dict[str, Any] = {}
    for split, attention in splits.items():
        arrays[f"{split}_images"] = np.array(attention.images, dtype=str)
        arrays |= {at_place(f"{split}_masks", place): masks_TMHW for place, masks_TMHW in attention.masks.items()}
    return npz_bytes(**arrays)


def read_attention_npz(data: bytes) -> dict[str, TrimapMasks]:
    """Return the masks of both splits; raises `ValueError` if damaged."""
    found: dict[str, TrimapMasks] = {}
    for split in SPLITS:
        images = {f"{split}_images": "U T"}
        masks = _read_masks(data, f"{split}_masks", "TMHW", images)
        if any(max(one.shape[2:]) > FINEST for place, one in masks.items() if place != HEAD):
            raise ValueError(f"{split}_masks of a stage are finer than {FINEST} × {FINEST}")
        found[split] = TrimapMasks(read_npz(data, images)[f"{split}_images"].tolist(), masks)
    if len({tuple(one.masks) for one in found.values()}) > 1:
        raise ValueError("the splits have masks at different places")
    return found


def _read_masks(data: bytes, name: str, axes: str, others: Mapping[str, str]) -> dict[str, npt.NDArray[np.float16]]:
    """Read the masks of every place; those of each fit the `others` in the file, whatever the resolution."""
    places = {place: at_place(name, place) for place in places_of(npz_names(data), name)}
    if not places:
        raise ValueError(f"it has no {name}")
    return {place: read_npz(data, {**others, array: f"e {axes}"})[array] for place, array in places.items()}


@dataclass(frozen=True)
class Localization:
    """Where a trial's masks look on the images of one split that have a trimap; see `catdog.analysis.localization`.

    In percent, and in points above masks that ignore the image.
    """

    images: int
    breeds: int
    pointing: float
    pointing_lift_uniform: float
    pointing_lift_gaussian: float
    energy: float
    energy_lift_uniform: float
    energy_lift_gaussian: float
    pxap: float | None = None
    """None, like its lifts, in the published form of trials that were published without it."""
    pxap_lift_uniform: float | None = None
    pxap_lift_gaussian: float | None = None


def localization_json(splits: Mapping[str, Localization]) -> bytes:
    """Return localization.json, which stands for attention.npz in a trial's published form.

    `splits` are named like `test`, for the head's masks, and `test@layer3`.
    """
    rows = {split: dataclasses.asdict(one) for split, one in splits.items()}
    return to_json(
        {split: {name: value for name, value in row.items() if value is not None} for split, row in rows.items()}
    )


def read_localization(data: bytes) -> dict[str, Localization]:
    """Read localization.json; raises `ValueError` if it is damaged."""
    found = {split: from_fields(Localization, one) for split, one in _by_split(data, has_places=True).items()}
    for one in found.values():
        scores = (one.pointing, one.energy, one.pxap or 0)
        if not (all(0 <= score <= 100 for score in scores) and 0 < one.breeds <= one.images):
            raise ValueError("a score is not from 0 to 100, or nothing was measured")
    return found


@dataclass(frozen=True)
class Deletion:
    """The mean fall of the true class's log-odds on images of one split, when cells of the head's features are zero.

    See `catdog.trial.deletion`; in natural logarithms, positive where the network loses.
    """

    images: int
    masks: float
    """Without the cells that the masks weigh most."""
    random: float
    """Without as many random cells."""
    centre: float
    """Without as many cells in the centre."""


def deletion_json(splits: Mapping[str, Deletion]) -> bytes:
    """Return deletion.json."""
    return to_json({split: dataclasses.asdict(one) for split, one in splits.items()})


def read_deletion(data: bytes) -> dict[str, Deletion]:
    """Read deletion.json; raises `ValueError` if it is damaged."""
    found = {split: from_fields(Deletion, one) for split, one in _by_split(data).items()}
    if not all(one.images > 0 for one in found.values()):
        raise ValueError("nothing was measured")
    return found


def _by_split(data: bytes, has_places: bool = False) -> dict[str, Any]:
    content = read_json(data)
    if not isinstance(content, dict):
        raise ValueError("it is about no splits")
    places = {split: places_of(content, split) if has_places else [HEAD] for split in SPLITS}
    if content.keys() - {at_place(split, place) for split, found in places.items() for place in found}:
        raise ValueError("it is about other splits")
    return content


def _check_classes(content: Mapping[str, npt.NDArray[Any]], *names: str) -> None:
    """Raise `ValueError` unless these arrays hold labels of the classes in `content`."""
    for name in names:
        if content[name].size and not (content[name].min() >= 0 and content[name].max() < len(content["breeds"])):
            raise ValueError(f"{name} has a class that is none of the {len(content['breeds'])} classes")
