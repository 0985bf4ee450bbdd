"""The Ray that trials run on: what it has or may start, and whether that suffices for a sweep."""

import contextlib
import functools
import logging
import os
import signal
import socket
import threading
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import ray

from catdog.config.recipe import Precision, Recipe
from catdog.config.sweep_options import SweepConfig
from catdog.errors import UserError
from catdog.formatting import ReportProgress
from catdog.storage import StoreLocation
from catdog.sweep import PRELOADED
from catdog.sweep.cards import CardWatch, gpus_by_node, hold_with_actors
from catdog.sweep.device_errors import naming_the_card
from catdog.sweep.placement import (
    AutoscalerLimits,
    TrialResources,
    autoscaler_limits,
    most_nodes,
    most_trials,
    settle_resources,
)
from catdog.sweep.ray_internals import preload_variables
from catdog.system.process import ENVIRONMENT, usable_cores

OBJECT_STORE_BYTES = 128 * 1024 * 1024
"""Enough for a local Ray: data travels through the store and the page cache, never through Ray."""


class Cluster:
    """The Ray that trials run on: the one at RAY_ADDRESS, or a local one started for the duration of the sweep."""

    def __init__(self, config: SweepConfig, location: StoreLocation, report_progress: ReportProgress) -> None:
        self._config = config
        self._location = location
        self._report_progress = report_progress
        self._ours = False
        self._starter = ThreadPoolExecutor(1, "starting-ray")
        """Its thread lives as long as the cluster: Linux kills Ray's processes when their starting thread exits."""
        self._connecting: Future[None] | None = None
        self._units = 0.0
        self.autoscaler = AutoscalerLimits()
        self.slots = 0
        """How many trials can run at once when all nodes are up; 0 before `start`."""
        self.trial_resources = TrialResources(config.cpus_per_trial, 0.0)
        """The resources of one trial; `start` settles its GPUs."""

    def __enter__(self) -> "Cluster":
        return self

    def __exit__(self, *_: object) -> None:
        if self._connecting is not None:
            wait([self._connecting])
        if self.slots:
            self.cards.release()
        if self._ours:
            ray.shutdown()
        self._starter.shutdown()

    @property
    def may_lack_resources(self) -> bool:
        """Return whether a trial might fit nowhere, which only a running Ray can tell."""
        asks_much = bool(self._config.gpus_per_trial) or self._config.cpus_per_trial > usable_cores()
        return asks_much or bool(os.environ.get("RAY_ADDRESS"))

    @property
    def is_this_machine(self) -> bool:
        """Return whether all trials run on this machine."""
        return not os.environ.get("RAY_ADDRESS")

    def start_early(self) -> None:
        """Start a local Ray in the background, since that takes seconds."""
        if self.is_this_machine:
            self._connecting = self._starter.submit(self._connect)

    def start(self) -> None:
        """Connect, and check that trials fit on nodes that are up or may be started; raises `UserError`."""
        if self.slots:
            return
        if self._connecting is not None:
            self._connecting.result()
        self._connect()
        if self._ours and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, _interrupt)  # replaces Ray's handler, which prints a stack trace
        present = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if os.environ.get("RAY_ADDRESS"):
            asked = self._config.gpus_per_trial
            self.autoscaler = autoscaler_limits(
                {"CPU": self._config.cpus_per_trial, "GPU": 1.0 if asked is None else asked}
            )
        nodes = most_nodes(present, self.autoscaler)
        if not self._location.is_shared and nodes > 1:
            raise UserError(
                f"--store {self._location.url}: a folder is not shared by the nodes of this cluster ({nodes} at "
                "most); use s3://bucket/prefix"
            )
        self.trial_resources = settle_resources(self._config, [*present, *self.autoscaler.nodes], self._report_progress)
        self.slots = most_trials(self.trial_resources, present, self.autoscaler)
        gpus = self.trial_resources.gpus
        self.cards = CardWatch(gpus_by_node, self.slots * gpus, functools.partial(hold_with_actors, gpus))
        if not any(map(self.trial_resources.trials_on, present)):
            self._report_progress("no node for a trial is up yet: waiting until the cluster has started one")

    def _connect(self) -> None:
        if ray.is_initialized():
            return
        self._ours = True
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if address := os.environ.get("RAY_ADDRESS"):
            _require_answer(address)
            try:
                ray.init(runtime_env={"env_vars": ENVIRONMENT}, **quiet)
            except (ConnectionError, ray.exceptions.AuthenticationError) as error:
                raise UserError(f"RAY_ADDRESS {address}: {str(error).splitlines()[0]}") from None
        else:
            self._report_progress("starting a local Ray")
            imports = preload_variables("catdog.sweep.preload") | {PRELOADED: ",".join(self._worker_imports())}
            os.environ.update(ENVIRONMENT | imports)  # Ray's processes inherit these
            ray.init("local", include_dashboard=False, object_store_memory=OBJECT_STORE_BYTES, **quiet)

    def _worker_imports(self) -> list[str]:
        """Return the modules to import in the workers that Ray starts up front, one per core.

        Empty if most of them would stay idle: importing torch takes seconds of a core and much memory.
        """
        config, cores = self._config, usable_cores()
        at_once = min(len(config.variants) * len(config.seed_list), cores // config.cpus_per_trial)
        if config.gpus_per_trial != 0 or 2 * at_once < cores:
            return []
        library = config.recipe.backbone_library
        return ["catdog.sweep.trainable", "catdog.trial.run", *([] if library is None else [library])]

    def count_units(self) -> float:
        """Return how many units the cluster has now, or last had if it does not answer."""
        with contextlib.suppress(ray.exceptions.RayError, ConnectionError):
            self._units = float(ray.cluster_resources().get(self.trial_resources.unit, 0.0))
        return self._units

    def precision(self) -> Precision:
        """Return the precision that `auto` stands for here, as measured on a worker."""
        recipe = self._config.recipe
        if recipe.freeze and self._config.gpus_per_trial == 0:
            return "float32"  # no need to ask: see choose_precision
        self.start()
        resources = self.trial_resources
        task = ray.remote(**resources.for_task)(_worker_precision)
        self._report_progress("choosing the precision: a few steps in float32 and in bfloat16")
        precision: Precision = self.cards.on_a_working_card(
            lambda: ray.get(task.remote(recipe, resources.cpus, resources.gpus))
        )
        self._report_progress(f"this run trains in {precision}")
        return precision


def _require_answer(address: str) -> None:
    """Raise `UserError` if nothing listens at HOST:PORT; Ray itself would retry for minutes."""
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
    from catdog.training.precision import choose_precision
    from catdog.trial.setup import prepare_process

    with naming_the_card(gpus):
        return choose_precision(recipe, prepare_process(threads, gpus, recipe.deterministic))
