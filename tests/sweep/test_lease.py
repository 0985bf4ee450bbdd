"""Only one sweep at a time can own a run: a driver's lease, and two drivers that start at once."""

import dataclasses
import itertools
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pandas as pd
import pytest

from catdog.errors import StoreError, UserError
from catdog.runs.paths import RunPaths
from catdog.storage import LocalStore, MemoryStore, S3Store, Store, StoreLocation
from catdog.storage.serialization import to_json
from catdog.sweep.lease import LeaseHolder, LeaseWatch, RunLease, read_lease, require_lease
from tests.helpers.faulty_s3 import FaultyS3, Request
from tests.helpers.project import ROOT
from tests.helpers.sweeps import SMALL, start_job

KEY = RunPaths("night").lease


def silent(message: str) -> None:
    """Ignore the lease's messages."""


@pytest.fixture(params=["local", "memory", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "memory":
        return MemoryStore()
    if request.param == "local":
        return LocalStore(tmp_path / "store")
    return StoreLocation.of(request.getfixturevalue("s3_bucket")).open()


def stranger(store: Store, **fields: object) -> LeaseHolder:
    """Store the lease of another driver: a copy of this process's own with `fields` replaced."""
    with RunLease(store, "night", "stranger").hold(silent):
        mine = read_lease(store, "night")
    assert mine is not None
    holder = dataclasses.replace(mine, **fields)  # type: ignore[arg-type]
    store.put(KEY, to_json(dataclasses.asdict(holder)))
    return holder


def ended_process() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_a_lease_is_in_the_store_while_it_is_held_and_leaves_nothing_behind(store: Store) -> None:
    with RunLease(store, "night", "mine").hold(silent) as lease:
        lease.verify()
        holder = read_lease(store, "night")
        assert holder is not None
        assert (holder.launch, holder.pid) == ("mine", os.getpid())
        require_lease(store, "night", "mine")
    assert store.list("") == []
    require_lease(store, "night", "mine")


def test_a_live_holder_on_this_machine_is_named_at_once(store: Store) -> None:
    with (
        RunLease(store, "night", "first").hold(silent),
        pytest.raises(UserError, match=rf"run 'night' is being swept by process {os.getpid()} on .*: wait until"),
        RunLease(store, "night", "second").hold(silent),
    ):
        pass
    assert store.list("") == []


def test_a_zombie_process_counts_as_dead(store: Store) -> None:
    with subprocess.Popen(["true"], stdout=subprocess.PIPE) as zombie:
        assert zombie.stdout is not None
        zombie.stdout.read()
        while "Z" not in Path(f"/proc/{zombie.pid}/stat").read_text().rpartition(")")[2]:
            time.sleep(0.01)
        stranger(store, pid=zombie.pid)
        with RunLease(store, "night", "mine").hold(silent):
            require_lease(store, "night", "mine")


def test_the_lease_of_a_dead_process_on_this_machine_is_taken_over_at_once(store: Store) -> None:
    stranger(store, pid=ended_process())
    said: list[str] = []
    with RunLease(store, "night", "mine").hold(said.append):
        require_lease(store, "night", "mine")
        with pytest.raises(StoreError, match="taken over by process"):
            require_lease(store, "night", "stranger")
    assert said == []


def test_only_one_of_two_drivers_takes_over_from_a_dead_process(store: Store) -> None:
    stranger(store, pid=ended_process())
    outcomes: list[str] = []
    together, one_is_refused = threading.Barrier(2), threading.Event()

    def take_over(launch: str) -> None:
        together.wait()
        try:
            with RunLease(store, "night", launch).hold(silent):
                outcomes.append("won")
                one_is_refused.wait(30)
        except UserError:
            outcomes.append("refused")
            one_is_refused.set()

    threads = [threading.Thread(target=take_over, args=(launch,)) for launch in ("one", "other")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["refused", "won"]


def test_a_later_process_that_reuses_a_dead_ones_pid_is_not_mistaken_for_it(store: Store) -> None:
    stranger(store, pid=os.getppid(), process_started="1")
    with RunLease(store, "night", "mine").hold(silent):
        require_lease(store, "night", "mine")


def test_the_lease_of_a_remote_driver_that_stops_renewing_it_is_taken_over(store: Store) -> None:
    stranger(store, machine="another one", host="spot-17", pid=ended_process())  # here no such process
    said: list[str] = []
    with RunLease(store, "night", "mine", lease_seconds=1.0).hold(said.append):
        require_lease(store, "night", "mine")
    assert len(said) == 1
    assert "on spot-17" in said[0]


def test_the_lease_of_a_remote_driver_that_renews_it_is_respected(store: Store) -> None:
    holder = stranger(store, machine="another one", host="spot-17", pid=ended_process())  # here no such process
    ended = threading.Event()

    def renew() -> None:
        for renewals in itertools.count(1):
            store.put(KEY, to_json(dataclasses.asdict(dataclasses.replace(holder, renewals=renewals))))
            if ended.wait(0.2):
                return

    renewing = threading.Thread(target=renew)
    renewing.start()
    with (
        pytest.raises(UserError, match=r"is being swept by process .* on spot-17"),
        RunLease(store, "night", "mine", lease_seconds=10.0).hold(silent),
    ):
        pass
    ended.set()
    renewing.join()
    kept = read_lease(store, "night")
    assert kept is not None
    assert dataclasses.replace(kept, renewals=0) == dataclasses.replace(holder, renewals=0)


def test_a_driver_whose_lease_was_taken_over_notices_and_leaves_the_new_lease_alone(store: Store) -> None:
    with RunLease(store, "night", "first", lease_seconds=0.6).hold(silent) as first:
        other = stranger_of(store)
        with pytest.raises(UserError, match="was taken over by process"):
            verify_for_a_while(first)
    assert read_lease(store, "night") == other


def test_a_driver_that_asks_notices_a_takeover_before_it_writes(store: Store) -> None:
    with RunLease(store, "night", "first").hold(silent) as first:
        first.ask()
        other = stranger_of(store)
        with pytest.raises(UserError, match=r"was taken over by process .*: this sweep has ended"):
            first.ask()
    assert read_lease(store, "night") == other


def test_a_driver_whose_run_disappears_notices(store: Store) -> None:
    plan = RunPaths("night").manifest
    with RunLease(store, "night", "mine", lease_seconds=0.6).hold(silent) as lease:
        lease.ask()  # a new run has no plan yet
        store.put(plan, b"{}")
        lease.ask()
        store.delete(plan)
        with pytest.raises(UserError, match=rf"^run 'night' is no longer in {store.url}: .* the same command contin"):
            verify_for_a_while(lease)
    assert store.list("") == []


def verify_for_a_while(lease: RunLease) -> None:
    for _ in range(100):
        lease.verify()
        time.sleep(0.05)


def stranger_of(store: Store) -> LeaseHolder:
    """Overwrite the lease, as a driver does when it takes over."""
    holder = read_lease(store, "night")
    assert holder is not None
    other = dataclasses.replace(holder, launch="other", machine="another one")
    store.put(KEY, to_json(dataclasses.asdict(other)))
    return other


def test_a_damaged_lease_blocks_nobody(store: Store) -> None:
    store.put(KEY, b'{"launch": ')
    with RunLease(store, "night", "mine").hold(silent) as lease:
        lease.verify()
    assert store.list("") == []


def test_a_lease_that_another_driver_takes_just_as_it_is_released_is_left_alone(
    s3_bucket: str, s3_environment: dict[str, str]
) -> None:
    theirs = StoreLocation.of(s3_bucket).open()
    released = stranger(theirs)
    taken = dataclasses.replace(released, launch="other")

    class Busy(FaultyS3):
        def passes(self, request: Request) -> None:
            super().passes(request)
            if [one.method for one in self.passed] == ["PUT", "GET"]:  # refused, and why
                theirs.delete(KEY)
            elif [one.method for one in self.passed] == ["PUT", "GET", "GET"]:  # whose it is: nobody's
                theirs.put(KEY, to_json(dataclasses.asdict(taken)))

    with Busy(s3_environment["AWS_ENDPOINT_URL"]) as proxy:
        ours = S3Store(s3_bucket, proxy.url, "us-east-1", patience=0.0)
        with pytest.raises(UserError, match="is being swept by process"), RunLease(ours, "night", "mine").hold(silent):
            pass
    assert read_lease(theirs, "night") == taken


def test_a_lease_of_a_newer_version_counts(store: Store) -> None:
    with RunLease(store, "night", "theirs").hold(silent):
        store.put(KEY, to_json({**json.loads(store.get(KEY)), "queue": "spot"}))
        with pytest.raises(UserError, match="is being swept by process"), RunLease(store, "night", "mine").hold(silent):
            pass
        assert json.loads(store.get(KEY))["launch"] == "theirs"


def test_a_lease_without_a_holder_that_this_version_can_find_is_left_alone(store: Store) -> None:
    theirs = b'{"owner": {"host": "node-7"}}'
    store.put(KEY, theirs)
    with pytest.raises(UserError, match=r"cannot be read \(.*\): delete it if no other process is sweeping this run"):
        RunLease(store, "night", "mine").hold(silent).__enter__()
    assert store.get(KEY) == theirs


def two_at_once(store: str, environment: dict[str, str] | None = None) -> tuple[list[int], list[str]]:
    """Start the same sweep twice at the same time; returns exit codes and outputs, the smaller code first."""
    arguments = [*SMALL, "--seeds", "2", "--variants", "baseline", "se"]
    processes = [start_job(store, *arguments, environment=environment) for _ in range(2)]
    ended = sorted((process.communicate(timeout=240)[0], process.returncode) for process in processes)
    ended.sort(key=lambda pair: pair[1])
    return [code for _, code in ended], [output for output, _ in ended]


def assert_one_won(codes: list[int], outputs: list[str]) -> None:
    assert codes == [0, 2], outputs
    assert outputs[1].splitlines()[-1].startswith("error: run 'demo' is being swept by process")
    assert "Traceback" not in outputs[1]
    assert "4 trials to run, 0 already done" in outputs[0]


@pytest.mark.slow
def test_only_one_of_two_concurrent_sweeps_of_a_run_wins(store_folder: Path) -> None:
    assert_one_won(*two_at_once(str(store_folder)))
    trials = pd.read_csv(store_folder / "demo/report/trials.csv")
    assert trials["status"].tolist() == ["complete"] * 4
    assert not (store_folder / KEY).exists()


@pytest.mark.slow
def test_only_one_of_two_concurrent_sweeps_of_a_run_wins_on_s3_too(
    s3_bucket: str, s3_environment: dict[str, str]
) -> None:
    assert_one_won(*two_at_once(s3_bucket, s3_environment))
    store = StoreLocation.of(s3_bucket).open()
    assert not store.exists("demo/claim.json")
    assert json.loads(store.get("demo/report/summary.json"))["trials"]["complete"] == 4


def test_only_one_of_several_processes_that_need_the_same_pack_makes_it(tmp_path: Path) -> None:
    command = [sys.executable, "jobs/prepare.py", "demo", "--store", str(tmp_path / "store")]
    processes = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    outputs = [process.communicate(timeout=240)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert sorted("packing" in output for output in outputs) == [False, False, True]
    assert len({output.splitlines()[-1] for output in outputs}) == 1
    names = sorted(path.name for path in (tmp_path / "store").rglob("*") if path.is_file())
    groups = [name for name in names if name.startswith("groups-")]
    assert len(groups) == 1
    assert names == ["drawn.json", *groups, "pack.safetensors", "pack.safetensors.sha256.json", "trimaps.npz"]


def test_from_outside_a_run_is_swept_while_its_lease_is_renewed() -> None:
    store = MemoryStore()
    watch = LeaseWatch(store, "night", lease_seconds=0.2)
    assert not watch.is_held()
    with RunLease(store, "night", "mine", lease_seconds=0.2).hold(silent):
        for _ in range(10):
            assert watch.is_held()
            time.sleep(0.05)
    assert not watch.is_held()


def test_from_outside_a_run_is_not_swept_by_a_dead_process_or_one_that_renews_no_lease() -> None:
    store = MemoryStore()
    stranger(store, pid=ended_process())
    assert not LeaseWatch(store, "night").is_held()
    stranger(store, machine="another")
    watch = LeaseWatch(store, "night", lease_seconds=0.1)
    assert watch.is_held()
    seen = [(time.sleep(0.02), watch.is_held())[1] for _ in range(10)]
    assert seen[0]
    assert not seen[-1]
