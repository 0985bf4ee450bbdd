"""Oxford-IIIT Pet: 37 breeds of cats and dogs, 3,680 trainval and 3,669 test images.

O. M. Parkhi, A. Vedaldi, A. Zisserman, C. V. Jawahar, "Cats and Dogs", CVPR 2012 (CC BY-SA 4.0). The folder has
torchvision's layout: images/NAME.jpg, annotations/trainval.txt and test.txt, and annotations/trimaps/NAME.png where
present; .jpeg and capital letters will do. torchvision checks only that two folders exist; this module checks counts,
list files and every listed image. A download is unpacked in a scratch folder, verified, then renamed, so a
half-extracted dataset is never used.
"""

import hashlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import filelock
import numpy as np

from catdog.data.datasets.base import Resize, Source, UInt8Array, group_columns
from catdog.data.datasets.folders import NOTHING, describe_folder, files_by_name, same_name
from catdog.data.images import photo_digest, read_photo, read_trimap, trimap_digest
from catdog.errors import UserError
from catdog.formatting import shorten
from catdog.system.process import map_on_cores

DATASET = "oxford-iiit-pet"
OFFICIAL_COUNTS = {"trainval": 3680, "test": 3669}
GROUPS = ("species",)
"""The group columns of the official lists."""
_PACK_VERSION = 1


@dataclass(frozen=True)
class ListedImage:
    """A line of trainval.txt or test.txt."""

    name: str
    label: int
    species: str


def open_oxford(root: Path, size: int = 256, resize: Resize = "squash") -> Source:
    """Return the dataset below `root`, to be packed at `size` pixels; raise `UserError` naming what is missing."""
    root = dataset_folder(root)
    listing = {split: _read_list(root, split) for split in OFFICIAL_COUNTS}
    images = [*listing["trainval"], *listing["test"]]
    _check_lists(root, listing)
    breeds: dict[int, tuple[str, str]] = {}
    for image in images:
        breeds.setdefault(image.label, (image.name.rpartition("_")[0], image.species))
    _check_breeds(root, listing["trainval"], breeds)
    photos = _find_photos(root / "images", images)
    trimaps = _find_trimaps(root / "annotations" / "trimaps", images)

    def read(index: int) -> tuple[UInt8Array, UInt8Array | None]:
        photo, trimap = read_photo(photos[index], size, resize), trimaps[index]
        if trimap is None:
            return photo.pixels, None
        if photo.is_turned:
            raise UserError(
                f"{photos[index]}: turned by its EXIF orientation, which its trimap may not be: save both upright"
            )
        return photo.pixels, read_trimap(trimap, size, resize)

    return Source(
        dataset=DATASET,
        fingerprint=_fingerprint(images, photos, trimaps, f"{size}{' crop' * (resize == 'crop')}"),
        size=size,
        classes=tuple(breeds[label][0] for label in range(len(breeds))),
        names=tuple(image.name for image in images),
        labels=np.array([image.label for image in images], dtype=np.int64),
        is_test=np.repeat([False, True], [len(listing["trainval"]), len(listing["test"])]),
        has_trimap=np.array([trimap is not None for trimap in trimaps]),
        read=read,
        title="Oxford-IIIT Pet",
        class_noun="breed",
        resize=resize,
        groups=group_columns({GROUPS[0]: [image.species for image in images]}),
    )


