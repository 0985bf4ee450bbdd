"""The Ray that trials run on: what it has or may start, and whether that is what a sweep asks for."""

import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import ray

from catdog import allocator
from catdog.config import Precision, Recipe, SweepConfig
from catdog.cores import usable_cores
from catdog.errors import UserError
from catdog.records import Unit
from catdog.storage import StoreLocation
from catdog.sweep import PRELOADED
from catdog.sweep.nodes import Resources, Startable, startable_nodes

OBJECT_STORE_BYTES = 128 * 1024 * 1024
"""Enough for a local Ray: data travels through the store and the page cache, never through Ray."""


class Cluster:
    """The Ray that trials run on: the one at RAY_ADDRESS, or one started here for the time of the sweep."""

    def __init__(self, config: SweepConfig, location: StoreLocation, say: Callable[[str], None]) -> None:
        self._config = config
        self._location = location
        self._say = say
        self._ours = False
        self._starter = ThreadPoolExecutor(1, "starting-ray")
        """Its thread lives as long as the cluster: Linux ends Ray's processes with the thread that started them."""
        self._connecting: Future[None] | None = None
        self._units = 0.0
        self.startable = Startable()
        self.slots = 0
        """How many trials can run at once when all nodes are up; 0 before `start`."""
        self.gpus_per_trial = 0.0

    def __enter__(self) -> "Cluster":
        return self

    def __exit__(self, *_: object) -> None:
        if self._connecting is not None:
            wait([self._connecting])
        if self._ours:
            ray.shutdown()
        self._starter.shutdown()

    @property
    def in_doubt(self) -> bool:
        """Whether there may be no place for a trial: only a Ray that runs can tell."""
        asks_much = bool(self._config.gpus_per_trial) or self._config.cpus_per_trial > usable_cores()
        return asks_much or bool(os.environ.get("RAY_ADDRESS"))

    @property
    def is_this_machine(self) -> bool:
        """Whether all trials run here."""
        return not os.environ.get("RAY_ADDRESS")

    def start_early(self) -> None:
        """Begin to start a local Ray, which takes seconds, while the caller does something else."""
        if self.is_this_machine:
            self._connecting = self._starter.submit(self._connect)

    def start(self) -> None:
        """Connect, and check that trials can be placed on what is up or may be started; raises `UserError`."""
        if self.slots:
            return
        if self._connecting is not None:
            self._connecting.result()
        self._connect()
        if self._ours and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, _interrupt)  # over Ray's own handler, which prints a stack
        present = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if os.environ.get("RAY_ADDRESS"):
            asked = self._config.gpus_per_trial
            self.startable = startable_nodes(
                {"CPU": self._config.cpus_per_trial, "GPU": 1.0 if asked is None else asked}
            )
        head = [node for node in present if "node:__internal_head__" in node]
        most_nodes = max(len(present), len(head) + min(len(self.startable.nodes), self.startable.most))
        if self._location.is_local and most_nodes > 1:
            raise UserError(
                f"--store {self._location.url}: a folder is not shared by the nodes of this cluster ({most_nodes} at "
                "most); use s3://bucket/prefix"
            )
        self._settle_resources([*present, *self.startable.nodes])
        present_slots = sum(map(self._trials_on, present))
        started = sorted(map(self._trials_on, self.startable.nodes), reverse=True)[: self.startable.most]
        self.slots = max(present_slots, sum(map(self._trials_on, head)) + sum(started))
        if not present_slots:
            self._say("no node for a trial is up yet: waiting until the cluster has started one")

    def _connect(self) -> None:
        if ray.is_initialized():
            return
        self._ours = True
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if address := os.environ.get("RAY_ADDRESS"):
            _require_answer(address)
            try:
                ray.init(runtime_env={"env_vars": allocator.ENVIRONMENT}, **quiet)
            except (ConnectionError, ray.exceptions.AuthenticationError) as error:
                raise UserError(f"RAY_ADDRESS {address}: {str(error).splitlines()[0]}") from None
        else:
            self._say("starting a local Ray")
            imports = {
                "RAY_preload_python_modules": "catdog.sweep.preload",
                PRELOADED: ",".join(self._worker_imports()),
                "RAY_idle_worker_killing_time_threshold_ms": "600000",  # packing images takes longer than Ray's second
            }
            os.environ.update(allocator.ENVIRONMENT | imports)  # Ray's processes inherit it
            ray.init("local", include_dashboard=False, object_store_memory=OBJECT_STORE_BYTES, **quiet)

    def _worker_imports(self) -> list[str]:
        """Return what the workers that Ray starts at once, one a core, shall import before they have anything to do.

        Nothing where most of them would be idle: an import of torch takes seconds of a core and much memory.
        """
        config, cores = self._config, usable_cores()
        at_once = min(len(config.variants) * len(config.seed_list), cores // config.cpus_per_trial)
        if config.gpus_per_trial != 0 or 2 * at_once < cores:
            return []
        library = config.recipe.backbone_library
        return ["catdog.sweep.trainable", "catdog.trial", *([] if library is None else [library])]

    def _settle_resources(self, nodes: list[Resources]) -> None:
        """Settle what a trial gets; refuse what no node has, which would be waited for without end."""
        largest = {kind: max((node.get(kind, 0.0) for node in nodes), default=0.0) for kind in ("CPU", "GPU")}
        cpus, gpus = self._config.cpus_per_trial, self._config.gpus_per_trial
        if gpus is None:
            gpus = 1.0 if largest["GPU"] else 0.0
            if not gpus:
                self._say("no GPU here: trials run on the CPU, which takes long for this preset")
        if gpus and not largest["GPU"]:
            raise UserError(
                f"--gpus-per-trial {gpus:g}: there is no GPU here; use --gpus-per-trial 0 to train on the CPU"
            )
        if cpus > largest["CPU"]:
            raise UserError(f"--cpus-per-trial {cpus}: the largest node here has {largest['CPU']:g} cores")
        self.gpus_per_trial = gpus
        if not any(map(self._trials_on, nodes)):
            raise UserError(f"--cpus-per-trial {cpus} and --gpus-per-trial {gpus:g}: no node here has both")

    def _trials_on(self, node: Resources) -> int:
        """Return how many trials can run on a node at once."""
        wanted = {"CPU": float(self._config.cpus_per_trial), "GPU": self.gpus_per_trial}
        return min(int(node.get(kind, 0.0) / each + 1e-6) for kind, each in wanted.items() if each)

    @property
    def trial_resources(self) -> dict[str, float]:
        return {"cpu": float(self._config.cpus_per_trial), "gpu": self.gpus_per_trial}

    @property
    def unit(self) -> Unit:
        """What trials take up and what is paid for."""
        return "GPU" if self.gpus_per_trial else "CPU"

    @property
    def units_per_trial(self) -> float:
        return self.gpus_per_trial or float(self._config.cpus_per_trial)

    def count_units(self) -> float:
        """Return how many units the cluster has now (or had, where it does not answer)."""
        with contextlib.suppress(ray.exceptions.RayError, ConnectionError):
            self._units = float(ray.cluster_resources().get(self.unit, 0.0))
        return self._units

    def precision(self) -> Precision:
        """Return the precision that `auto` stands for here, as a worker finds it."""
        recipe = self._config.recipe
        if recipe.freeze and self._config.gpus_per_trial == 0:
            return "float32"  # nothing to ask: see choose_precision
        self.start()
        resources = self.trial_resources
        task = ray.remote(num_cpus=resources["cpu"], num_gpus=resources["gpu"])(_worker_precision)
        self._say("choosing the precision: a few steps in float32 and in bfloat16")
        precision: Precision = ray.get(task.remote(recipe, self._config.cpus_per_trial, self.gpus_per_trial))
        self._say(f"this run trains in {precision}")
        return precision


def _require_answer(address: str) -> None:
    """Raise `UserError` if nothing listens at HOST:PORT, which Ray would try for minutes."""
    host, _, port = address.rpartition(":")
    if "://" in address or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=20).close()
    except OSError as error:
        raise UserError(f"RAY_ADDRESS {address}: no Ray answers there ({error.strerror or error})") from None


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _worker_precision(recipe: Recipe, threads: int, gpus: float) -> Precision:
    from catdog.precision import choose_precision
    from catdog.trial import prepare_process

    return choose_precision(recipe, prepare_process(threads, gpus, recipe.deterministic))
