"""GPUs that fail: whose fault an error is, which cards are held back; sweeps that end complete beside a broken one."""

import os
import pickle
import re
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import ray
import torch

from catdog.errors import Card, DeviceError, NodeError, StoreError, UserError
from catdog.sweep.cards import CardWatch
from catdog.sweep.device_errors import as_device_error, naming_the_card, needs_new_process
from catdog.trial.device import SIMULATED_GPUS
from tests.helpers.project import ROOT
from tests.helpers.ray_nodes import RayNodes
from tests.helpers.sweeps import SMALL

A, B, C = (Card("node", "host", gpu) for gpu in "012")
FIRST, SECOND, THIRD = (("baseline", seed) for seed in range(3))


class Cards:
    """A `CardWatch` of one node, and which cards it holds back."""

    def __init__(self, gpus: int, needed: int = 1) -> None:
        self.held: set[Card] = set()
        self.watch = CardWatch(lambda: {"node": float(gpus)}, float(gpus), self._hold, needed)

    def _hold(self, card: Card) -> object:
        self.held.add(card)
        return lambda: self.held.discard(card)

    def fail(self, trial: tuple[str, int], card: Card, fault: str = "failed") -> int:
        return self.watch.failed(trial, DeviceError("an error", fault, card))  # type: ignore[arg-type]


def test_a_broken_card_is_held_back_at_once_and_no_trial_is_to_blame() -> None:
    cards = Cards(2)
    for trial in (FIRST, FIRST, FIRST, FIRST):
        assert cards.fail(trial, A, "broken") == 0
    assert cards.held == {A}
    assert cards.watch.nothing_works is None


def test_when_every_card_is_broken_the_sweep_ends_with_the_reason() -> None:
    cards = Cards(2)
    cards.fail(FIRST, A, "broken")
    cards.fail(FIRST, B, "broken")
    assert cards.held == {A, B}
    assert str(cards.watch.nothing_works).startswith("GPU 0 of host: an error (and 1 more): no GPU works: ")


@pytest.mark.usefixtures("local_ray")
def test_what_a_task_finds_wrong_is_said_and_no_worker_is_called_lost() -> None:
    def attempt(error: Exception) -> object:
        def fail() -> None:
            raise error

        return ray.get(ray.remote(fail).remote())

    for error, said in (
        (UserError("--import heads.py: it fails"), "^--import heads.py: it fails$"),
        (StoreError("the bucket is away"), "^the bucket is away$"),
        (MemoryError(), "^the worker of a check was lost"),
    ):
        with pytest.raises((UserError, StoreError), match=said):
            Cards(0).watch.on_a_working_card(lambda error=error: attempt(error))  # type: ignore[misc]
    with pytest.raises(ZeroDivisionError):
        Cards(0).watch.on_a_working_card(lambda: attempt(ZeroDivisionError()))


@pytest.mark.usefixtures("local_ray")
def test_a_worker_that_dies_in_a_check_is_one_line() -> None:
    dying = ray.remote(max_retries=0)(lambda: os._exit(1))
    with pytest.raises(UserError, match=r"^the worker of a check was lost"):
        Cards(0).watch.on_a_working_card(lambda: ray.get(dying.remote()))


def test_a_card_that_fails_two_attempts_in_a_row_is_held_back() -> None:
    cards = Cards(2)
    cards.fail(FIRST, A)
    cards.watch.finished(A)
    cards.fail(FIRST, A)
    assert not cards.held
    cards.fail(SECOND, A)
    assert cards.held == {A}
    cards.watch.finished(A)  # on a card shared with another trial
    assert not cards.held


def test_the_last_card_is_held_back_only_if_it_is_broken() -> None:
    cards = Cards(2)
    for card in (A, A, B, B):
        cards.fail(FIRST if card == A else SECOND, card)
    assert cards.held == {A}
    cards.fail(THIRD, B, "broken")
    assert cards.held == {A, B}


def test_a_trial_that_fails_on_several_cards_is_to_blame_and_they_are_not() -> None:
    cards = Cards(3)
    assert [cards.fail(FIRST, card) for card in (A, A, B)] == [0, 0, 3]
    assert not cards.held
    assert cards.fail(SECOND, B) == 0
    assert not cards.held


def test_where_there_is_one_card_a_trial_is_to_blame_after_three_attempts() -> None:
    cards = Cards(1)
    assert [cards.fail(FIRST, A) for _ in range(3)] == [0, 0, 3]


def test_cards_that_a_trial_on_several_needs_are_held_back_only_if_they_are_broken() -> None:
    cards = Cards(3, needed=2)
    for card in (A, A, B, B):
        cards.fail(FIRST if card == A else SECOND, card)
    assert cards.held == {A}
    assert cards.watch.nothing_works is None
    cards.fail(THIRD, A, "broken")
    assert cards.watch.nothing_works is None
    cards.fail(THIRD, B, "broken")
    assert cards.held == {A, B}
    assert "(and 1 more): fewer GPUs work than a trial needs: " in str(cards.watch.nothing_works)
    assert "less than --gpus-per-trial 2" in str(cards.watch.nothing_works)


