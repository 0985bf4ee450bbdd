"""The pack: it round-trips, and a damaged file is named."""

import dataclasses
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch

from catdog.data.datasets.base import Source, UInt8Array
from catdog.data.pack import open_pack, write_pack
from catdog.errors import UserError

COUNT, SIZE = 9, 16


def toy_source(with_trimaps: bool = True) -> Source:
    """Nine random images of three breeds; every other one has a trimap."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (COUNT, SIZE, SIZE, 3), dtype=np.uint8)
    trimaps = generator.integers(1, 4, (COUNT, SIZE, SIZE), dtype=np.uint8)
    has_trimap = (np.arange(COUNT) % 2 == 1) & with_trimaps

    def read(index: int) -> tuple[UInt8Array, UInt8Array | None]:
        return images[index], trimaps[index] if has_trimap[index] else None

    return Source(
        dataset="toy",
        fingerprint="0123456789abcdef",
        size=SIZE,
        classes=("Abyssinian", "beagle", "chat-tigré"),
        names=tuple(f"image_{i}" for i in range(COUNT)),
        labels=np.arange(COUNT, dtype=np.int64) % 3,
        is_test=np.arange(COUNT) >= 6,
        has_trimap=has_trimap,
        read=read,
    )


def test_a_pack_holds_everything_in_the_source(tmp_path: Path) -> None:
    source = toy_source()
    write_pack(source, tmp_path / "pack.safetensors")
    pack = open_pack(tmp_path / "pack.safetensors")
    assert (pack.dataset, pack.fingerprint) == (source.dataset, source.fingerprint)
    assert (pack.classes, pack.names) == (source.classes, source.names)
    assert np.array_equal(pack.labels_N.numpy(), source.labels)
    assert np.array_equal(pack.is_test_N.numpy(), source.is_test)
    assert (pack.images_NSSC.dtype, pack.labels_N.dtype, pack.is_test_N.dtype) == (
        torch.uint8,
        torch.int64,
        torch.bool,
    )
    for index in range(COUNT):
        assert np.array_equal(pack.images_NSSC[index].numpy(), source.read(index)[0])


def test_the_images_start_on_a_page_boundary(tmp_path: Path) -> None:
    write_pack(toy_source(), tmp_path / "pack.safetensors")
    content = (tmp_path / "pack.safetensors").read_bytes()
    assert content.index(toy_source().read(0)[0].tobytes()) % 4096 == 0


def test_the_outlines_know_their_images_and_count_the_border_as_animal(tmp_path: Path) -> None:
    source = toy_source()
    write_pack(source, tmp_path / "pack.safetensors")
    outlines = open_pack(tmp_path / "pack.safetensors").trimaps
    assert list(outlines.names) == ["image_1", "image_3", "image_5", "image_7"]
    assert outlines.labels_T.tolist() == [1, 0, 2, 1]
    assert tuple(outlines.classes) == source.classes
    for animal_SS, index in zip(outlines.animals_TSS, (1, 3, 5, 7), strict=True):
        trimap = source.read(index)[1]
        assert trimap is not None
        assert np.array_equal(animal_SS, (trimap == 1) | (trimap == 3))


def test_every_trimap_stays_with_its_image(tmp_path: Path) -> None:
    source = toy_source()
    write_pack(source, tmp_path / "pack.safetensors")
    pack = open_pack(tmp_path / "pack.safetensors")
    assert pack.trimap_images_T.tolist() == [1, 3, 5, 7]
    for row, image in enumerate(pack.trimap_images_T.tolist()):
        trimap = source.read(image)[1]
        assert trimap is not None
        assert np.array_equal(pack.trimaps_TSS[row].numpy(), trimap)


def test_a_dataset_without_trimaps_can_be_packed(tmp_path: Path) -> None:
    write_pack(toy_source(with_trimaps=False), tmp_path / "pack.safetensors")
    pack = open_pack(tmp_path / "pack.safetensors")
    assert pack.trimaps_TSS.shape == (0, SIZE, SIZE)
    assert len(pack.images_NSSC) == COUNT


def test_of_too_many_outlines_some_of_every_class_are_measured_in_test_and_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels, is_test = np.arange(60) // 10, np.arange(60) % 5 == 0

    def read(index: int) -> tuple[UInt8Array, UInt8Array | None]:
        trimap = np.full((SIZE, SIZE), 1 + index % 2, np.uint8)
        return np.full((SIZE, SIZE, 3), index, np.uint8), trimap if index % 10 else None

    source = dataclasses.replace(
        toy_source(),
        names=tuple(f"image_{i}" for i in range(60)),
        labels=labels,
        is_test=is_test,
        has_trimap=np.arange(60) % 10 != 0,
        classes=tuple("abcdef"),
        read=read,
    )
    write_pack(source, tmp_path / "pack.safetensors")
    pack = open_pack(tmp_path / "pack.safetensors")
    assert pack.measured_images.tolist() == np.flatnonzero(source.has_trimap).tolist()
    monkeypatch.setattr("catdog.data.pack.MOST_OUTLINE_PIXELS", 20 * SIZE**2)
    measured = pack.measured_images
    assert len(measured) == 20
    assert np.bincount(labels[measured[is_test[measured]]]).tolist() == [1] * 6  # all there are
    assert set(np.bincount(labels[measured[~is_test[measured]]])) == {2, 3}
    outlines = pack.trimaps
    assert outlines.names == [f"image_{i}" for i in measured]
    assert np.array_equal(outlines.labels_T, labels[measured])
    assert outlines.animals_TSS[:, 0, 0].tolist() == (measured % 2 == 0).tolist()


def test_packing_holds_few_images_at_a_time(tmp_path: Path) -> None:
    source = dataclasses.replace(
        toy_source(with_trimaps=False),
        size=64,
        names=tuple(map(str, range(2000))),
        labels=np.arange(2000) % 3,
        is_test=np.arange(2000) % 5 == 0,
        has_trimap=np.zeros(2000, dtype=bool),
        read=lambda index: (np.full((64, 64, 3), index % 256, np.uint8), None),
    )
    tracemalloc.start()
    write_pack(source, tmp_path / "pack.safetensors")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200 * 64 * 64 * 3


@pytest.mark.parametrize("kept", [0, 5, 100, 0.5, 0.999])
def test_a_truncated_pack_is_named_and_not_opened(tmp_path: Path, kept: float) -> None:
    path = tmp_path / "pack.safetensors"
    write_pack(toy_source(), path)
    content = path.read_bytes()
    path.write_bytes(content[: kept if isinstance(kept, int) else int(kept * len(content))])
    with pytest.raises(UserError, match="the pack is damaged") as raised:
        open_pack(path)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_another_safetensors_file_is_not_mistaken_for_a_pack(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    safetensors.numpy.save_file({"images": np.zeros(3)}, path)
    with pytest.raises(UserError, match=r"weights\.safetensors: the pack is damaged"):
        open_pack(path)
