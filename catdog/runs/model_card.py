"""What a kept network is: the metadata of its model.safetensors, enough to build it again elsewhere.

A network whose backbone is frozen keeps its head alone; the backbone, which trials share, is kept once, in the run's
folder `backbones`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from catdog.config.head_registry import Value
from catdog.storage.serialization import from_fields, read_json, to_json

_FIELD = "catdog"
MOST_SIDE = 2048
"""Of packed images, in pixels: as `--pack-size` allows."""


@dataclass(frozen=True)
class ModelCard:
    """A trained network: how it was chosen, how it is built, and what it takes and gives.

    Equal trials have equal cards, whatever their run is called.
    """

    variant: str
    """Its label."""
    seed: int
    epoch: int
    """The one chosen by validation."""
    head: str
    arguments: Mapping[str, Value | bool]
    """Of the head's class."""
    head_code: str
    """Which code the head is, if it is from outside the package; else empty."""
    backbone: str
    image_size: int
    """Side of the images that the backbone gets, in pixels."""
    mean: tuple[float, ...]
    """Of each channel (RGB in 0..1), subtracted from the images."""
    std: tuple[float, ...]
    """Of each channel, which images are divided by."""
    side: int
    """Side of the square images that the dataset was packed as, in pixels; they are resized to `image_size`."""
    resize: Literal["squash", "crop"]
    """How photos became square."""
    classes: tuple[str, ...]
    """Names of the K classes, in the order of the logits."""
    second_task: str | None
    groups: tuple[str, ...]
    """Names of the second task's G groups; empty without one."""
    backbone_sha256: str | None
    """Of the file of a frozen backbone; None if the backbone is in this file."""

    def to_metadata(self) -> dict[str, str]:
        """Return the card as metadata of a safetensors file."""
        return {_FIELD: to_json(self).decode()}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str] | None) -> "ModelCard":
        """Read a card; raises `ValueError` if there is none, or if it is damaged."""
        if metadata is None or _FIELD not in metadata:
            raise ValueError("it does not say which network it is of: catdog before this version kept it")
        card = from_fields(cls, read_json(metadata[_FIELD].encode()))
        if not (
            card.classes
            and len(card.mean) == len(card.std) == 3
            and min(card.std) > 0
            and 0 < card.side <= MOST_SIDE
            and (card.second_task is None) == (not card.groups)
        ):
            raise ValueError("it describes no network")
        return card