def test_a_node_whose_trials_meet_mistakes_is_held_back_with_all_its_cards_while_others_are_left() -> None:
    nodes, held = {"node": 4.0, "other": 2.0}, set[Card]()

    def hold(card: Card) -> Callable[[], None]:
        held.add(card)
        return lambda: held.discard(card)

    watch, node, other = CardWatch(lambda: nodes, 6.0, hold, 2), Card("node", "host"), Card("other", "host-2")

    def fail(trial: tuple[str, int], where: Card) -> int:
        return watch.failed(trial, NodeError("the cache is full", "failed", where))

    assert [fail(FIRST, node), fail(SECOND, node), fail(SECOND, other), fail(THIRD, other)] == [0, 0, 0, 0]
    assert held == {node}, "the other one is the last"
    assert watch.nothing_works is None
    assert [fail(FIRST, other), fail(FIRST, other)] == [0, 3]
    watch.finished(A)
    assert held == {other}, "a trial finished on a card of the first, so that this is the last no more"
    assert [fail(SECOND, node), fail(SECOND, node)] == [3, 4], "on two nodes"


def test_memory_that_others_took_counts_against_no_card() -> None:
    cards = Cards(2)
    assert [cards.fail(FIRST, card, "crowded") for card in (A, A, A, B)] == [0, 0, 0, 4]
    assert not cards.held


def test_cards_of_lost_nodes_do_not_end_a_sweep() -> None:
    nodes = {"node": 1.0, "other": 1.0}
    watch = CardWatch(lambda: nodes, 2.0, lambda card: lambda: None)
    for card in (A, Card("other", "host-2", "0")):
        watch.failed(FIRST, DeviceError("an error", "broken", card))
    assert watch.nothing_works is not None
    del nodes["other"]
    assert watch.nothing_works is None


MESSAGES = [
    "CUDA error: uncorrectable ECC error encountered",
    "CUDA error: unspecified launch failure",
    "CUDA driver error: unknown error",
    "Triton Error [CUDA]: an illegal memory access was encountered",
    "No CUDA GPUs are available",
    "CUDA unknown error - this may be due to an incorrectly set up environment",
    "Unexpected error from cudaGetDeviceCount(). Did you run some cuda functions before",
    'NVML_SUCCESS == r INTERNAL ASSERT FAILED at "../c10/cuda/CUDACachingAllocator.cpp":1016',
    "GET was unable to find an engine to execute this computation",
    "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED",
    "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm(...)`",
]


@pytest.mark.usefixtures("local_ray")
def test_errors_of_a_card_are_known_by_what_they_say() -> None:
    for message in MESSAGES:
        error = as_device_error(RuntimeError(f"{message}\nmore"), gpus=1.0)
        assert error is not None, message
        assert error.fault == "failed"
        assert str(error).startswith("GPU ")
        assert message in str(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: device-side assert triggered"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied (24x64 and 32x37)"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
        KeyError("epoch"),
    ],
)
def test_other_errors_are_the_trials(error: Exception) -> None:
    assert as_device_error(error, gpus=1.0) is None


@pytest.mark.parametrize(
    ("free", "reserved", "fault"), [(1.0, 17.0, None), (0.2, 11.0, "crowded"), (0.0, 22.5, None), (9.0, 3.0, "crowded")]
)
@pytest.mark.usefixtures("local_ray")
def test_running_out_of_memory_is_the_trials_fault_unless_others_took_its_share(
    free: float, reserved: float, fault: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 24 GB, a trial with three quarters may use 17.1."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (int(free * 1e9), 24_000_000_000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: int(reserved * 1e9))
    error = as_device_error(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), gpus=0.75)
    assert (error and error.fault) == fault


@pytest.mark.usefixtures("local_ray")
def test_an_error_of_a_card_reaches_the_driver_with_its_card_and_where_it_arose() -> None:
    with pytest.raises(DeviceError) as raised, naming_the_card(1.0):
        raise RuntimeError("CUDA error: unspecified launch failure")
    error = pickle.loads(pickle.dumps(raised.value))
    assert (error.fault, error.card) == ("failed", raised.value.card)
    assert "unspecified launch failure" in str(error)
    assert __file__ in "".join(traceback.format_exception(error))


@pytest.mark.parametrize(
    ("error", "spoils"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), True),
        (RuntimeError("CUDA error: device-side assert triggered"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied (24x64 and 32x37)"), False),
        (KeyError("epoch"), False),
    ],
)
def test_memory_and_gpu_errors_spoil_a_process(error: Exception, spoils: bool) -> None:
    assert needs_new_process(error) == spoils


