"""Mask localization: each measure against hand-counted values, and the table of a run's variants."""

import dataclasses
import io

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from catdog.analysis.localization import Outlines, attention_table, gaussian_mask, measure, uniform_mask
from catdog.config.recipe import Recipe
from catdog.runs.artifacts import Localization, localization_json, read_attention_npz
from catdog.runs.history import read_history
from catdog.runs.paths import RunPaths
from catdog.runs.status import open_run
from catdog.storage import MemoryStore
from tests.helpers.made_runs import add_files, make_run, put_trimaps

HALF = np.zeros((1, 8, 8), dtype=bool)
HALF[:, :, :4] = True
"""The animal is the left half of the image."""


def outlines(animals: np.ndarray, height: int = 4, width: int = 4, classes: list[int] | None = None) -> Outlines:
    return Outlines.of(animals, np.array(classes or [0] * len(animals)), height, width)


def mask(*rows: list[float]) -> np.ndarray:
    """One mask of one image."""
    return np.array([[rows]], dtype=np.float16)


def test_a_mask_on_the_animal_has_all_its_mass_there() -> None:
    looks = measure(mask([1, 0.5, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0], [0.2, 0, 0, 0]), outlines(HALF))
    assert looks is not None
    assert (looks.pointing, looks.energy) == (100, 100)


def test_equal_peaks_share_the_point_and_mass_counts_where_it_lies() -> None:
    looks = measure(mask([1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0], [0, 0, 0, 0.5]), outlines(HALF))
    assert looks is not None
    assert looks.pointing == pytest.approx(100 / 3)
    assert looks.energy == pytest.approx(100 / 3.5)


