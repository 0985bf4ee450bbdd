"""Which worker nodes a cluster's autoscaler may start: what Ray itself does not tell a driver.

`ray up` leaves its configuration on the head, where a job's driver runs; the autoscaler reads the same file. Under
KubeRay there is no such file, and any worker group may be able to start what is asked for.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

BOOTSTRAP_CONFIG = Path("~/ray_bootstrap_config.yaml")
UNKNOWN_MOST = 64
"""How many nodes to ask for at once where nobody says how many there may be."""

Resources = Mapping[str, float]


@dataclass(frozen=True)
class NodeGroup:
    """A type of worker node, and how many of it there may be."""

    name: str
    resources: Resources
    most: int

    def matches(self, node: Resources) -> bool:
        """Return whether a node that is up has what this type has."""
        return all(node.get(kind, 0.0) >= amount for kind, amount in self._countable.items())

    @property
    def task_options(self) -> dict[str, Any]:
        """Options of a task that only a whole node of this type can run."""
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
class Startable:
    """The types that an autoscaler may start; together they share `most`."""

    groups: tuple[NodeGroup, ...] = ()
    most: int = 0

    @property
    def nodes(self) -> list[Resources]:
        """What each node has that may be started: every type up to its own maximum."""
        return [group.resources for group in self.groups for _ in range(min(group.most, self.most))]


def startable_nodes(wanted: Resources, config_path: Path = BOOTSTRAP_CONFIG) -> Startable:
    """Return what the autoscaler of the cluster that this driver runs on may start; nothing where there is none.

    `wanted` is what a trial needs: where an autoscaler does not say what it has, it is believed to have that.
    """
    try:
        config = yaml.safe_load(config_path.expanduser().read_text())
    except FileNotFoundError:
        on_kubernetes = os.environ.get("RAY_USAGE_STATS_KUBERAY_IN_USE") == "1"  # KubeRay sets it in every pod
        if not on_kubernetes:
            return Startable()
        return Startable((NodeGroup("some worker group", wanted, UNKNOWN_MOST),), UNKNOWN_MOST)
    total = config["max_workers"]
    groups = (
        NodeGroup(
            name,
            kind.get("resources", {}),
            kind.get("max_workers", 0 if name == config["head_node_type"] else total),
        )
        for name, kind in config["available_node_types"].items()
    )
    return Startable(tuple(group for group in groups if group.most), total)