SCRIPT = """
import os, sys
import catdog.sweep, ray
from catdog.errors import first_line
from catdog.sweep.callback import SweepCallback
from catdog.sweep.ray_internals import trial_error
from jobs import sweep

told = SweepCallback.on_trial_recover

def tell(self, iteration, trials, trial, **info):
    print("attempt failed:", first_line(trial_error(trial)))
    told(self, iteration, trials, trial, **info)

def fail_in_training():
    import catdog.trial.run
    train = catdog.trial.run.fit
    def fit(*arguments):
        yield from [] if os.environ.get("CUDA_VISIBLE_DEVICES") != os.environ.get("FAILING_GPU") else fail()
        yield from train(*arguments)
    def fail():
        raise RuntimeError("CUDA error: uncorrectable ECC error encountered")
    catdog.trial.run.fit = fit

SweepCallback.on_trial_recover = tell
hook = {"worker_process_setup_hook": fail_in_training}
cpus = 4 if "0.5" in sys.argv else 2  # one for each trial that the two GPUs have room for
ray.init("local", num_cpus=cpus, num_gpus=2, include_dashboard=False, object_store_memory=128 << 20, runtime_env=hook)
sys.exit(sweep.main(sys.argv[1:]))
"""


def sweep_on_simulated_gpus(
    store: Path, *arguments: str, broken: str = "none", failing: str = "none"
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", SCRIPT, "demo", "--store", str(store), *SMALL, *arguments]
    environment = os.environ | {SIMULATED_GPUS: broken, "FAILING_GPU": failing}
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)


FUSSY = """
import os
import torch
from catdog.errors import UserError
from catdog.training import register_optimizer

@register_optimizer("fussy")
def fussy(groups):
    if told := os.environ.get("FAULTY_NODE"):
        with open(told, "a") as file:
            file.write("x")
        raise UserError("the disk of this node is full: make room")
    return torch.optim.AdamW(groups)
"""


@pytest.mark.slow
def test_beside_a_node_that_fails_all_trials_end_complete_after_a_few_attempts_on_it(
    tmp_path: Path, store_folder: Path
) -> None:
    (tmp_path / "fussy.py").write_text(FUSSY)
    command = [
        sys.executable, "jobs/sweep.py", "demo", "--store", str(store_folder), *SMALL, "--seeds", "16",
        "--variants", "baseline", "--import", str(tmp_path / "fussy.py"), "--optimizer", "fussy",
    ]  # fmt: skip
    with RayNodes(["env", f"FAULTY_NODE={tmp_path / 'told'}"]) as nodes:
        environment = os.environ | nodes.environment
        process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)
    assert process.returncode == 0, process.stdout + process.stderr
    assert 1 <= len((tmp_path / "told").read_text()) <= 5
    assert not (store_folder / "demo/failures").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "at_once", "faults"),
    [
        (["--gpus-per-trial", "1"], 2, {"broken": "0"}),
        (["--gpus-per-trial", "0.5"], 4, {"broken": "1"}),
        (["--gpus-per-trial", "1", "--freeze"], 2, {"broken": "0"}),  # which is the first to compute features
        (["--gpus-per-trial", "1"], 2, {"failing": "1"}),
    ],
)
def test_beside_a_card_that_fails_all_trials_end_complete_after_a_few_attempts_on_it(
    arguments: list[str], at_once: int, faults: dict[str, str], store_folder: Path
) -> None:
    process = sweep_on_simulated_gpus(store_folder, "--seeds", "2", *arguments, **faults)
    assert process.returncode == 0, process.stderr
    assert f"6 trials to run, 0 already done; {at_once} at once" in process.stdout
    failed = [line for line in process.stdout.splitlines() if line.startswith("attempt failed:")]
    (card,) = faults.values()
    assert all(f"GPU {card} of " in line for line in failed), failed
    assert len(failed) <= 5, failed  # one, and those that begin until an actor has taken the card
    trials = pd.read_csv(store_folder / "demo/report/trials.csv")
    assert trials["status"].tolist() == ["complete"] * 6
    assert not (store_folder / "demo/failures").exists()


@pytest.mark.slow
def test_trials_on_several_gpus_end_with_one_line_where_too_few_of_them_work(store_folder: Path) -> None:
    arguments = ["--seeds", "1", "--variants", "attention", "--gpus-per-trial", "2"]
    process = sweep_on_simulated_gpus(store_folder, *arguments, broken="1")
    assert process.returncode != 0
    assert re.search(r"GPU 1 of .*: simulated to be broken: fewer GPUs work than a trial needs", process.stderr)
    assert not (store_folder / "demo/failures").exists()
    process = sweep_on_simulated_gpus(store_folder, *arguments)
    assert process.returncode == 0, process.stderr


@pytest.mark.slow
def test_when_no_gpu_works_the_sweep_ends_with_one_line_and_no_failed_trial(store_folder: Path) -> None:
    process = sweep_on_simulated_gpus(store_folder, "--seeds", "1", "--gpus-per-trial", "1", broken="0,1")
    assert process.returncode != 0
    assert "simulated to be broken (and 1 more): no GPU works" in process.stderr
    assert not (store_folder / "demo/failures").exists()
