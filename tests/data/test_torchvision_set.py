"""torchvision's own datasets, from files in the layouts that torchvision gives them."""

import dataclasses
import struct
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from catdog.config.presets import PRESETS
from catdog.config.sweep_options import SweepConfig
from catdog.data.datasets.base import Source
from catdog.data.datasets.registry import check_dataset
from catdog.data.prepare import find_dataset
from catdog.errors import UserError
from catdog.storage import MemoryStore
from tests.helpers.pets import make_images


def config_of(name: str, root: Path | None) -> SweepConfig:
    recipe = dataclasses.replace(PRESETS["demo"].recipe, dataset=f"torchvision:{name}")
    return dataclasses.replace(
        PRESETS["demo"], recipe=recipe, pack_size=32, data_root=None if root is None else str(root)
    )


def opened(name: str, root: Path) -> Source:
    source = check_dataset(config_of(name, root)).open()
    assert source is not None
    return source


def splits_of(source: Source) -> dict[str, int]:
    return dict(Counter(name.split("/")[0] for name in source.names))


def make_aircraft(root: Path) -> None:
    data = root / "fgvc-aircraft-2013b" / "data"
    make_images(data, {"images": 9})
    for path in (data / "images").iterdir():
        path.rename(path.with_suffix(".jpg"))
    (data / "variants.txt").write_text("707-320\nA 318\n")
    for part, images in {"train": range(4), "val": range(4, 6), "test": range(6, 9)}.items():
        lines = [f"{i} {('707-320', 'A 318')[i % 2]}" for i in images]
        (data / f"images_variant_{part}.txt").write_text("\n".join(lines) + "\n")


def make_textures(root: Path) -> None:
    data = root / "dtd" / "dtd"
    make_images(data / "images", {"banded": 6, "woven": 6})
    (data / "labels").mkdir()
    for part, images in {"train": (0, 1), "val": (2, 3), "test": (4, 5)}.items():
        lines = [f"{kind}/{i}.png" for kind in ("banded", "woven") for i in images]
        (data / "labels" / f"{part}1.txt").write_text("\n".join(lines) + "\n")


def make_satellite(root: Path) -> None:
    make_images(root / "eurosat" / "2750", {"Forest": 10, "River": 10})


def make_digits(root: Path) -> None:
    folder = root / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for part, count in {"train": 30, "t10k": 10}.items():
        images = np.arange(count * 28 * 28, dtype=np.uint32).astype(np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">4i", 2051, count, 28, 28) + images.tobytes())
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 2049, count) + labels.tobytes())


def test_a_dataset_with_three_splits_keeps_them(tmp_path: Path) -> None:
    make_aircraft(tmp_path)
    source = opened("FGVCAircraft", tmp_path)
    assert source.classes == ("707-320", "A 318")
    assert splits_of(source) == {"train": 4, "val": 2, "test": 3}
    assert source.labels.tolist() == [0, 1, 0, 1, 0, 1, 0, 1, 0]
    assert source.is_validation is not None
    assert (source.is_test.sum(), source.is_validation.sum()) == (3, 2)
    image, trimap = source.read(5)
    assert (image.shape, trimap) == ((32, 32, 3), None)
    make_textures(tmp_path)
    assert splits_of(opened("DTD", tmp_path)) == {"train": 4, "val": 4, "test": 4}


def test_a_dataset_with_a_training_set_alone_beside_the_test_set_has_no_validation_split(tmp_path: Path) -> None:
    make_digits(tmp_path)
    source = opened("MNIST", tmp_path)
    assert (len(source.classes), splits_of(source)) == (10, {"train": 30, "test": 10})
    assert (source.is_validation, source.test_share) == (None, None)
    assert source.read(1)[0].shape == (32, 32, 3)


def test_a_dataset_without_splits_gets_a_test_split(tmp_path: Path) -> None:
    make_satellite(tmp_path)
    source = opened("EuroSAT", tmp_path)
    assert (source.classes, source.title, source.test_share) == (("Forest", "River"), "EuroSAT", 0.2)
    assert source.is_test.sum() == 4
    assert opened("EuroSAT", tmp_path).fingerprint == source.fingerprint


def test_a_root_without_the_dataset_is_a_mistake_and_without_a_root_it_would_be_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=f"--dataset torchvision:DTD: {tmp_path} does not hold it .* with --data-root"):
        opened("DTD", tmp_path)
    make_textures(tmp_path)
    (tmp_path / "dtd/dtd/images/woven/2.png").write_text("<html>404</html>")
    with pytest.raises(UserError, match=r"^--dataset torchvision:DTD: val: image 2 cannot be read \(.*\): give torch"):
        opened("DTD", tmp_path)
    monkeypatch.setenv("CATDOG_CACHE", str(tmp_path))
    assert find_dataset(config_of("DTD", None), MemoryStore()) == (None, None)
    assert check_dataset(config_of("DTD", None)).download is not None
