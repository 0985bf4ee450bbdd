"""The dataset registry: its entries match the datasets themselves."""

import dataclasses
from pathlib import Path

import pytest

from catdog.cli import run_job
from catdog.config.presets import PRESETS
from catdog.config.sweep_options import SweepConfig
from catdog.data.datasets.registry import check_dataset, find_entry
from catdog.data.prepare import expected_dataset, find_dataset
from catdog.errors import UserError
from catdog.storage import MemoryStore
from jobs import sweep
from tests.helpers.pets import make_pets

DEMO = PRESETS["demo"]


def test_an_unknown_dataset_is_a_mistake_that_lists_the_choices() -> None:
    recipe = dataclasses.replace(DEMO.recipe, dataset="pets")
    with pytest.raises(UserError, match=r"^--dataset pets: choose from drawn, oxford-iiit-pet, folder:DIR, csv:FILE, "):
        find_entry(dataclasses.replace(DEMO, recipe=recipe))


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS.keys())
def test_every_preset_names_a_dataset(preset: SweepConfig) -> None:
    assert find_entry(preset).name == preset.recipe.dataset


def test_the_entry_of_the_drawn_pets_matches_the_dataset() -> None:
    found, source = find_dataset(DEMO, MemoryStore())
    assert found is not None
    assert source is not None
    entry = find_entry(DEMO)
    assert (entry.name, entry.trainval_images, entry.image_side) == (found.name, found.trainval_images, source.size)
    assert (found.train_images, found.class_noun, found.test_share) == (960, "breed", None)


def test_the_entry_of_the_real_pets_matches_the_dataset(pets_root: Path) -> None:
    config = dataclasses.replace(PRESETS["pets-frozen"], data_root=str(pets_root))
    found, source = find_dataset(config, MemoryStore())
    assert found is not None
    assert source is not None
    expected = expected_dataset(config)
    assert (expected.name, expected.trainval_images, expected.train_images) == (found.name, 3680, 2944)
    assert (found.train_images, find_entry(config).image_side) == (2944, source.size)


def test_a_data_folder_for_the_drawn_pets_is_a_mistake() -> None:
    with pytest.raises(UserError, match="--data-root /pets: the drawn pets are made in code; leave the option out"):
        check_dataset(dataclasses.replace(DEMO, data_root="/pets"))


@pytest.mark.parametrize(("image_size", "warnings"), [(96, 0), (97, 1), (384, 1)])
def test_a_plan_says_that_images_are_enlarged(
    image_size: int, warnings: int, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    arguments = ["demo", "--store", str(tmp_path), "--image-size", str(image_size), "--dry-run"]
    assert run_job(sweep.main, arguments) == 0
    said = [message for message in caplog.messages if message.startswith(f"--image-size {image_size}: ")]
    assert len(said) == warnings
    assert all(
        "images of the drawn pets are packed at 96 px" in message and "use at most 96" in message for message in said
    )
    assert "nothing was started" in capsys.readouterr().out


def test_a_data_folder_that_cannot_be_one_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    images = make_pets(tmp_path / "pets") / "images"
    for image in images.iterdir():
        image.write_bytes(b"not read")
    config = dataclasses.replace(PRESETS["pets-cpu"], data_root=str(tmp_path / "pets"))
    check_dataset(config).check()
    for folder in (tmp_path / "nowhere", images):
        with pytest.raises(UserError, match=f"^--data-root {folder}: .*give the folder that holds images/"):
            check_dataset(dataclasses.replace(config, data_root=str(folder))).check()
