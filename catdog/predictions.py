"""What every complete trial predicted for the test images, read back from the store.

Shapes: S trials of a variant (its seeds), N test images, K breeds.
"""

import io
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from catdog.errors import UserError
from catdog.ledger import Ledger
from catdog.paths import RunPaths
from catdog.storage import Store, read_many

Objects = Iterable[tuple[str, bytes]]
Track = Callable[[Objects, int], Objects]
"""Passes objects on while it shows how many of them there have been."""


@dataclass(frozen=True)
class Predictions:
    """The breeds that the complete trials predicted for the test images."""

    breeds: tuple[str, ...]
    images_N: npt.NDArray[np.str_]
    labels_N: npt.NDArray[np.int16]
    seeds: Mapping[str, tuple[int, ...]]
    """Of the trials that are here, by variant."""
    predicted_SN: Mapping[str, npt.NDArray[np.int16]]
    """By variant; a row for each of its `seeds`."""

    def correct_SN(self, label: str) -> npt.NDArray[np.bool_]:
        return np.asarray(self.predicted_SN[label] == self.labels_N)

    def breed_accuracy_SK(self, label: str) -> npt.NDArray[np.float64]:
        """Return the accuracy on each breed's images, in percent."""
        images_NK = self.labels_N[:, None] == np.arange(len(self.breeds))
        return 100 * (self.correct_SN(label).astype(float) @ images_NK) / images_NK.sum(axis=0).clip(1)

    def confusion_KK(self, label: str, row: int) -> npt.NDArray[np.int64]:
        """Return how many images of each breed (rows) one trial took for each breed (columns)."""
        counts = np.zeros((len(self.breeds), len(self.breeds)), dtype=np.int64)
        np.add.at(counts, (self.labels_N, self.predicted_SN[label][row]), 1)
        return counts


def read_predictions(store: Store, ledger: Ledger, track: Track = lambda objects, total: objects) -> Predictions | None:
    """Read the predictions of all complete trials, in parallel; None if there are none.

    Raises:
        UserError: a file is damaged, or is about other images than the others.
    """
    run = RunPaths(ledger.manifest.run)
    owners = {
        run.trial(ledger.manifest.spec(label).folder, result.seed).predictions: (label, result.seed)
        for label in ledger.manifest.variants
        for result in ledger.results(label)
    }
    found: dict[str, dict[int, npt.NDArray[np.int16]]] = {label: {} for label in ledger.manifest.variants}
    breeds, images, labels = None, None, None
    for key, data in track(read_many(store, owners), len(owners)):
        try:
            content = np.load(io.BytesIO(data))
            if images is None:
                breeds, images, labels = content["breeds"], content["test_images"], content["test_labels"]
            if not np.array_equal(images, content["test_images"]):
                raise ValueError("it is about other images than the files before it")
            label, seed = owners[key]
            found[label][seed] = content["test_logits"].argmax(axis=1).astype(np.int16)
        except (KeyError, OSError, ValueError, zipfile.BadZipFile) as error:
            raise UserError(f"{key}: not readable ({error}); run the sweep's command again") from None
    if breeds is None or images is None or labels is None:
        return None
    return Predictions(
        breeds=tuple(breeds.tolist()),
        images_N=images,
        labels_N=labels,
        seeds={label: tuple(rows) for label, rows in found.items()},
        predicted_SN={
            label: np.array(list(rows.values()), dtype=np.int16).reshape(len(rows), len(images))
            for label, rows in found.items()
        },
    )
