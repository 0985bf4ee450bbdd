"""What a report shows about a run, as it is read from the store."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest

from catdog.analysis.run_data import read_content
from catdog.runs.artifacts import ProbeMasks
from catdog.runs.places import HEAD
from catdog.runs.results import best_run
from catdog.storage import MemoryStore
from tests.helpers.made_runs import make_run


def test_the_content_of_a_report_is_what_its_trials_left() -> None:
    store = MemoryStore()
    labels = ["baseline", "multi-attention"]
    run_status = make_run(store, labels, range(3), diverged=[("multi-attention", 1)], failed=[("baseline", 2)])
    totals: list[int] = []

    def track(objects: Iterable[Any], total: int) -> list[Any]:
        totals.append(total)
        listed = list(objects)
        assert len(listed) == total
        return listed

    content = read_content(store, run_status, track)
    assert totals == [4, 5, 2]  # predictions, histories, masks
    whole = {("baseline", 0), ("baseline", 1), ("multi-attention", 0), ("multi-attention", 2)}
    assert content.histories.keys() == whole | {("multi-attention", 1)}
    assert {trial: len(history) for trial, history in content.histories.items() if trial not in whole} == {
        ("multi-attention", 1): 0
    }
    assert content.probe_masks.keys() == {("multi-attention", 0), ("multi-attention", 2)}
    first, second = content.probe_masks.values()
    assert first.images_PSSC is second.images_PSSC, "kept once"
    for (label, seed), masks in content.probe_masks.items():
        stored = ProbeMasks.from_npz(store.get(f"made/trials/{label}/seed-{seed:02d}/masks.npz"))
        assert np.array_equal(masks.images_PSSC, stored.images_PSSC)
        assert np.array_equal(masks.masks[HEAD], stored.masks[HEAD])
        assert np.array_equal(masks.predicted_EP, stored.predicted_EP)


def test_a_contact_sheet_is_that_of_the_best_run_in_its_chosen_epoch(caplog: pytest.LogCaptureFixture) -> None:
    store = MemoryStore()
    run_status = make_run(store, ["baseline", "multi-attention"], range(3))
    best = best_run(run_status.results("multi-attention"))
    assert best is not None
    sheet = f"made/trials/multi-attention/seed-{best.seed:02d}/snapshots/epoch-{best.best_epoch:03d}.png"
    assert read_content(store, run_status).contact_sheets == {"multi-attention": store.get(sheet)}
    store.put(sheet, store.get(sheet)[:-1])
    assert read_content(store, run_status).contact_sheets == {}
    assert sheet in caplog.text
