"""The registry of datasets: what it knows of each is what the dataset itself says."""

import dataclasses
from pathlib import Path

import pytest

from catdog.config.presets import PRESETS
from catdog.data.datasets.registry import DATASETS, find_entry, open_dataset
from catdog.data.prepare import expected_dataset, find_dataset
from catdog.errors import UserError
from catdog.storage import MemoryStore

DEMO = PRESETS["demo"]


def test_an_unknown_name_is_answered_with_the_legal_ones() -> None:
    with pytest.raises(UserError, match=r"^--dataset pets: choose from drawn, oxford-iiit-pet$"):
        find_entry("pets")


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS.keys())
def test_every_preset_names_a_dataset(preset: object) -> None:
    assert find_entry(preset.recipe.dataset).name in DATASETS  # type: ignore[attr-defined]


def test_what_is_expected_of_the_drawn_pets_is_what_they_are() -> None:
    found, source = find_dataset(DEMO, MemoryStore())
    assert found is not None
    assert source is not None
    assert expected_dataset(DEMO) == dataclasses.replace(found, fingerprint="not here yet")
    assert find_entry("drawn").image_side == source.size


def test_what_is_expected_of_the_real_pets_is_what_they_are(pets_root: Path) -> None:
    config = dataclasses.replace(PRESETS["pets-frozen"], data_root=str(pets_root))
    found, source = find_dataset(config, MemoryStore())
    assert found is not None
    assert source is not None
    assert expected_dataset(config) == dataclasses.replace(found, fingerprint="not here yet")
    assert find_entry("oxford-iiit-pet").image_side == source.size


def test_a_folder_for_pets_that_are_made_in_code_is_a_mistake() -> None:
    with pytest.raises(UserError, match="--data-root /pets: the drawn pets are made in code; leave the option out"):
        open_dataset(dataclasses.replace(DEMO, data_root="/pets"))
