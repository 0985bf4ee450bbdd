"""The split: stratified, exact on the official counts, and determined by labels and split seed alone."""

import hashlib
import itertools
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from catdog.config.recipe import Recipe
from catdog.data.datasets.oxford_pets import open_oxford
from catdog.data.split import VALIDATION_SHARE, Split, split_images, stratified_sizes

PARTS: tuple[Literal["train", "validation", "test"], ...] = ("train", "validation", "test")

Labels = tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]


@st.composite
def labelled(draw: st.DrawFn) -> Labels:
    """Labels and is_test of up to 150 images of up to 7 breeds, at least one of them not a test image."""
    pairs = draw(st.lists(st.tuples(st.integers(0, 6), st.booleans()), max_size=149))
    pairs.append((draw(st.integers(0, 6)), False))
    return np.array([label for label, _ in pairs]), np.array([is_test for _, is_test in pairs])


def official() -> Labels:
    """Labels and is_test with Oxford-IIIT Pet's counts: 3,680 trainval and 3,669 test images of 37 breeds."""
    trainval, test = np.full(37, 100), np.full(37, 100)
    trainval[[7, 11, 12, 22, 32]] = 96, 93, 96, 96, 99
    test[[0, 7, 8, 11, 18, 30, 34]] = 98, 88, 99, 97, 99, 99, 89
    labels = np.concatenate([np.repeat(np.arange(37), trainval), np.repeat(np.arange(37), test)])
    return labels, np.repeat([False, True], [3680, 3669])


def same(a: Split, b: Split) -> bool:
    return all(np.array_equal(a.indices(part), b.indices(part)) for part in PARTS)


def assert_whole_and_disjoint(split: Split, is_test: npt.NDArray[np.bool_]) -> None:
    every = np.concatenate([split.train, split.validation, split.test])
    assert np.array_equal(np.sort(every), np.arange(len(is_test)))
    assert np.array_equal(split.test, np.flatnonzero(is_test))


def assert_stratified(split: Split, labels: npt.NDArray[np.int64], is_test: npt.NDArray[np.bool_]) -> None:
    """Validation holds a fifth of each breed's trainval images, rounded up or down, but one at least and never all."""
    counts = np.bincount(labels[~is_test])
    quotas = np.clip(counts * round(0.2 * counts.sum()) / counts.sum(), 1, counts - 1)[counts > 0]
    assert np.all(np.abs(np.bincount(labels[split.validation], minlength=len(counts))[counts > 0] - quotas) < 1)


@settings(deadline=None)
@given(labelled(), st.integers(0, 1000))
def test_every_image_is_in_exactly_one_split_and_breeds_keep_their_share(data: Labels, split_seed: int) -> None:
    labels, is_test = data
    split = split_images(labels, is_test, split_seed)
    assert_whole_and_disjoint(split, is_test)
    assert_stratified(split, labels, is_test)
    assert set(labels[split.train]) == set(labels[~is_test])


@pytest.mark.parametrize("split_seed", [0, 1, 42])
def test_the_official_counts_give_2944_train_and_736_validation_images(split_seed: int) -> None:
    labels, is_test = official()
    split = split_images(labels, is_test, split_seed)
    assert (len(split.train), len(split.validation), len(split.test)) == (2944, 736, 3669)
    assert_whole_and_disjoint(split, is_test)
    assert_stratified(split, labels, is_test)


def test_the_real_images_are_split_into_2944_and_736(pets_root: Path) -> None:
    source = open_oxford(pets_root)
    split = split_images(source.labels, source.is_test, split_seed=0)
    assert (len(split.train), len(split.validation), len(split.test)) == (2944, 736, 3669)
    assert_whole_and_disjoint(split, source.is_test)
    assert_stratified(split, source.labels, source.is_test)
    for test in (False, True):  # the counts that `official` assumes
        labels, is_test = official()
        real = np.bincount(source.labels[source.is_test == test])
        assert np.array_equal(np.bincount(labels[is_test == test]), real)


def test_only_the_split_seed_determines_the_split() -> None:
    labels, is_test = official()
    np.random.seed(1)
    torch.manual_seed(1)
    first = split_images(labels, is_test, split_seed=3)
    np.random.seed(2)  # global state that another trial may have left behind
    torch.manual_seed(2)
    assert same(first, split_images(labels, is_test, split_seed=3))
    assert not same(first, split_images(labels, is_test, split_seed=4))


