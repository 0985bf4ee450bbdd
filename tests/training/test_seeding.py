"""Seeds: every purpose and epoch of a trial has its own generator, and one purpose can vary alone."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catdog.config.recipe import PURPOSES, Purpose
from catdog.training.seeding import derive_seed, trial_seeds

SEEDS = st.integers(0, 999_999_999)  # the range that --seeds accepts
EPOCHS = st.integers(0, 10_000)
KEYS = st.tuples(SEEDS, st.sampled_from(PURPOSES), EPOCHS)


@settings(deadline=None)
@given(st.lists(KEYS, min_size=2, max_size=40, unique=True))
def test_no_two_generators_of_a_sweep_share_a_seed(keys: list[tuple[int, Purpose, int]]) -> None:
    assert len({derive_seed(*key) for key in keys}) == len(keys)


def test_the_generators_of_thirty_seeds_and_sixty_epochs_are_all_distinct() -> None:
    seeds = {derive_seed(seed, purpose, epoch) for seed in range(30) for purpose in PURPOSES for epoch in range(60)}
    assert len(seeds) == 30 * len(PURPOSES) * 60


@settings(deadline=None)
@given(KEYS)
def test_a_derived_seed_is_valid_for_torch(key: tuple[int, Purpose, int]) -> None:
    assert 0 <= derive_seed(*key) < 2**63


def test_derived_seeds_never_change_so_that_old_trials_can_resume() -> None:
    pinned = {
        "init": 5_093_101_976_529_578_930,
        "order": 7_964_965_305_340_474_863,
        "augment": 1_684_239_238_610_986_860,
        "dropout": 1_729_168_002_221_264_068,
    }
    assert {purpose: derive_seed(7, purpose, 3) for purpose in PURPOSES} == pinned


@settings(deadline=None)
@given(SEEDS, EPOCHS)
def test_a_trial_uses_its_own_seed_for_everything_by_default(seed: int, epoch: int) -> None:
    derive = trial_seeds(seed)
    for purpose in PURPOSES:
        assert derive(purpose, epoch) == derive_seed(seed, purpose, epoch)


@pytest.mark.parametrize("varied", PURPOSES)
def test_varying_one_purpose_leaves_the_others_at_seed_0(varied: Purpose) -> None:
    derive = trial_seeds(5, varied)
    for purpose in PURPOSES:
        for epoch in range(3):
            expected = derive_seed(5 if purpose == varied else 0, purpose, epoch)
            assert derive(purpose, epoch) == expected
