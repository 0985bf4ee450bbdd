"""Tune tries the listed trials in turn, and starts them in order, whatever has ended."""

import pickle
from pathlib import Path
from types import SimpleNamespace

from ray import tune
from ray.tune.experiment import Experiment, Trial

from catdog.sweep.tune_loop import InOrder, listed


def test_the_search_suggests_the_listed_trials_in_turn_and_a_trial_holds_no_list(tmp_path: Path) -> None:
    trial_ids = [("baseline", seed) for seed in range(300)]
    search = listed(trial_ids)
    tune.register_trainable("nothing", lambda config: None)
    space = {"trial": dict.fromkeys(("variant", "seed"))}
    search.add_configurations(
        Experiment("made", run="nothing", config=space, num_samples=len(trial_ids), storage_path=str(tmp_path))
    )
    trials = [search.next_trial() for _ in trial_ids]
    assert [(one.config["trial"]["variant"], one.config["trial"]["seed"]) for one in trials] == trial_ids
    assert search.next_trial() is None
    assert len(pickle.dumps([iterator.unresolved_spec for iterator in search._iterators])) < 10_000


def test_the_first_pending_trial_starts_first_and_paused_ones_last() -> None:
    scheduler, statuses = InOrder(), [Trial.PAUSED, Trial.RUNNING, Trial.PENDING, Trial.PENDING]
    trials = [SimpleNamespace(trial_id=f"t{index}", status=status) for index, status in enumerate(statuses)]
    for trial in trials:
        scheduler.on_trial_add(None, trial)
    controller = SimpleNamespace(get_live_trials=lambda: trials[::-1])
    order = []
    while (chosen := scheduler.choose_trial_to_run(controller)) is not None:
        order.append(chosen.trial_id)
        chosen.status = Trial.RUNNING
    assert order == ["t2", "t3", "t0"]
