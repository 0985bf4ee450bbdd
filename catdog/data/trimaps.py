"""The outlines of a dataset's animals, stored separately: measuring where masks look needs no pack.

Shapes: T images with a trimap, S side of the trimap in pixels, K classes.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from catdog.data.datasets.base import trimaps_key
from catdog.errors import NotFoundError, UserError
from catdog.formatting import shorten
from catdog.storage import Store
from catdog.storage.serialization import npz_bytes, read_npz

logger = logging.getLogger(__name__)

BACKGROUND = 2
"""Trimap value of the background; 1 is the animal, 3 its border."""


@dataclass(frozen=True)
class Trimaps:
    """The outlined animals of a dataset."""

    names: Sequence[str]
    """Names of the T images."""
    labels_T: npt.NDArray[np.int64]
    classes: Sequence[str]
    """Names of the K classes, by label."""
    animals_TSS: npt.NDArray[np.bool_]
    """Whether a pixel is on the animal or its border."""

    def rows(self, names: Sequence[str]) -> list[int]:
        """Return the rows of these images; raises `UserError` if one is missing."""
        row_of = {name: row for row, name in enumerate(self.names)}
        if unknown := set(names) - row_of.keys():
            raise UserError(f"the dataset's trimaps.npz lacks {shorten(min(unknown))}: delete it, then run prepare.py")
        return [row_of[name] for name in names]

    def to_npz(self) -> bytes:
        """Return the content of trimaps.npz."""
        return npz_bytes(
            names=np.array(self.names, dtype=str),
            labels=self.labels_T,
            breeds=np.array(self.classes),
            animals=self.animals_TSS,
        )


def read_trimaps(store: Store, fingerprint: str) -> Trimaps | None:
    """Return the trimaps of a dataset; None if it has none or the file is damaged (which is logged)."""
    key = trimaps_key(fingerprint)
    try:
        content = read_npz(store.get(key), {"names": "U T", "labels": "iu T", "breeds": "U K", "animals": "b TSS"})
    except NotFoundError:
        return None
    except ValueError as error:
        logger.warning("%s is damaged (%s): attention is not measured; delete it, then run prepare.py", key, error)
        return None
    names: list[str] = content["names"].tolist()
    return Trimaps(names, content["labels"], content["breeds"].tolist(), content["animals"]) if names else None
