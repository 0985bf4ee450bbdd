"""Group columns: the second labels that a dataset may have, stored beside its pack."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from catdog.config.presets import PRESETS
from catdog.config.sweep_options import SweepConfig
from catdog.data.datasets.base import Groups, dataset_pointer, group_columns, groups_key
from catdog.data.datasets.drawn import open_drawn
from catdog.data.datasets.image_folder import open_folder
from catdog.data.datasets.labelled_images import Packing
from catdog.data.groups import read_groups
from catdog.data.prepare import find_dataset, prepare_dataset, second_tasks
from catdog.errors import UserError
from catdog.storage import MemoryStore
from tests.helpers.pets import make_images, make_pets


def sweep_of(dataset: str, *variants: str, data_root: Path | None = None) -> SweepConfig:
    preset = PRESETS["pets-frozen"]
    recipe = dataclasses.replace(preset.recipe, dataset=dataset)
    root = None if data_root is None else str(data_root)
    return dataclasses.replace(preset, recipe=recipe, variants=variants or ("baseline",), data_root=root)


@pytest.fixture(autouse=True)
def nothing_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CATDOG_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CATDOG_DATA_ROOT", raising=False)


def test_a_column_that_a_classifier_can_learn_is_offered() -> None:
    columns = {
        "sex": ["m", "f", "m", "f"],
        "note": ["", "a", "a", "b"],
        "id": ["1", "2", "3", "4"],
        "farm": ["x", "x", "x", "x"],
        "class": ["m", "f", "m", "f"],
        "coat colour": ["m", "f", "m", "f"],
    }
    (found,) = group_columns(columns)
    assert (found.column, found.names, found.labels.tolist()) == ("sex", ("f", "m"), [1, 0, 1, 0])


def test_pets_have_their_species(tmp_path: Path) -> None:
    drawn = open_drawn()
    (species,) = drawn.groups
    assert species.names == ("cat", "dog")
    assert all(drawn.classes[k].endswith(species.names[g]) for k, g in zip(drawn.labels, species.labels, strict=True))
    source = find_dataset(sweep_of("oxford-iiit-pet", data_root=make_pets(tmp_path / "pets")), MemoryStore())[1]
    assert source is not None
    (species,) = source.groups
    named = ["cat" if name.startswith("Cat") else "dog" for name in source.names]
    assert [species.names[g] for g in species.labels] == named
    assert open_folder(make_images(tmp_path / "photos", {"a": 4, "b": 4}), Packing()).groups == ()


def test_further_columns_of_a_csv_are_groups_and_no_part_of_the_fingerprint(tmp_path: Path) -> None:
    make_images(tmp_path, {"a": 4, "b": 4})

    def source_of(**columns: str) -> tuple[str, dict[str, str]]:
        rows = [
            [f"{kind}/{i}.png", kind, *(values[i] for values in columns.values())] for kind in "ab" for i in range(4)
        ]
        text = "\n".join(map(",".join, [["image", "label", *columns], *rows]))
        (tmp_path / "list.csv").write_text(text)
        info = find_dataset(sweep_of(f"csv:{tmp_path / 'list.csv'}"), MemoryStore())[0]
        assert info is not None
        return info.fingerprint, dict(info.groups)

    plain, sexes, others = source_of(), source_of(sex="mfmf", farm="xxxx"), source_of(sex="mmff")
    assert plain[0] == sexes[0] == others[0]
    assert (plain[1], list(sexes[1])) == ({}, ["sex"])
    assert sexes[1] != others[1]


def test_a_column_lies_beside_the_pack_and_another_content_in_its_place_is_found() -> None:
    store, config = MemoryStore(), sweep_of("drawn", "multi-task")
    groups = open_drawn().groups[0]
    dataset = dataclasses.replace(find_dataset(config, store)[0], groups={})  # type: ignore[type-var]
    key = groups_key(dataset.fingerprint, groups.digest)
    arguments = (store, dataset.fingerprint, "species", groups.digest)
    with pytest.raises(UserError, match=f"{key}: no such object: run prepare.py where the dataset's images are"):
        read_groups(*arguments)
    prepare_dataset(config, store, lambda message: None)
    read = read_groups(*arguments)
    assert (read.names, read.labels.tolist()) == (groups.names, groups.labels.tolist())
    other = Groups("species", ("cat", "dog"), np.zeros_like(groups.labels))
    for wrong in (store.get(key)[:-30], other_npz(other)):
        store.put(key, wrong)
        with pytest.raises(UserError, match=f"{key} is damaged .*: delete it, then run prepare.py"):
            read_groups(*arguments)


def other_npz(groups: Groups) -> bytes:
    from catdog.data.groups import store_groups

    store = MemoryStore()
    store_groups(store, "x", [groups])
    return store.get(groups_key("x", groups.digest))


def test_a_store_of_an_earlier_version_gets_the_column_where_the_images_are(tmp_path: Path) -> None:
    store, pets = MemoryStore(), make_pets(tmp_path / "pets")
    here = sweep_of("oxford-iiit-pet", "multi-task", data_root=pets)
    elsewhere = sweep_of("oxford-iiit-pet", "multi-task")
    dataset = prepare_dataset(here, store, lambda message: None)
    pointer, key = dataset_pointer("oxford-iiit-pet"), groups_key(dataset.fingerprint, dataset.groups["species"])
    earlier = json.loads(store.get(pointer))
    del earlier["groups"]
    store.put(pointer, json.dumps(earlier).encode())
    store.delete(key)
    remedy = "run prepare.py where the dataset's images are$"
    with pytest.raises(UserError, match=r"^variant 'multi-task': second_task species: no group column .*; .*" + remedy):
        prepare_dataset(elsewhere, store, lambda message: None)
    assert prepare_dataset(sweep_of("oxford-iiit-pet"), store, lambda message: None).groups == {}
    said: list[str] = []
    assert prepare_dataset(here, store, said.append) == dataset
    assert (said, store.exists(key)) == ([], True), "the pack stands"
    assert prepare_dataset(elsewhere, store, said.append) == dataset
    store.delete(key)
    with pytest.raises(UserError, match=r"^--second-task species: the store lacks this column of Oxford-IIIT Pet: run"):
        prepare_dataset(elsewhere, store, said.append)


def test_an_unknown_column_lists_those_of_the_dataset() -> None:
    said = (
        r"^variant 'multi-task:second_task=sex': second_task sex: no group column of drawn pets: choose from species$"
    )
    with pytest.raises(UserError, match=said):
        prepare_dataset(sweep_of("drawn", "multi-task:second_task=sex"), MemoryStore(), lambda message: None)
    dataset = find_dataset(sweep_of("drawn"), MemoryStore())[0]
    assert dataset is not None
    assert second_tasks(sweep_of("drawn"), dataset) == {}
    assert second_tasks(sweep_of("drawn", "baseline", "multi-task"), dataset) == dataset.groups
