"""The nodes that a cluster has or may start, and how many trials fit on them.

`ray up` leaves its configuration on the head, where a job's driver runs; the autoscaler reads the same file. Under
KubeRay there is no such file, and any worker group may be able to start what a trial needs.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from catdog.config.sweep_options import SweepConfig
from catdog.errors import UserError
from catdog.formatting import ReportProgress
from catdog.runs.cost import Unit
from catdog.sweep.ray_internals import BOOTSTRAP_CONFIG, HEAD_RESOURCE, KUBERAY_VARIABLE, head_nodes

UNKNOWN_MOST = 64
"""The limit on nodes assumed where none is known."""

Resources = Mapping[str, float]


@dataclass(frozen=True)
class NodeGroup:
    """A type of worker node, and how many of them there may be."""

    name: str
    resources: Resources
    most: int

    def matches(self, node: Resources) -> bool:
        """Return whether a running node has at least this type's resources."""
        return all(node.get(kind, 0.0) >= amount for kind, amount in self._countable.items())

    @property
    def task_options(self) -> dict[str, Any]:
        """Return the options of a Ray task that takes up a whole node of this type."""
        custom = {kind: amount for kind, amount in self._countable.items() if kind not in ("CPU", "GPU")}
        return {
            "num_cpus": self.resources.get("CPU", 0.0),
            "num_gpus": self.resources.get("GPU", 0.0),
            "resources": custom,
        }

    @property
    def _countable(self) -> Resources:
        return {kind: amount for kind, amount in self.resources.items() if "memory" not in kind and amount}


@dataclass(frozen=True)
class AutoscalerLimits:
    """The node types that an autoscaler may start; together they share the limit `most`."""

    groups: tuple[NodeGroup, ...] = ()
    most: int = 0

    @property
    def nodes(self) -> list[Resources]:
        """Return the resources of each node that may be started: every type up to its own maximum."""
        return [group.resources for group in self.groups for _ in range(min(group.most, self.most))]


def autoscaler_limits(wanted: Resources, config_path: Path = BOOTSTRAP_CONFIG) -> AutoscalerLimits:
    """Return what the autoscaler of the driver's cluster may start; nothing if there is none.

    `wanted` is what a trial needs: an autoscaler that does not list its node types is assumed to have it.
    """
    try:
        config = yaml.safe_load(Path(os.path.expanduser(config_path)).read_text())
    except FileNotFoundError:
        if os.environ.get(KUBERAY_VARIABLE) != "1":
            return AutoscalerLimits()
        return AutoscalerLimits((NodeGroup("some worker group", wanted, UNKNOWN_MOST),), UNKNOWN_MOST)
    total = config["max_workers"]
    groups = (
        NodeGroup(
            name,
            kind.get("resources", {}),
            kind.get("max_workers", 0 if name == config["head_node_type"] else total),
        )
        for name, kind in config["available_node_types"].items()
    )
    return AutoscalerLimits(tuple(group for group in groups if group.most), total)


@dataclass(frozen=True)
class TrialResources:
    """The resources of one trial: those of each of its workers, which may be on several nodes."""

    cpus: int
    gpus: float
    workers: int = 1

    @property
    def unit(self) -> Unit:
        """Return the unit that trials occupy and that is paid for."""
        return "GPU" if self.gpus else "CPU"

    @property
    def units(self) -> float:
        """Return how many units a trial occupies."""
        return self.workers * (self.gpus or float(self.cpus))

    @property
    def for_tune(self) -> dict[str, float]:
        """Return the resources of the trial's Tune function.

        One that has several workers, which Ray Train starts, waits on the head for them, where it outlives them.
        """
        if self.workers > 1:
            return {HEAD_RESOURCE: 1e-3}
        return {"CPU": float(self.cpus), "GPU": self.gpus}

    @property
    def for_task(self) -> dict[str, float]:
        """Return the resources of a worker as options of a Ray task."""
        return {"num_cpus": float(self.cpus), "num_gpus": self.gpus}

    def workers_on(self, node: Resources) -> int:
        """Return how many workers can run on a node at once."""
        on_cpus, cards = int(node.get("CPU", 0.0) / self.cpus + 1e-6), node.get("GPU", 0.0)
        if not self.gpus:
            return on_cpus
        # A share of a GPU lies on one card.
        on_cards = int(cards) * int(1 / self.gpus + 1e-6) if self.gpus < 1 else int(cards / self.gpus + 1e-6)
        return min(on_cpus, on_cards)


def settle_resources(
    config: SweepConfig, nodes: Sequence[Resources], report_progress: ReportProgress
) -> TrialResources:
    """Return a trial's resources on these nodes; raises `UserError` if it would fit on none."""
    largest = {kind: max((node.get(kind, 0.0) for node in nodes), default=0.0) for kind in ("CPU", "GPU")}
    cpus, gpus = config.threads, config.gpus_per_trial
    if gpus is None:
        gpus = 1.0 if largest["GPU"] else 0.0
        if not gpus:
            report_progress("no GPU here: trials run on the CPU, which is slow for this preset")
    if gpus and not largest["GPU"]:
        raise UserError(f"--gpus-per-trial {gpus:g}: there is no GPU here; use --gpus-per-trial 0 to train on the CPU")
    if cpus > largest["CPU"]:
        raise UserError(f"--cpus-per-trial {config.cpus_per_trial}: the largest node here has {largest['CPU']:g} cores")
    resources = TrialResources(cpus, gpus / config.workers if gpus > 1 else gpus, config.workers)
    if not any(map(resources.workers_on, nodes)):
        raise UserError(
            f"--cpus-per-trial {config.cpus_per_trial} and --gpus-per-trial {gpus:g}: no node here has both"
        )
    if not gpus and largest["GPU"]:
        report_progress("there are GPUs here that trials will not use: --gpus-per-trial 1 trains on them")
    return resources


def most_nodes(present: Sequence[dict[str, float]], limits: AutoscalerLimits) -> int:
    """Return how many nodes there may be at once."""
    return max(len(present), len(head_nodes(present)) + min(len(limits.nodes), limits.most))


def most_trials(resources: TrialResources, present: Sequence[dict[str, float]], limits: AutoscalerLimits) -> int:
    """Return how many trials can run at once when all nodes are up."""
    started = sorted(map(resources.workers_on, limits.nodes), reverse=True)[: limits.most]
    up = sum(map(resources.workers_on, present))
    return max(up, sum(map(resources.workers_on, head_nodes(present))) + sum(started)) // resources.workers