def test_positions_that_saturate_in_float16_tie() -> None:
    logits = np.array([[[[9.0, 12.0, 11.0, 10.0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]]])
    sigmoid = (1 / (1 + np.exp(-logits))).astype(np.float16)
    assert (sigmoid == 1).sum() == 4, "the largest logit, on the animal, is no longer known"
    looks = measure(sigmoid, outlines(HALF))
    assert looks is not None
    assert looks.pointing == 50


def test_a_relu_mask_of_one_value_points_everywhere_alike_and_one_without_mass_nowhere() -> None:
    flat, nothing = mask(*[[0.3] * 4] * 4), mask(*[[0.0] * 4] * 4)
    for masks in (flat, np.concatenate([flat, nothing], axis=1)):
        looks = measure(masks, outlines(HALF))
        assert looks is not None
        assert (looks.pointing, looks.energy) == pytest.approx((50, 50))


def test_uninformative_masks_score_the_share_of_the_image_that_the_animal_covers() -> None:
    for blind in (uniform_mask(4, 4), gaussian_mask(4, 4)):
        looks = measure(blind[None, None], outlines(HALF))
        assert looks is not None
        assert (looks.pointing, looks.energy) == pytest.approx((50, 50))
    centred = np.zeros((1, 9, 9), dtype=bool)
    centred[:, 3:6, 3:6] = True
    uniform = measure(uniform_mask(3, 3)[None, None], outlines(centred, 3, 3))
    gaussian = measure(gaussian_mask(3, 3)[None, None], outlines(centred, 3, 3))
    assert uniform is not None
    assert gaussian is not None
    assert (uniform.pointing, uniform.energy) == pytest.approx((100 / 9, 100 / 9))
    assert gaussian.pointing == 100
    assert gaussian.energy > uniform.energy


def test_the_gaussian_falls_to_exp_of_minus_a_half_at_a_quarter_of_the_images_side() -> None:
    inner, outer = 0.53526143, 0.19691168  # exp(-(1/4² + 1/8²) × 8), exp(-(1/4² + 3/8²) × 8): 1 / 2σ² is 8
    assert gaussian_mask(2, 1) == pytest.approx(np.full((2, 1), 0.60653066))
    assert gaussian_mask(2, 4) == pytest.approx(np.array([[outer, inner, inner, outer]] * 2))
    assert gaussian_mask(4, 2) == pytest.approx(gaussian_mask(2, 4).T)


def test_a_mask_without_mass_is_left_out() -> None:
    masks = np.concatenate([mask([0, 0], [0, 0]), mask([1, 0], [0, 0])], axis=1)
    looks = measure(masks, outlines(HALF, 2, 2))
    assert looks is not None
    assert (looks.pointing, looks.energy) == (100, 100)
    assert measure(masks[:, :1], outlines(HALF, 2, 2)) is None
    assert measure(np.zeros((0, 1, 2, 2)), outlines(HALF[:0], 2, 2)) is None


def test_masks_with_a_value_below_zero_are_not_measured() -> None:
    assert measure(mask([1, -0.5], [0, 0]), outlines(HALF, 2, 2)) is None


def test_every_breed_counts_the_same() -> None:
    animals = np.concatenate([HALF, HALF, HALF, ~HALF])
    masks = np.repeat(mask([1, 0], [0, 0]), 4, axis=0)
    looks = measure(masks, outlines(animals, 2, 2, [5, 5, 5, 9]))
    assert looks is not None
    assert (looks.pointing, looks.energy) == (50, 50)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_the_share_of_a_cell_is_the_share_of_its_area_on_the_animal(
    height: int, width: int, side: int, seed: int
) -> None:
    animals = np.random.default_rng(seed).random((2, side, side)) < 0.4
    shares = outlines(animals, height, width).shares_THW
    assert shares.mean() == pytest.approx(animals.mean(), abs=1e-5)
    finer = animals.repeat(height, axis=1).repeat(width, axis=2)  # so that cell borders fall between pixels
    assert shares == pytest.approx(finer.reshape(2, height, side, width, side).mean(axis=(2, 4)), abs=1e-5)


def test_the_table_has_a_row_for_each_variant_with_masks_and_each_split() -> None:
    store = MemoryStore()
    run_status = make_run(store, ["baseline", "attention", "multi-attention"], range(3), failed=[("attention", 1)])
    assert attention_table(store, run_status).empty, "there are no trimaps"
    outline = np.zeros((64, 64), dtype=bool)
    outline[16:48, 16:48] = True
    put_trimaps(store, run_status, outline)
    table = attention_table(store, run_status)
    assert table[["variant", "part", "trials"]].to_numpy().tolist() == [
        ["attention", "validation", 2],
        ["multi-attention", "validation", 3],
        ["attention", "test", 2],
        ["multi-attention", "test", 3],
    ]
    two_seeds = table["variant"] == "attention"
    intervals = [name for name in table.columns if name.endswith(("_low", "_high"))]
    assert len(intervals) == 12
    assert table.loc[two_seeds, intervals].isna().all().all(), "two seeds give no interval"
    assert not table.drop(columns=intervals).isna().any().any()
    assert not table.loc[~two_seeds].isna().any().any()
    assert ((table["energy"] > 0) & (table["energy"] <= 100)).all()
    uniform = table["energy"] - table["energy_lift_uniform"]
    assert uniform.to_numpy() == pytest.approx(25)  # the outline's share of the image
    chosen = []
    for result in run_status.results("multi-attention"):
        history = pd.read_csv(io.BytesIO(store.get(f"made/trials/multi-attention/seed-{result.seed:02d}/history.csv")))
        chosen.append(history.loc[history["epoch"] == result.best_epoch, "mask_overlap"].item())
    assert table.loc[table["variant"] == "multi-attention", "overlap"].tolist() == pytest.approx([np.mean(chosen)] * 2)
    assert "place" not in table


def test_the_table_counts_the_fewest_images_of_a_seed_whose_validation_images_are_its_own() -> None:
    store, recipe = MemoryStore(), Recipe(precision="float32", resample_split=True)
    make_run(store, ["attention", "se"], range(2), recipe=recipe, epochs=1, test_images=60, classes=3)
    test = Localization(50, 3, 75.0, 30.0, -17.5, 43.0, 2.0, -15.0)
    for seed, images in enumerate((9, 7)):
        splits = {"validation": dataclasses.replace(test, images=images), "test": test}
        add_files(store, RunPaths("made").trial("attention", seed), {"localization.json": localization_json(splits)})
    table = attention_table(store, open_run(store, "made"))
    assert table[["part", "trials", "images"]].to_numpy().tolist() == [["validation", 2, 7], ["test", 2, 50]]


def test_every_place_has_a_row_measured_on_its_own_grid() -> None:
    store = MemoryStore()
    run_status = make_run(store, ["baseline", "attention"], range(2), stages={"layer2": 12, "layer3": 5})
    outline = np.zeros((60, 60), dtype=bool)
    outline[:1] = True
    put_trimaps(store, run_status, outline)
    table = attention_table(store, run_status)
    assert list(table.columns[:4]) == ["variant", "part", "place", "trials"]
    assert table["place"].tolist() == ["head", "layer2", "layer3"] * 2
    assert table["energy_lift_uniform"].tolist() == pytest.approx((table["energy"] - 100 / 60).tolist(), abs=1e-4)
    where = run_status.manifest.variants[1]
    history = read_history(store.get(f"made/trials/{where}/seed-00/history.csv"))
    assert not np.allclose(history["mask_entropy@layer2"], history["mask_entropy"])
    seeds = [(result, f"made/trials/{where}/seed-{result.seed:02d}") for result in run_status.results(where)]
    entropies = [read_history(store.get(f"{folder}/history.csv"))["mask_entropy@layer2"][result.best_epoch]
                 for result, folder in seeds]  # fmt: skip
    assert table["entropy"][1] == pytest.approx(np.mean(entropies))
    masks = [read_attention_npz(store.get(f"{folder}/attention.npz"))["test"].masks["layer3"] for _, folder in seeds]
    outlines_of_test = Outlines.of(np.stack([outline] * 20), (np.arange(20) + 20) % 3, 5, 5)
    found = [measure(one, outlines_of_test) for one in masks]
    assert table["energy"][5] == pytest.approx(np.mean([one.energy for one in found if one is not None]))
