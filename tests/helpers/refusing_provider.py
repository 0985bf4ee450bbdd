"""Ray's fake provider, but one type of nodes is always refused, as AWS does without capacity.

A module of its own: the autoscaler's process imports it.
"""

import os
from pathlib import Path
from typing import Any

from ray.autoscaler._private.fake_multi_node.node_provider import FakeMultiNodeProvider
from ray.autoscaler.node_launch_exception import NodeLaunchException
from ray.autoscaler.tags import TAG_RAY_USER_NODE_TYPE

REFUSED, RECORD = "REFUSED_TYPE", "LAUNCHES"
"""Variables that name the type, and a file that gets a line for every launch."""


class RefusingProvider(FakeMultiNodeProvider):  # type: ignore[misc]
    """Refuses to launch nodes of one type."""

    def create_node_with_resources_and_labels(
        self, node_config: Any, tags: dict[str, str], count: int, resources: Any, labels: Any
    ) -> None:
        kind = tags[TAG_RAY_USER_NODE_TYPE]
        with Path(os.environ[RECORD]).open("a") as record:
            record.write(f"{kind}\n")
        if kind == os.environ[REFUSED]:
            raise NodeLaunchException("InsufficientInstanceCapacity", "there is no capacity", None)
        super().create_node_with_resources_and_labels(node_config, tags, count, resources, labels)
