"""The device that a trial trains on: a GPU that has been tried, or an error that says what is wrong with it.

A trial that asked for a GPU never trains on the CPU.
"""

import functools
import os

import torch

from catdog.errors import DeviceError, UserError, first_line

SIMULATED_GPUS = "CATDOG_SIMULATED_GPUS"
"""The environment variable that lets tests of scheduling run without GPUs: trials train on the CPU instead. Its value
lists the GPUs that are broken, by their number on the node (`1`, or `0,2`; `none`)."""
CONTEXT_BYTES = 900_000_000
"""GPU memory that CUDA takes for a process, besides the process's tensors: 0.5 to 0.9 GB."""
DATA_SHARE = 0.5
"""The share of the free GPU memory that images or features may take; larger ones stay on the host."""


def take_device(gpus: float) -> torch.device:
    """Return the device for a process with this share of a GPU; 0: the CPU.

    On a shared GPU the process gets its share of the memory, less what CUDA takes for it, so that running out of it
    fails this process, not its neighbours.

    Raises:
        DeviceError: the GPU does not work here.
        UserError: the share is too small.
    """
    if not gpus:
        return torch.device("cpu")
    device = working_gpu()
    if gpus < 1 and device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(memory_share(gpus, total) / total)
    return device


def memory_share(gpus: float, total_bytes: int) -> float:
    """Return how many bytes of a GPU's memory a process may take for tensors; raises `UserError` if none are left."""
    share = gpus * total_bytes - CONTEXT_BYTES
    if share <= 0:
        raise UserError(
            f"--gpus-per-trial {gpus:g}: CUDA alone takes more of a GPU with {total_bytes / 1e9:.0f} GB: "
            f"give at least {2 * CONTEXT_BYTES / total_bytes:.2f}"
        )
    return share


def has_room(device: torch.device, gpus: float, data_bytes: int, kept_bytes: int = 0) -> bool:
    """Return whether a process with this share of the device may keep so many bytes of images or features there.

    `kept_bytes` are those that it keeps already, besides.
    """
    if device.type == "cpu":
        return True
    (free, total), taken = torch.cuda.mem_get_info(device), torch.cuda.memory_allocated(device)
    free += torch.cuda.memory_reserved(device) - taken
    return data_bytes + kept_bytes <= room_for_data(gpus, total, free + kept_bytes, taken - kept_bytes)


def room_for_data(gpus: float, total_bytes: int, free_bytes: int, taken_bytes: int) -> float:
    """Return how many bytes of images or features a process may keep on a GPU: `DATA_SHARE` of what it may still take.

    `taken_bytes` are the process's own; what torch has cached for it counts as free.
    """
    own_bytes = memory_share(gpus, total_bytes) if gpus < 1 else total_bytes
    return DATA_SHARE * min(free_bytes, own_bytes - taken_bytes)


def owes_memory(gpus: float) -> bool:
    """Return whether others keep this process from the memory it is entitled to; if the GPU does not tell, True."""
    try:
        free, total = torch.cuda.mem_get_info()
    except RuntimeError:
        return True
    return free + torch.cuda.memory_reserved() < gpus * total - CONTEXT_BYTES


@functools.cache
def working_gpu() -> torch.device:
    """Return the GPU of this process, tried once; raises `DeviceError` if torch cannot use it."""
    if (broken := os.environ.get(SIMULATED_GPUS)) is not None:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")  # by all workers of a trial on this node
        if visible[int(os.environ.get("LOCAL_RANK", "0")) % len(visible)] in broken.split(","):
            raise DeviceError("simulated to be broken", "broken")
        return torch.device("cpu")
    try:
        torch.cuda.init()
    except (AssertionError, RuntimeError) as error:  # the first: a torch that was built without CUDA
        raise DeviceError(f"torch cannot use it: {first_line(error)}", "broken") from error
    device = torch.device("cuda")
    try:
        correct = multiplies_correctly(device)
    except torch.OutOfMemoryError as error:
        raise DeviceError(f"others have taken its memory: {first_line(error)}", "crowded") from error
    except RuntimeError as error:
        raise DeviceError(f"it fails a small computation: {first_line(error)}", "broken") from error
    if not correct:
        raise DeviceError("it computes wrong numbers", "broken")
    return device


def multiplies_correctly(device: torch.device) -> bool:
    """Return whether a small matrix product on the device is right, to the last bit: its factors are small integers."""
    left = (torch.arange(256 * 256) % 7).float().view(256, 256)
    right = (torch.arange(256 * 256) % 5).float().view(256, 256)
    return torch.equal((left.to(device) @ right.to(device)).cpu(), left @ right)
