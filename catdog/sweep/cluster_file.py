"""What `ray up` reads in cluster.yaml, as far as it can be checked before: https://docs.ray.io/en/latest/cluster/vms/."""

import importlib.resources
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from catdog.errors import UserError, first_line
from catdog.storage.aws_account import launch_mistake

DEFAULT_WORKERS = 2
"""Ray's `max_workers` if the file has none."""


@dataclass(frozen=True)
class NodeType:
    """A type of nodes."""

    name: str
    launch: Mapping[str, Any]
    """Parameters of EC2's RunInstances."""

    @property
    def instance_type(self) -> str:
        """Return the type of machine."""
        return str(self.launch["InstanceType"])

    @property
    def is_spot(self) -> bool:
        """Return whether AWS may take the machine away."""
        return bool(self.launch.get("InstanceMarketOptions", {}).get("MarketType") == "spot")

    @property
    def profile(self) -> str | None:
        """Return the name of the instance profile."""
        profile = self.launch.get("IamInstanceProfile", {})
        return profile.get("Name") or profile.get("Arn", "").rpartition("/")[2] or None


@dataclass(frozen=True)
class ClusterFile:
    """A cluster on AWS, as its file describes it."""

    region: str
    zones: tuple[str, ...]
    """Empty: all."""
    has_public_addresses: bool
    max_workers: int
    head: NodeType
    workers: tuple[NodeType, ...]
    file_mounts: Mapping[str, str]
    """Local paths by those on the nodes."""

    @property
    def nodes(self) -> tuple[NodeType, ...]:
        """Return all types, the head's first."""
        return (self.head, *self.workers)


def read_cluster_file(path: str) -> ClusterFile:
    """Return what the file describes; raises `UserError` if `ray up` would refuse it, or if it is not for AWS."""
    content = _validated(path)
    provider, types = content["provider"], content["available_node_types"]
    if provider["type"] != "aws":
        raise UserError(f"--cluster {path}: provider.type is {provider['type']}: only aws can be checked")
    if "region" not in provider:
        raise UserError(f"--cluster {path}: provider: there is no region: add it")
    nodes = {name: _node_type(path, name, kind["node_config"]) for name, kind in types.items()}
    head = nodes.pop(content["head_node_type"], None)
    if head is None or not nodes:
        raise UserError(f"--cluster {path}: available_node_types: must have head_node_type, and a type of workers")
    return ClusterFile(
        region=provider["region"],
        zones=tuple(zone.strip() for zone in provider.get("availability_zone", "").split(",") if zone.strip()),
        has_public_addresses=not provider.get("use_internal_ips", False),
        max_workers=content.get("max_workers", DEFAULT_WORKERS),
        head=head,
        workers=tuple(nodes.values()),
        file_mounts=content.get("file_mounts", {}),
    )


def _validated(path: str) -> dict[str, Any]:
    """Return the file's content once it fits Ray's schema and has node types."""
    schema = json.loads((importlib.resources.files("ray.autoscaler") / "ray-schema.json").read_text())
    schema["required"] = [*schema["required"], "head_node_type", "available_node_types"]
    schema["properties"]["file_mounts"]["additionalProperties"] = {"type": "string"}
    try:
        content: dict[str, Any] = yaml.safe_load(Path(os.path.expanduser(path)).read_text(encoding="utf-8"))
        jsonschema.validate(content, schema)
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise UserError(f"--cluster {path}: {line}{error.problem}: correct it") from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"--cluster {path}: {first_line(error)}: give the file that ray up gets") from None
    except jsonschema.ValidationError as error:
        raise UserError(
            f"--cluster {path}: {error.json_path.lstrip('$.') or 'the file'}: {first_line(error)}: correct it"
        ) from None
    return content


def _node_type(path: str, name: str, launch: dict[str, Any]) -> NodeType:
    mistake = launch_mistake(launch) if "InstanceType" in launch else "there is no InstanceType"
    if mistake is not None:
        raise UserError(f"--cluster {path}: node_config of {name}: {mistake}: correct it")
    return NodeType(name, launch)
