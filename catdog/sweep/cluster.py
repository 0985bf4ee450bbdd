"""The Ray that trials run on: what it has or may start, and whether that suffices for a sweep."""

import contextlib
import functools
import logging
import os
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import ray

from catdog.config.recipe import Precision, Recipe
from catdog.config.sweep_options import SweepConfig
from catdog.errors import UserError
from catdog.formatting import ReportProgress
from catdog.storage import StoreLocation
from catdog.sweep.cards import CardWatch, hold_with_actors, units_by_node
from catdog.sweep.device_errors import naming_the_card
from catdog.sweep.local_ray import ray_folder, start_local_ray
from catdog.sweep.placement import (
    AutoscalerLimits,
    TrialResources,
    autoscaler_limits,
    most_nodes,
    most_trials,
    settle_resources,
)
from catdog.sweep.ray_address import ray_address, require_answer
from catdog.sweep.ray_internals import keep_sigterm_handler
from catdog.sweep.shared_folder import check_shared
from catdog.system.process import ENVIRONMENT, usable_cores


class Cluster:
    """The Ray that trials run on: the one at RAY_ADDRESS, or a local one started for the duration of the sweep."""

    def __init__(self, config: SweepConfig, location: StoreLocation, report_progress: ReportProgress) -> None:
        self._config = config
        self._location = location
        self._report_progress = report_progress
        self._ours = False
        self._starter = ThreadPoolExecutor(1, "starting-ray")
        """Its thread lives as long as the cluster: Linux kills Ray's processes when their starting thread exits.

        In the main thread, Ray would replace the handlers of signals.
        """
        self._connecting: Future[None] | None = None
        self._folder = contextlib.ExitStack()
        self.address = ray_address()
        """HOST:PORT of the Ray to use, or "auto"; None to start one here."""
        self._units = 0.0
        self.autoscaler = AutoscalerLimits()
        self.slots = 0
        """How many trials can run at once when all nodes are up; 0 before `start`."""
        self.trial_resources = TrialResources(config.threads, 0.0, config.workers)
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
        self._folder.close()

    @property
    def may_lack_resources(self) -> bool:
        """Return whether a trial might fit nowhere, which only a running Ray can tell."""
        asks_much = bool(self._config.gpus_per_trial) or self._config.cpus > usable_cores()
        return asks_much or not self.is_this_machine

    @property
    def is_this_machine(self) -> bool:
        """Return whether all trials run on this machine."""
        return self.address is None

    def start_early(self) -> None:
        """Start a local Ray in the background, since that takes seconds."""
        if self.is_this_machine:
            self._connection()

    def start(self) -> None:
        """Connect, and check that trials fit on nodes that are up or may be started; raises `UserError`."""
        if self.slots:
            return
        self._connection().result()
        present = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if not self.is_this_machine:
            asked = self._config.gpus_per_trial
            self.autoscaler = autoscaler_limits(
                {"CPU": self._config.threads, "GPU": 1.0 if asked is None else min(asked, 1.0)}
            )
        nodes = most_nodes(present, self.autoscaler)
        if not self._location.is_shared and nodes > 1:
            if self.autoscaler.most:
                raise UserError(
                    f"--store {self._location.url}: nodes that this cluster starts later may not share a folder "
                    f"({nodes} nodes at most); use s3://bucket/prefix"
                )
            self._report_progress(f"checking that {nodes} nodes share {self._location.url}")
            check_shared(self._location.url)
        self.trial_resources = settle_resources(self._config, [*present, *self.autoscaler.nodes], self._report_progress)
        self.slots = most_trials(self.trial_resources, present, self.autoscaler)
        if not self.slots:
            raise UserError(f"{self._config.workers_option}: the nodes here have room for fewer workers")
        resources = self.trial_resources
        count = functools.partial(units_by_node, resources.unit)
        hold = functools.partial(hold_with_actors, resources.unit, resources.units / resources.workers)
        most_gpus = self.slots * resources.workers * resources.gpus
        self.cards = CardWatch(count, most_gpus, hold, max(resources.workers, resources.units))
        if not any(map(resources.workers_on, present)):
            self._report_progress("no node for a trial is up yet: waiting until the cluster has started one")

    def _connection(self) -> "Future[None]":
        """Begin to connect, unless that has begun; raises `UserError` for what can be known before."""
        if self._connecting is None:
            folder = self._folder.enter_context(ray_folder()) if self.is_this_machine else None
            self._connecting = self._starter.submit(self._connect, folder)
        return self._connecting

    def _connect(self, folder: Path | None) -> None:
        if ray.is_initialized():
            return
        self._ours = True
        os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")  # a trial's error is told once, by us
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        with keep_sigterm_handler():
            if self.address is None:
                self._report_progress("starting a local Ray")
                start_local_ray(folder, self._worker_imports(), **quiet)
                return
            require_answer(self.address)
            try:
                ray.init(self.address, runtime_env={"env_vars": ENVIRONMENT}, **quiet)
            except (ConnectionError, ray.exceptions.AuthenticationError) as error:
                raise UserError(f"RAY_ADDRESS {self.address}: {str(error).splitlines()[0]}") from None

    def _worker_imports(self) -> list[str]:
        """Return the modules to import in the workers that Ray starts up front, one per core.

        Empty if most of them would stay idle: importing torch takes seconds of a core and much memory.
        """
        config, cores = self._config, usable_cores()
        at_once = min(len(config.variant_specs) * len(config.seed_list), cores // config.cpus)
        if config.gpus_per_trial != 0 or config.workers > 1 or 2 * at_once < cores:
            return []
        libraries = {library for recipe in config.recipes if (library := recipe.backbone_library) is not None}
        return ["catdog.sweep.trainable", "catdog.trial.run", *sorted(libraries)]

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


def _worker_precision(recipe: Recipe, threads: int, gpus: float) -> Precision:
    from catdog.training.precision import choose_precision
    from catdog.trial.setup import prepare_process

    with naming_the_card(gpus):
        return choose_precision(recipe, prepare_process(threads, gpus, recipe.deterministic))
