"""The device of a trial: a GPU that was tried, never the CPU instead; and its share of memory."""

from collections.abc import Iterator

import pytest
import torch

from catdog.errors import DeviceError, UserError
from catdog.trial.device import (
    CONTEXT_BYTES,
    SIMULATED_GPUS,
    has_room,
    memory_share,
    multiplies_correctly,
    room_for_data,
    take_device,
    working_gpu,
)

without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="shows what happens without a GPU")


@pytest.fixture(autouse=True)
def new_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Forget what this process knows of its GPU."""
    monkeypatch.delenv(SIMULATED_GPUS, raising=False)
    working_gpu.cache_clear()
    yield
    working_gpu.cache_clear()


def test_a_trial_that_asks_for_no_gpu_gets_the_cpu() -> None:
    assert take_device(0.0) == torch.device("cpu")


@without_gpu
@pytest.mark.parametrize("gpus", [0.25, 1.0])
def test_a_trial_that_asks_for_a_gpu_which_torch_does_not_see_is_refused_with_torchs_reason(gpus: float) -> None:
    with pytest.raises(DeviceError, match=r"torch cannot use it: .*(NVIDIA|CUDA)") as error:
        take_device(gpus)
    assert error.value.fault == "broken"
    assert "\n" not in str(error.value)


def test_tests_of_scheduling_train_on_the_cpu_except_on_gpus_that_are_simulated_to_be_broken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(SIMULATED_GPUS, "1,3")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert take_device(1.0) == torch.device("cpu")
    working_gpu.cache_clear()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    with pytest.raises(DeviceError, match="simulated"):
        take_device(1.0)


def test_the_first_computation_on_a_device_is_exact_even_in_the_formats_of_tensor_cores() -> None:
    assert multiplies_correctly(torch.device("cpu"))
    left, right = (torch.arange(256 * 256) % 7).float(), (torch.arange(256 * 256) % 5).float()
    for factor in (left, right):
        assert torch.equal(factor, factor.bfloat16().float())  # fewer bits than TF32 has
    assert 256 * left.max() * right.max() < 2**24  # so that float32 adds up without rounding


@pytest.mark.parametrize("processes", [2, 3, 4, 16])
def test_the_processes_on_a_gpu_and_what_cuda_takes_for_each_fit_into_its_memory(processes: int) -> None:
    total = 24_000_000_000
    assert processes * (memory_share(1 / processes, total) + CONTEXT_BYTES) == pytest.approx(total)


GB = 10**9


@pytest.mark.parametrize(
    ("gpus", "free", "taken", "room"),
    [
        (1.0, 80, 0, 40),  # half of the memory
        (1.0, 60, 20, 30),  # half of what this process has left
        (1.0, 10, 0, 5),  # others use the GPU as well
        (0.25, 80, 0, 9.55),  # half of a quarter, less what CUDA takes
        (0.25, 70, 10, 4.55),
        (0.25, 4, 0, 2),
    ],
)
def test_images_and_features_get_half_of_what_a_process_may_still_take(
    gpus: float, free: float, taken: float, room: float
) -> None:
    assert room_for_data(gpus, 80 * GB, int(free * GB), int(taken * GB)) == pytest.approx(room * GB)


def test_the_host_has_room_for_what_is_mapped_there() -> None:
    assert has_room(torch.device("cpu"), 0.0, 10**15)


def test_a_share_of_a_gpu_that_holds_no_more_than_cuda_itself_is_a_mistake() -> None:
    with pytest.raises(UserError, match=r"--gpus-per-trial 0.1: .* 8 GB: give at least 0.2"):
        memory_share(0.1, 8_000_000_000)
