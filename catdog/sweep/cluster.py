"""The Ray that trials run on: what it has, and whether it has what a sweep asks for."""

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Callable
from typing import Any

import ray

from catdog import allocator
from catdog.config import Precision, SweepConfig
from catdog.errors import UserError
from catdog.records import Unit
from catdog.storage import StoreLocation

OBJECT_STORE_BYTES = 128 * 1024 * 1024
"""Enough for a local Ray: data travels through the store and the page cache, never through Ray."""


class Cluster:
    """The Ray that trials run on: the one at RAY_ADDRESS, or one started here for the time of the sweep."""

    def __init__(self, config: SweepConfig, location: StoreLocation, say: Callable[[str], None]) -> None:
        self._config = config
        self._location = location
        self._say = say
        self._ours = False
        self.use_gpu = False
        self.slots = 0
        self._units = 0.0

    def __enter__(self) -> "Cluster":
        return self

    def __exit__(self, *_: object) -> None:
        if self._ours:
            ray.shutdown()

    def start(self) -> None:
        """Connect, and check that trials can be placed."""
        if self.slots:
            return
        if not ray.is_initialized():
            self._ours = True
            quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
            if os.environ.get("RAY_ADDRESS"):
                ray.init(runtime_env={"env_vars": allocator.ENVIRONMENT}, **quiet)
            else:
                self._say("starting a local Ray")
                os.environ.update(allocator.ENVIRONMENT)  # Ray's processes inherit it
                ray.init("local", include_dashboard=False, object_store_memory=OBJECT_STORE_BYTES, **quiet)
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, _interrupt)  # over Ray's own handler, which prints a stack
        nodes = [node for node in ray.nodes() if node["Alive"]]
        if self._location.is_local and len(nodes) > 1:
            raise UserError(
                f"--store {self._location.url}: a folder is not shared by the {len(nodes)} nodes of this cluster; "
                "use s3://bucket/prefix"
            )
        resources = ray.cluster_resources()
        cpus, gpus = resources.get("CPU", 0.0), resources.get("GPU", 0.0)
        if self._config.gpus_per_trial is None and not gpus:
            self._say("no GPU here: trials run on the CPU, which takes long for this preset")
        wanted = self.gpus_per_trial
        if wanted and not gpus:
            raise UserError(
                f"--gpus-per-trial {wanted:g}: there is no GPU here; use --gpus-per-trial 0 to train on the CPU"
            )
        largest = max((node["Resources"].get("CPU", 0.0) for node in nodes), default=0.0)
        if self._config.cpus_per_trial > largest:
            raise UserError(
                f"--cpus-per-trial {self._config.cpus_per_trial}: the largest node here has {largest:g} cores"
            )
        self.use_gpu = wanted > 0
        self.slots = int(min(cpus // self._config.cpus_per_trial, gpus // wanted if wanted else cpus))

    @property
    def gpus_per_trial(self) -> float:
        if self._config.gpus_per_trial is not None:
            return self._config.gpus_per_trial
        return 1.0 if ray.cluster_resources().get("GPU") else 0.0

    @property
    def unit(self) -> Unit:
        """What trials take up and what is paid for."""
        return "GPU" if self.use_gpu else "CPU"

    @property
    def units_per_trial(self) -> float:
        return self.gpus_per_trial if self.use_gpu else float(self._config.cpus_per_trial)

    def count_units(self) -> float:
        """Return how many units the cluster has now (or had, where it does not answer)."""
        with contextlib.suppress(ray.exceptions.RayError, ConnectionError):
            self._units = float(ray.cluster_resources().get(self.unit, 0.0))
        return self._units

    @property
    def trial_resources(self) -> dict[str, float]:
        return {"cpu": float(self._config.cpus_per_trial), "gpu": self.gpus_per_trial}

    def precision(self) -> Precision:
        """Return the precision that `auto` stands for here: bfloat16 on GPUs that have it."""
        if self._config.gpus_per_trial == 0:
            return "float32"
        self.start()
        task = ray.remote(num_gpus=self.gpus_per_trial, num_cpus=self._config.cpus_per_trial)(_device_precision)
        precision: Precision = ray.get(task.remote())
        return precision


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _device_precision() -> Precision:
    import torch

    return "bfloat16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "float32"
