"""Kill anything: a disturbed sweep ends like an undisturbed one and recomputes no saved epoch."""

import os
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest

from catdog.cli import run_job
from catdog.storage import Store, StoreLocation
from jobs import sweep
from tests.helpers.chaos import Chaos, Fault, draw_faults
from tests.helpers.sweeps import comparable

A_FEW = [
    "--variants", "baseline", "multi-attention", "--seeds", "2", "--epochs", "14", "--limit-images", "120",
    "--batch-size", "16", "--checkpoint-seconds", "0",
]  # fmt: skip
A_NIGHT = ["--seeds", "5", "--checkpoint-seconds", "0"]


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_a_few_faults_change_nothing(s3_store: str, s3_environment: dict[str, str], store_folder: Path) -> None:
    store = StoreLocation.of(s3_store).open()
    undisturbed = run_undisturbed(store_folder, A_FEW)
    faults: list[Fault] = ["worker", "driver", "node"]
    with Chaos(store, A_FEW, s3_environment, seed=0) as chaos:
        for fault in chaos.chance.sample(faults, len(faults)):
            chaos.inject(fault, pauses=0.0)
        chaos.finish()
        assert_nothing_changed(chaos, undisturbed)


@pytest.mark.chaos
@pytest.mark.timeout(5400)
@pytest.mark.usefixtures("local_ray")
def test_twenty_faults_change_nothing(s3_bucket: str, s3_environment: dict[str, str], store_folder: Path) -> None:
    seed = int(os.environ.get("CATDOG_CHAOS_SEED", "0"))
    undisturbed = run_undisturbed(store_folder, A_NIGHT)
    store = StoreLocation.of(f"{s3_bucket}/night").open()  # empty: packing the images is disturbed, too
    with Chaos(store, A_NIGHT, s3_environment, seed) as chaos:
        for fault in draw_faults(chaos.chance, count=20, least=3):
            chaos.inject(fault, pauses=0.3)
        chaos.finish()
        assert_nothing_changed(chaos, undisturbed)


def run_undisturbed(folder: Path, arguments: Sequence[str]) -> Store:
    assert run_job(sweep.main, ["demo", "--store", str(folder), *arguments]) == 0
    return StoreLocation.of(str(folder)).open()


def assert_nothing_changed(chaos: Chaos, undisturbed: Store) -> None:
    """Compare the files of the disturbed sweep with those of an undisturbed one, and print a one-line summary."""
    store = chaos.store
    trials, expected = table(store, "trials"), table(undisturbed, "trials")
    again = [trial for trial, times in chaos.held if chaos.saved(trial)[: len(times)] != times]
    kinds = ", ".join(f"{count} {fault}" for fault, count in sorted(chaos.faults.items()))
    print(
        f"{chaos.faults.total()} faults ({kinds}) in {chaos.launches} launches: "
        f"{(trials['status'] != 'complete').sum()} trials lost, {len(trials.compare(expected))} results changed, "
        f"{len(again)} times saved epochs computed again"
    )
    pd.testing.assert_frame_equal(trials, expected)
    pd.testing.assert_frame_equal(table(store, "table"), table(undisturbed, "table"))
    assert not again, "saved epochs were computed again"
    assert kept_files(store) == kept_files(undisturbed)
    for key in sorted(kept_files(undisturbed)):
        if key.endswith((".png", ".npz")):
            assert store.get(key) == undisturbed.get(key), key


def table(store: Store, name: str) -> pd.DataFrame:
    return comparable(store.get(f"demo/report/{name}.csv"))


def kept_files(store: Store) -> set[str]:
    """All keys except those of launches, which have random names."""
    return {key for key in store.list("") if not key.startswith("demo/launches/")}
