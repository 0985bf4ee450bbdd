"""Small datasets: in the layout of Oxford-IIIT Pet, and as plain files of images."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from PIL import Image

from catdog.data.datasets.drawn import open_drawn

DRAWN_GROUPS = {one.column: one.digest for one in open_drawn().groups}
"""What an identity says of the drawn pets' group columns."""


def make_pets(folder: Path, breeds: int = 3, images: int = 12) -> Path:
    """Write a small dataset in Oxford-IIIT Pet's layout: `images` per breed, a third of them in the test split."""
    (folder / "images").mkdir(parents=True)
    (folder / "annotations").mkdir()
    lists: dict[str, list[str]] = {"trainval": [], "test": []}
    for breed in range(breeds):
        name = f"{'Cat' if breed % 2 else 'dog'}_kind{breed}"
        for number in range(images):
            part = "test" if number % 3 == 0 else "trainval"
            lists[part].append(f"{name}_{number} {breed + 1} {1 if breed % 2 else 2} {breed + 1}")
            colour = (60 * breed + 20, 10 * number, 128)
            Image.new("RGB", (64, 48), colour).save(folder / "images" / f"{name}_{number}.jpg")
    for part, lines in lists.items():
        (folder / "annotations" / f"{part}.txt").write_text("#header\n" + "\n".join(lines) + "\n")
    return folder


def make_images(folder: Path, counts: Mapping[str, int], size: tuple[int, int] = (40, 30)) -> Path:
    """Write images 0.png, 1.png, ... into folders: how many into which (`cat`, `train/cat`). All images differ."""
    for number, (name, count) in enumerate(counts.items()):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            Image.new("RGB", size, (60 * number % 256, index % 256, 128)).save(folder / name / f"{index}.png")
    return folder


def copy_packed(packed: Path, folder: Path) -> Path:
    """Make a store in a folder, new or empty, with the drawn pets that the fixture `packed` holds."""
    return shutil.copytree(packed, folder, copy_function=os.link, dirs_exist_ok=True)
