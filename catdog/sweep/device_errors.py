"""Which errors are a GPU's, and which spoil the process, by what they say: few have a class of their own.

Imports no torch: the driver judges errors, too.
"""

import contextlib
import platform
import traceback
from collections.abc import Iterator

import ray

from catdog.errors import Card, DeviceError, NodeError, StoreError, UserError, first_line

_OF_A_GPU = (
    "cuda error", "cuda driver error", "cuda unknown error", "triton error [cuda]", "cudagetdevicecount", "nvml",
    "no cuda gpus", "unable to find an engine", "cudnn error", "cudnn_status", "cublas_status", "uncorrectable ecc",
)  # fmt: skip
_OF_THE_CODE = "device-side assert"
"""An index out of range, which is reported as a "CUDA error", too."""
_GPU_MEMORY = ("cuda out of memory", "cuda error: out of memory", "status_alloc_failed")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that memory ran out, on a GPU or a CPU."""
    return isinstance(error, MemoryError) or _is_out_of_gpu_memory(error) or _says(error, ("defaultcpuallocator",))


def needs_new_process(error: Exception) -> bool:
    """Return whether the error would affect the next trial in this process too: memory, or a broken GPU."""
    return is_out_of_memory(error) or _is_of_a_gpu(error)


def is_fault_of_a_gpu(error: BaseException) -> bool:
    """Return whether an error that no worker has judged yet is a GPU's, and not the trial's."""
    return _is_of_a_gpu(error) and not _is_out_of_gpu_memory(error) and not _says(error, (_OF_THE_CODE,))


def as_device_error(error: Exception, gpus: float) -> DeviceError | None:
    """Return the error as one of this worker's card if it is not the trial's own, on a worker with `gpus`."""
    if isinstance(error, DeviceError):
        found = DeviceError(error.message, error.fault, this_card())
    elif not gpus or not _is_of_a_gpu(error) or _says(error, (_OF_THE_CODE,)):
        return None
    elif _is_out_of_gpu_memory(error):
        from catdog.trial.device import owes_memory

        if not owes_memory(gpus):
            return None
        found = DeviceError(first_line(error), "crowded", this_card())
    else:
        found = DeviceError(f"{type(error).__name__}: {first_line(error)}", "failed", this_card())
    found.add_note("".join(traceback.format_exception(error)))  # which does not travel to the driver otherwise
    return found


@contextlib.contextmanager
def naming_the_card(gpus: float) -> Iterator[None]:
    """Raise the errors of this worker's card as a `DeviceError` that names it."""
    try:
        yield
    except Exception as error:
        fault = as_device_error(error, gpus)
        if fault is None:
            raise
        raise fault from error


@contextlib.contextmanager
def naming_the_node() -> Iterator[None]:
    """Raise a user's mistake as a `NodeError` that names this node: a sweep's own were found before its trials."""
    try:
        yield
    except UserError as mistake:
        if isinstance(mistake, StoreError):
            raise
        fault = NodeError(first_line(mistake), "failed", this_node())
        fault.add_note("".join(traceback.format_exception(mistake)))
        raise fault from mistake


def this_card() -> Card:
    """Return the card that Ray gave this worker."""
    gpus = ray.get_runtime_context().get_accelerator_ids().get("GPU") or ["?"]
    return this_node()._replace(gpu=gpus[0])


def this_node() -> Card:
    """Return this worker's node."""
    return Card(ray.get_runtime_context().get_node_id(), platform.node())


def _is_of_a_gpu(error: BaseException) -> bool:
    known = type(error).__name__ == "AcceleratorError" or _says(error, _OF_A_GPU)
    return known or _is_out_of_gpu_memory(error)


def _is_out_of_gpu_memory(error: BaseException) -> bool:
    return type(error).__name__ == "OutOfMemoryError" or _says(error, _GPU_MEMORY)


def _says(error: BaseException, signs: tuple[str, ...]) -> bool:
    text = str(error).lower()
    return any(sign in text for sign in signs)
