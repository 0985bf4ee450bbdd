"""How many trials fit on nodes at once."""

import pytest

from catdog.sweep.placement import TrialResources


@pytest.mark.parametrize(
    ("gpus", "cards", "trials"),
    [(1, 2, 2), (0.5, 2, 4), (0.25, 3, 12), (0.4, 2, 4), (0.7, 4, 4), (0.3, 4, 12), (2, 5, 2), (1, 0, 0), (0.5, 0, 0)],
)
def test_a_trial_that_takes_a_share_of_a_gpu_takes_it_of_one_card(gpus: float, cards: int, trials: int) -> None:
    assert TrialResources(1, gpus).workers_on({"CPU": 64.0, "GPU": float(cards)}) == trials


def test_cores_limit_trials_as_gpus_do() -> None:
    assert TrialResources(4, 0.25).workers_on({"CPU": 10.0, "GPU": 1.0}) == 2
    assert TrialResources(4, 0.0).workers_on({"CPU": 10.0}) == 2
    assert TrialResources(1, 0.0).workers_on({}) == 0
