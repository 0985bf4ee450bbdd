"""Oxford-IIIT Pet: 37 breeds of cats and dogs, 3,680 trainval and 3,669 test images.

O. M. Parkhi, A. Vedaldi, A. Zisserman, C. V. Jawahar, "Cats and Dogs", CVPR 2012 (CC BY-SA 4.0). The folder has
torchvision's layout: images/NAME.jpg, annotations/trainval.txt and test.txt, and annotations/trimaps/NAME.png where
present. torchvision checks only that two folders exist; this module checks counts, list files and every listed image.
A download is unpacked in a scratch folder, verified, then renamed, so a half-extracted dataset is never used.
"""

import hashlib
import itertools
import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import filelock
import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

from catdog.data.datasets.base import Source, UInt8Array
from catdog.data.split import validation_sizes
from catdog.errors import UserError
from catdog.system.process import map_on_cores

DATASET = "oxford-iiit-pet"
OFFICIAL_COUNTS = {"trainval": 3680, "test": 3669}
PACKED_SIZE = 256
_PACK_VERSION = 1


@dataclass(frozen=True)
class ListedImage:
    """A line of trainval.txt or test.txt."""

    name: str
    label: int
    species: str


def open_oxford(root: Path) -> Source:
    """Return the dataset below `root` after checking its lists; raise `UserError` naming what is missing."""
    root = dataset_folder(root)
    listing = {split: _read_list(root, split) for split in OFFICIAL_COUNTS}
    images = [*listing["trainval"], *listing["test"]]
    _check_lists(root, listing)
    breeds: dict[int, tuple[str, str]] = {}
    for image in images:
        breeds.setdefault(image.label, (image.name.rpartition("_")[0], image.species))
    _check_breeds(root, listing["trainval"], breeds)
    # Strings: thousands of `Path` objects would be slow to create.
    paths = [os.path.join(root, "images", f"{image.name}.jpg") for image in images]
    present = _names_in(root / "images")
    missing = [f"{image.name}.jpg" for image in images if f"{image.name}.jpg" not in present]
    if missing:
        raise UserError(
            f"{root / 'images'}: {len(missing)} of {len(paths)} listed images are missing ({missing[0]} first); "
            "the dataset is half extracted: extract it again"
        )
    trimaps = [os.path.join(root, "annotations", "trimaps", f"{image.name}.png") for image in images]
    outlined = _names_in(root / "annotations" / "trimaps")
    has_trimap = np.array([f"{image.name}.png" in outlined for image in images])

    def read(index: int) -> tuple[UInt8Array, UInt8Array | None]:
        trimap = _read_image(trimaps[index], "L", Image.Resampling.NEAREST) if has_trimap[index] else None
        return _read_photo(paths[index]), trimap

    return Source(
        dataset=DATASET,
        fingerprint=_fingerprint(images, [*paths, *itertools.compress(trimaps, has_trimap)]),
        size=PACKED_SIZE,
        breeds=tuple(breeds[label][0] for label in range(len(breeds))),
        species=tuple(breeds[label][1] for label in range(len(breeds))),
        names=tuple(image.name for image in images),
        labels=np.array([image.label for image in images], dtype=np.int64),
        is_test=np.repeat([False, True], [len(listing["trainval"]), len(listing["test"])]),
        has_trimap=has_trimap,
        read=read,
    )


def dataset_folder(root: Path) -> Path:
    """Return the folder that holds images/ and annotations/: `root` itself or its subfolder oxford-iiit-pet."""
    for folder in (root, root / DATASET):
        if os.path.isdir(folder / "annotations") and os.path.isdir(folder / "images"):
            return folder
    lacking = [f"{name}/" for name in ("images", "annotations") if not os.path.isdir(root / name)]
    found = f"holds no {' and no '.join(lacking)}" if os.path.isdir(root) else "no such folder"
    raise UserError(f"--data-root {root}: {found}; give the folder that holds images/ and annotations/")


