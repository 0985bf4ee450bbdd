"""Writing a report: what it may replace."""

import shutil
from collections import Counter
from pathlib import Path

import pytest

from catdog.analysis.run_data import read_content
from catdog.cli import run_job
from catdog.report.build import build_files, write_report
from catdog.runs.paths import RunPaths
from catdog.runs.status import open_run
from catdog.storage import LocalStore, MemoryStore
from jobs import aggregate
from tests.helpers.made_runs import make_run


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four complete trials with its report; one of them is gone since."""
    folder = tmp_path_factory.mktemp("reported")
    store = LocalStore(folder)
    write_report(store, make_run(store, ["baseline", "se"], range(2), epochs=1, test_images=40))
    store.delete(RunPaths("made").trial("se", 1).result)
    return folder


@pytest.fixture
def store(tmp_path: Path, reported: Path) -> LocalStore:
    """A copy of it for each test."""
    return LocalStore(shutil.copytree(reported, tmp_path / "store"))


def report_of(store: LocalStore) -> dict[str, bytes]:
    return {key: store.get(key) for key in store.list(RunPaths("made").report(""))}


@pytest.mark.parametrize("place", ["the store", "another folder"])
def test_a_report_is_replaced_by_one_of_fewer_complete_trials_only_by_force(
    place: str, store: LocalStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, out = report_of(store), tmp_path / "out"
    arguments = ["--store", store.url, "--run", "made"]
    if place == "another folder":
        arguments += ["--out", str(out)]
        for key, data in before.items():
            LocalStore(out).put(key.removeprefix("made/report/"), data)
    assert run_job(aggregate.main, arguments) == 2
    error = capsys.readouterr().err
    assert "is of 4 complete trials" in error
    assert "has 3 now" in error
    assert "--force" in error
    assert len(error.splitlines()) == 1
    assert report_of(store) == before
    assert run_job(aggregate.main, [*arguments, "--force"]) == 1, "a trial is missing"
    assert (report_of(store) == before) == (place == "another folder")
    assert run_job(aggregate.main, arguments) == 1, "the report is of as many trials now"


def test_a_running_sweep_replaces_its_own_report(store: LocalStore) -> None:
    write_report(store, open_run(store, "made"), running=True)
    assert "3 of 4" in store.get(RunPaths("made").report("report.html")).decode()


@pytest.mark.parametrize(
    "summary", [b"", b"[]", b'{"trials": {"complete": "many"}}', b'{"trials": {"complete": null}}']
)
def test_a_report_that_cannot_be_read_is_replaced(summary: bytes, store: LocalStore) -> None:
    store.put(RunPaths("made").report("summary.json"), summary)
    assert len(write_report(store, open_run(store, "made")).run_status.results("se")) == 1


class CountingStore(MemoryStore):
    """A store that counts how often each object is read."""

    def __init__(self, objects: dict[str, bytes]) -> None:
        super().__init__()
        self.objects, self.reads = objects, Counter[str]()

    def get(self, key: str) -> bytes:
        """Return the object."""
        self.reads[key] += 1
        return super().get(key)


def test_a_report_reads_the_files_of_a_trial_once_but_masks_which_are_checked_and_then_drawn() -> None:
    made = MemoryStore()
    make_run(made, ["baseline", "attention"], range(3), epochs=2, test_images=40)
    store = CountingStore(made.objects)
    kept = write_report(store, open_run(store, "made", keep=True))
    again = {key for key, times in store.reads.items() if times > 1 and "/trials/" in key}
    assert again == {key for key in made.objects if key.endswith("masks.npz")}
    assert build_files(kept) == build_files(read_content(made, open_run(made, "made")))