def dataset_folder(root: Path) -> Path:
    """Return the folder that holds images/ and annotations/: `root` itself or its subfolder oxford-iiit-pet."""
    for folder in (root, root / DATASET):
        if os.path.isdir(folder / "annotations") and os.path.isdir(folder / "images"):
            return folder
    if not os.path.isdir(root):
        found = "a file, not a folder (unpack an archive)" if os.path.isfile(root) else "no such folder"
    else:
        lacking = [f"{name}/" for name in ("images", "annotations") if not os.path.isdir(root / name)]
        found = f"holds no {' and no '.join(lacking)} (found: {describe_folder(root)})"
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
        raise UserError(
            f"{path}: no such file (found: {describe_folder(path.parent)}): extract it again, so that trainval.txt and "
            "test.txt lie there"
        )
    images = []
    for number, line in enumerate(_read_bytes(path).decode("utf-8-sig", errors="replace").splitlines(), start=1):
        fields = line.split()
        if not fields or fields[0].startswith("#"):
            continue
        try:
            if "\N{REPLACEMENT CHARACTER}" in line:
                raise ValueError("not UTF-8")
            name, label, species = fields[0], int(fields[1]) - 1, {"1": "cat", "2": "dog"}[fields[2]]
        except (IndexError, KeyError, ValueError):
            raise UserError(
                f"{path}:{number}: expected 'NAME CLASS-ID SPECIES BREED-ID' in UTF-8, found {line[:60]!r}: "
                "correct the line"
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
    names = [same_name(image.name) for split in listing.values() for image in split]
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
    """Check that there are classes, each with a name of its own, and enough images for training and validation."""
    missing = set(range(len(breeds))) - set(breeds)
    if missing:
        raise UserError(
            f"{root / 'annotations'}: the class ids have gaps ({min(missing) + 1} has no image): "
            "number the classes from 1 without gaps"
        )
    if len(breeds) < 2:
        raise UserError(f"{root / 'annotations'}: there is only one class id: list images of two classes or more")
    ids: dict[str, list[int]] = {}
    for label in range(len(breeds)):
        ids.setdefault(same_name(breeds[label][0]), []).append(label + 1)
    for name, same in ids.items():
        if not name or len(same) > 1:
            raise UserError(
                f"{root / 'annotations'}: class ids {shorten(', '.join(map(str, same)))}: the name is {name!r}; a "
                "class is named by its first image up to the last underscore, as in Maine_Coon_12: rename the images"
            )
    counts = np.bincount([image.label for image in trainval])
    poor = np.flatnonzero(counts < 2).tolist()
    if poor:
        breed, count = breeds[poor[0]][0], counts[poor[0]]
        raise UserError(
            f"{root / 'annotations' / 'trainval.txt'}: {breed} has too few images ({count}) to be split into training "
            "and validation: list two or more, or remove the breed"
        )


def _find_photos(folder: Path, images: list[ListedImage]) -> list[str]:
    """Return the path of every listed image."""
    paths = files_by_name(folder, ".jpg", ".jpeg")
    missing = [f"{image.name}.jpg" for image in images if same_name(image.name) not in paths]
    if len(missing) == len(images):
        raise UserError(
            f"{folder}: none of the {len(images)} listed images is there ({missing[0]} first; found: "
            f"{describe_folder(folder)}): name each as in the lists, and put it directly into this folder"
        )
    if missing:
        raise UserError(
            f"{folder}: {len(missing)} of {len(images)} listed images are missing ({missing[0]} first); "
            "the dataset is half extracted: extract it again"
        )
    return [paths[same_name(image.name)] for image in images]


def _find_trimaps(folder: Path, images: list[ListedImage]) -> list[str | None]:
    """Return the path of every image's trimap, None where there is none."""
    paths = files_by_name(folder, ".png")
    trimaps = [paths.get(same_name(image.name)) for image in images]
    if not any(trimaps) and (found := describe_folder(folder)) != NOTHING:
        raise UserError(
            f"{folder}: no listed image has a trimap there ({images[0].name}.png first; found: {found}): name each "
            "like its image, or remove the folder"
        )
    return trimaps


def _fingerprint(images: list[ListedImage], photos: list[str], trimaps: list[str | None], packing: str) -> str:
    """Hash the lists, and the names and contents of the images and trimaps, in order."""
    digest = hashlib.sha256(f"{DATASET} pack {_PACK_VERSION} {packing}\n".encode())
    for image in images:
        digest.update(f"{image.name} {image.label} {image.species}\n".encode())
    names = [image.name for image in images]
    files = [(f"images/{name}.jpg", path, photo_digest) for name, path in zip(names, photos, strict=True)]
    files += [(f"trimaps/{name}.png", path, trimap_digest) for name, path in zip(names, trimaps, strict=True) if path]
    digest.update("".join(map_on_cores(lambda file: f"{file[0]} {file[2](file[1])}\n", files)).encode())
    return digest.hexdigest()[:16]


def _read_bytes(path: str | Path) -> bytes:
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read()
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror or error}): check its permissions, or extract it again"
        ) from None