def download_oxford(folder: Path) -> None:
    """Download the dataset with torchvision, once: verify it in a scratch folder, then rename that to `folder`."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(f"{folder}.lock"):
            if folder.is_dir():
                return
            with tempfile.TemporaryDirectory(
                dir=folder.parent, prefix=f"{folder.name}.part-", ignore_cleanup_errors=True
            ) as scratch:
                _download_whole(Path(scratch))
                os.rename(Path(scratch, DATASET), folder)
    except OSError as error:
        raise UserError(
            f"{folder.parent}: cannot be written ({error.strerror or error}): set CATDOG_CACHE to another folder"
        ) from None


def _download_whole(scratch: Path) -> None:
    from torchvision.datasets import OxfordIIITPet

    try:
        OxfordIIITPet(str(scratch), split="trainval", target_types="segmentation", download=True)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"Oxford-IIIT Pet could not be downloaded ({error}): give its folder with --data-root or CATDOG_DATA_ROOT"
        ) from None
    counts = {split: len(_read_list(scratch / DATASET, split)) for split in OFFICIAL_COUNTS}
    if counts != OFFICIAL_COUNTS:
        raise UserError(f"the download of Oxford-IIIT Pet is incomplete ({counts}): run the command again")
    source = open_oxford(scratch)
    for index in range(len(source.names)):
        source.read(index)


def _read_list(root: Path, split: str) -> list[ListedImage]:
    path = root / "annotations" / f"{split}.txt"
    if not os.path.isfile(path):  # Path.is_file may raise in a folder without search permission
        raise UserError(f"{path}: no such file; the dataset is half extracted: extract it again")
    images = []
    for number, line in enumerate(_read_bytes(path).decode(errors="replace").splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        fields = line.split()
        try:
            name, label, species = fields[0], int(fields[1]) - 1, {"1": "cat", "2": "dog"}[fields[2]]
        except (IndexError, KeyError, ValueError):
            raise UserError(
                f"{path}:{number}: expected 'NAME CLASS-ID SPECIES BREED-ID', found {line[:60]!r}"
            ) from None
        if label < 0 or "/" in name or name.startswith("."):
            raise UserError(
                f"{path}:{number}: class ids start at 1 and names are not paths, found {line[:60]!r}: correct the line"
            )
        images.append(ListedImage(name, label, species))
    if not images:
        raise UserError(f"{path}: lists no images; both trainval.txt and test.txt must: extract the dataset again")
    return images


def _check_lists(root: Path, listing: dict[str, list[ListedImage]]) -> None:
    names = [image.name for split in listing.values() for image in split]
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"{root / 'annotations'}: {twice} is listed twice in trainval.txt and test.txt: keep one line")
    unseen = {image.label for image in listing["test"]} - {image.label for image in listing["trainval"]}
    if unseen:
        raise UserError(
            f"{root / 'annotations'}: class id {min(unseen) + 1} is in test.txt but not in trainval.txt: "
            "add images of it there, or remove it here"
        )


def _check_breeds(root: Path, trainval: list[ListedImage], breeds: dict[int, tuple[str, str]]) -> None:
    """Check that every class id has images, and enough for both training and validation."""
    missing = set(range(len(breeds))) - set(breeds)
    if missing:
        raise UserError(
            f"{root / 'annotations'}: the class ids have gaps ({min(missing) + 1} has no image): "
            "number the classes from 1 without gaps"
        )
    counts = np.bincount([image.label for image in trainval])
    sizes = validation_sizes(counts)
    poor = np.flatnonzero((sizes == 0) | (sizes == counts)).tolist()
    if poor:
        breed, count = breeds[poor[0]][0], counts[poor[0]]
        raise UserError(
            f"{root / 'annotations' / 'trainval.txt'}: {breed} has too few images ({count}) to be split into training "
            "and validation: list five or more, or remove the breed"
        )


def _read_photo(path: str) -> UInt8Array:
    """Decode a photo and squash it to the packed size, in RGB.

    simplejpeg gives the same pixels as Pillow (both use libjpeg-turbo) without copies that hold the GIL. Anything but
    an intact colour JPEG of that size is left to Pillow, which also reports what is wrong with it.
    """
    data = _read_bytes(path)
    try:
        if simplejpeg.decode_jpeg_header(data)[:3] == (PACKED_SIZE, PACKED_SIZE, "YCbCr"):
            pixels: UInt8Array = simplejpeg.decode_jpeg(data, "RGB")
            return pixels
    except ValueError:
        pass
    return _read_image(path, "RGB", Image.Resampling.BICUBIC)


def _read_image(path: str, mode: str, resampling: Image.Resampling) -> UInt8Array:
    """Decode one file and squash it to the packed size (antialiased, except for trimaps).

    Pixels are taken as stored: transparency is dropped and EXIF orientation ignored, as in torchvision.
    """
    try:
        with Image.open(path) as image:
            opaque = image.convert("RGBA") if "transparency" in image.info else image  # Pillow warns otherwise
            converted = opaque.convert(mode)
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise UserError(
            f"{path}: cannot be read as an image ({error}): extract it again or remove it from the lists"
        ) from None
    if converted.size != (PACKED_SIZE, PACKED_SIZE):
        converted = converted.resize((PACKED_SIZE, PACKED_SIZE), resampling)
    return np.asarray(converted)


def _fingerprint(images: list[ListedImage], files: Iterable[str]) -> str:
    """Hash the lists, and the names and bytes of the images and trimaps, in order."""
    digest = hashlib.sha256(f"{DATASET} pack {_PACK_VERSION} {PACKED_SIZE}\n".encode())
    for image in images:
        digest.update(f"{image.name} {image.label} {image.species}\n".encode())

    def hash_file(path: str) -> str:
        folder, name = path.split(os.sep)[-2:]
        return f"{folder}/{name} {hashlib.sha256(_read_bytes(path)).hexdigest()}\n"

    digest.update("".join(map_on_cores(hash_file, files)).encode())
    return digest.hexdigest()[:16]


def _names_in(folder: Path) -> set[str]:
    try:
        return set(os.listdir(folder))
    except OSError:
        return set()


def _read_bytes(path: str | Path) -> bytes:
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read()
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror or error}): check its permissions, or extract it again"
        ) from None
