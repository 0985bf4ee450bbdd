"""Getting a sweep's dataset into its store: packed once, then found there by machines that have no images."""

import dataclasses
from pathlib import Path

import pytest
from PIL import Image

from catdog.config.presets import PRESETS
from catdog.data.datasets.base import pack_key, trimaps_key
from catdog.data.pack import open_pack
from catdog.data.prepare import DatasetInfo, find_dataset, prepare_dataset
from catdog.data.trimaps import read_trimaps
from catdog.storage import LocalStore, MemoryStore, Store
from catdog.storage.node_cache import fetch_or_make
from tests.helpers.pets import make_pets

ELSEWHERE = PRESETS["pets-frozen"]
"""The sweep on a machine without the images."""


@pytest.fixture(autouse=True)
def nothing_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CATDOG_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CATDOG_DATA_ROOT", raising=False)


@pytest.mark.parametrize("kind", ["local", "memory"])
def test_a_dataset_is_packed_once_and_then_found_in_the_store(kind: str, tmp_path: Path) -> None:
    store: Store = LocalStore(tmp_path / "store") if kind == "local" else MemoryStore()
    here = dataclasses.replace(ELSEWHERE, data_root=str(make_pets(tmp_path / "pets")))
    assert find_dataset(ELSEWHERE, store) == (None, None)
    said: list[str] = []
    dataset = prepare_dataset(here, store, said.append)
    groups = {"species": dataset.groups["species"]}
    assert dataset == DatasetInfo(
        "oxford-iiit-pet", dataset.fingerprint, 24, 5, "Oxford-IIIT Pet", groups=groups, classes=3
    )
    assert prepare_dataset(here, store, said.append) == dataset
    assert prepare_dataset(ELSEWHERE, store, said.append) == dataset
    assert said == ["packing 36 images, once"]
    assert find_dataset(ELSEWHERE, store) == (dataset, None)
    pack = open_pack(fetch_or_make(store, pack_key(dataset.fingerprint)))
    assert (len(pack.names), pack.fingerprint) == (36, dataset.fingerprint)
    assert store.exists(trimaps_key(dataset.fingerprint))
    assert read_trimaps(store, dataset.fingerprint) is None, "no image has an outline"


def test_outlines_that_a_store_lost_are_made_again_from_the_pack(tmp_path: Path) -> None:
    pets = make_pets(tmp_path / "pets")
    (pets / "annotations" / "trimaps").mkdir()
    for name, value in (("dog_kind0_1", 1), ("Cat_kind1_2", 2)):  # all animal, all background
        Image.new("L", (64, 48), value).save(pets / "annotations" / "trimaps" / f"{name}.png")
    store, here = LocalStore(tmp_path / "store"), dataclasses.replace(ELSEWHERE, data_root=str(pets))
    dataset = prepare_dataset(here, store, lambda message: None)
    stored = store.get(trimaps_key(dataset.fingerprint))
    store.delete(trimaps_key(dataset.fingerprint))
    assert prepare_dataset(here, store, lambda message: None) == dataset
    assert store.get(trimaps_key(dataset.fingerprint)) == stored
    outlines = read_trimaps(store, dataset.fingerprint)
    assert outlines is not None
    assert (list(outlines.names), outlines.labels_T.tolist()) == (["dog_kind0_1", "Cat_kind1_2"], [0, 1])
    assert list(outlines.classes) == ["dog_kind0", "Cat_kind1", "dog_kind2"]
    assert outlines.animals_TSS.all(axis=(1, 2)).tolist() == [True, False]
    assert outlines.animals_TSS.any(axis=(1, 2)).tolist() == [True, False]
    store.put(trimaps_key(dataset.fingerprint), stored[:-30])
    assert read_trimaps(store, dataset.fingerprint) is None
