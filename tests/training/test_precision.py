"""The precision that `auto` chooses; that a run keeps it is shown in tests/sweep/test_sweep.py."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch

from catdog.config.recipe import Recipe
from catdog.training.precision import autocast_for, choose_precision, faster_precision

CPU = torch.device("cpu")


def test_heads_on_cached_features_stay_in_float32_on_a_cpu(recipe: Recipe) -> None:
    assert choose_precision(dataclasses.replace(recipe, freeze=True), CPU) == "float32"


@pytest.mark.parametrize(("precision", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_a_precision_is_that_of_the_products(precision: str, dtype: torch.dtype) -> None:
    with autocast_for(precision, CPU):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype


def test_the_measurement_leaves_the_random_state_as_it_was(recipe: Recipe) -> None:
    before = torch.get_rng_state()
    assert choose_precision(recipe, CPU) in ("float32", "bfloat16")
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("bfloat16", "chosen"), [(1.0, "float32"), (0.9, "float32"), (0.5, "bfloat16")])
def test_bfloat16_must_be_clearly_faster(bfloat16: float, chosen: str) -> None:
    assert faster_precision(float32=1.0, bfloat16=bfloat16) == chosen


@pytest.mark.parametrize(("capability", "chosen"), [(7, "float32"), (8, "bfloat16")])
def test_a_gpu_that_only_emulates_bfloat16_trains_in_float32(
    capability: int, chosen: str, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A T4 has compute capability 7.5; torch can convert to bfloat16 on it."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(major=capability))
    monkeypatch.setattr(torch.cuda, "_check_bf16_tensor_supported", lambda device: True)
    assert choose_precision(recipe, torch.device("cuda")) == chosen