def test_each_seed_can_have_a_split_of_its_own_whose_first_is_the_one_that_is_shared_otherwise() -> None:
    shared, own = Recipe(split_seed=7), Recipe(split_seed=7, resample_split=True)
    assert shared.split_seeds(3) == Recipe(split_seed=7, vary="init").split_seeds(3) == (7,)
    assert own.split_seeds(3) == Recipe(split_seed=7, vary="split").split_seeds(3)
    labels, is_test = official()
    fixed = split_images(labels, is_test, 7)
    assert same(fixed, split_images(labels, is_test, shared.split_seeds(3)))
    splits = [split_images(labels, is_test, own.split_seeds(seed)) for seed in range(6)]
    assert same(fixed, splits[0])
    assert not any(same(one, other) for one, other in itertools.combinations(splits, 2))
    assert all(np.array_equal(split.test, fixed.test) for split in splits)
    drawn = np.mean([np.isin(split.validation, fixed.validation).mean() for split in splits[1:]])
    assert 0.15 < drawn < 0.25, "a fifth of any validation images are in another's"
    digest = hashlib.sha256(splits[5].validation.astype("<i8").tobytes()).hexdigest()[:16]
    assert digest == "436e327becf64713", "derived, not stored: another draw would be another split"


def test_the_split_of_seed_0_never_changes() -> None:
    split = split_images(*official(), split_seed=0)
    digest = hashlib.sha256(split.validation.astype("<i8").tobytes()).hexdigest()[:16]
    assert digest == "53c45d81e06cdb12", (
        "the split is derived, not stored: results of before and after this change cannot be mixed"
    )


@settings(deadline=None)
@given(labelled(), st.integers(0, 1000), st.integers(1, 60), st.integers(0, 60))
def test_a_larger_limit_only_adds_images(data: Labels, split_seed: int, limit: int, more: int) -> None:
    labels, is_test = data
    small = split_images(labels, is_test, split_seed, limit)
    large = split_images(labels, is_test, split_seed, limit + more)
    whole = split_images(labels, is_test, split_seed)
    for part in PARTS:
        assert len(small.indices(part)) == min(limit, len(whole.indices(part)))
        assert set(small.indices(part)) <= set(large.indices(part)) <= set(whole.indices(part))


@settings(deadline=None)
@given(labelled(), st.integers(0, 1000), st.integers(1, 60))
def test_a_limit_takes_equally_many_images_of_each_breed_while_they_last(
    data: Labels, split_seed: int, limit: int
) -> None:
    labels, is_test = data
    limited = split_images(labels, is_test, split_seed, limit)
    whole = split_images(labels, is_test, split_seed)
    for part in PARTS:
        taken = np.bincount(labels[limited.indices(part)], minlength=7)
        there = np.bincount(labels[whole.indices(part)], minlength=7)
        assert all(taken[breed] >= min(there[breed], taken.max() - 1) for breed in range(7))


@settings(deadline=None)
@given(labelled(), st.integers(0, 1000), st.one_of(st.none(), st.integers(1, 60)))
def test_the_split_is_that_of_a_scan_for_every_class(data: Labels, split_seed: int, limit: int | None) -> None:
    labels, is_test = data
    trainval, generator = np.flatnonzero(~is_test), np.random.default_rng(split_seed)
    classes, counts = np.unique(labels[trainval], return_counts=True)
    train, validation = [], []
    for label, size in zip(classes, stratified_sizes(counts, VALIDATION_SHARE), strict=True):
        images = generator.permutation(trainval[labels[trainval] == label])
        validation.append(images[:size])
        train.append(images[size:])
    split = split_images(labels, is_test, split_seed, limit)
    scanned = np.concatenate(train), np.concatenate(validation), np.flatnonzero(is_test)
    for part, indices in zip(PARTS, scanned, strict=True):
        ranks = np.array([(labels[indices[:at]] == labels[index]).sum() for at, index in enumerate(indices)], int)
        kept = indices[np.lexsort((labels[indices], ranks))[:limit]]
        assert np.array_equal(split.indices(part), np.sort(kept))


def test_few_training_images_of_each_class_are_drawn_with_the_split_and_lie_in_more_of_them() -> None:
    labels, is_test = official()
    whole = split_images(labels, is_test, split_seed=0)
    five, ten, other = (
        split_images(labels, is_test, seed, train_images_per_class=count) for seed, count in [(0, 5), (0, 10), (1, 5)]
    )
    assert np.array_equal(np.bincount(labels[five.train]), np.full(37, 5))
    assert set(five.train) < set(ten.train) < set(whole.train)
    assert set(other.train) != set(five.train)
    for part in ("validation", "test"):
        assert np.array_equal(five.indices(part), whole.indices(part))
    limited = split_images(labels, is_test, split_seed=0, limit_images=100)
    few = split_images(labels, is_test, split_seed=0, limit_images=100, train_images_per_class=2)
    assert set(few.train) < set(limited.train), "whose features are cached"
    most = split_images(labels, is_test, split_seed=0, train_images_per_class=10_000)
    assert np.array_equal(most.train, whole.train), "a class may have fewer"


def test_a_limit_of_74_is_two_images_of_each_official_breed() -> None:
    labels, is_test = official()
    split = split_images(labels, is_test, split_seed=0, limit_images=74)
    for part in PARTS:
        assert np.array_equal(np.bincount(labels[split.indices(part)]), np.full(37, 2))
