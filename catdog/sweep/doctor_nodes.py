"""The doctor's checks on a cluster: every node that is up, one of each type that can be started, and short trials."""

import importlib.util
import json
import math
import os
import platform
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Generator, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from catdog.config.sweep_options import SweepConfig
from catdog.errors import DeviceError, StoreError, UserError, first_line
from catdog.formatting import ReportProgress, counted
from catdog.runs.canary import Canary
from catdog.runs.manifest import Identity
from catdog.runs.paths import RunPaths
from catdog.runs.provenance import package_versions
from catdog.storage import StoreLocation
from catdog.storage.serialization import to_json
from catdog.sweep.canary import run_canary
from catdog.sweep.cluster import Cluster
from catdog.sweep.placement import Resources
from catdog.sweep.ray_internals import dashboard_url
from catdog.system.private_folders import node_cache
from catdog.trial.context import RunContext
from catdog.trial.device import CONTEXT_BYTES, working_gpu

TYPE = "type "
"""Begins the name of the finding on a type of nodes of which none is up."""


@dataclass(frozen=True)
class Check:
    """One finding."""

    name: str
    status: Literal["ok", "warning", "fault"]
    finding: str
    remedy: str = ""

    @property
    def line(self) -> str:
        """Return the finding as a human-readable line."""
        mark = {"ok": "ok     ", "warning": "warning", "fault": "FAULT  "}[self.status]
        return f"{mark}  {self.name:<18} {self.finding}{f' → {self.remedy}' if self.remedy else ''}"

    def as_json(self) -> str:
        """Return the finding as a line of JSON, in ASCII."""
        return json.dumps(asdict(self))


@dataclass(frozen=True)
class NodeReport:
    """A worker's report on its node."""

    host: str
    versions: dict[str, str]
    gpus: list[str]
    gpu_error: str | None
    """Why a GPU that Ray counts on this node does not work."""
    bfloat16: bool
    compiler: bool
    """Whether torch.compile has what it needs: a C compiler, and triton for GPUs."""
    free_bytes: int
    """On the disk of the node's cache."""
    store_error: str | None


def check_cluster(location: StoreLocation, cluster: Cluster) -> Iterator[Check]:
    """Describe the cluster, which has started and so shares the store, and check that it demands a token."""
    nodes = [node for node in ray.nodes() if node["Alive"]]
    finding = (
        f"{cluster.address or 'a Ray of this machine'}: {counted(len(nodes), 'node')} up"
        + "".join(f", up to {group.most} of {group.name}" for group in cluster.autoscaler.groups)
        + f"; {counted(cluster.slots, 'trial')} at once"
    )
    yield Check("cluster", "ok", finding)
    if not location.is_shared and len(nodes) > 1:
        yield Check("shared folder", "ok", f"all {len(nodes)} nodes see each other's files in {location.url}")
    mode = os.environ.get("RAY_AUTH_MODE", "token")
    if mode != "token":
        yield Check("token", "fault", f"RAY_AUTH_MODE is {mode!r}", "set RAY_AUTH_MODE=token on every node")
    else:
        yield Check("token", "ok", "RAY_AUTH_MODE is token")
    yield from _check_dashboard()


def _check_dashboard() -> Iterator[Check]:
    """Query the dashboard's jobs without a token: whoever may do that may run code on the cluster."""
    url = dashboard_url()
    if url is None:
        yield Check("dashboard", "ok", "there is none")
        return
    try:
        with urllib.request.urlopen(f"http://{url}/api/jobs/", timeout=10) as response:
            status = response.status
    except urllib.error.HTTPError as error:
        status = error.code
        error.close()
    except OSError as error:
        yield Check("dashboard", "warning", f"{url} does not answer ({error})")
        return
    if status in (401, 403):
        yield Check("dashboard", "ok", f"{url} asks for the token")
    else:
        yield Check(
            "dashboard", "fault", f"{url} answers without a token ({status}): whoever reaches it may run code",
            "start the head with RAY_AUTH_MODE=token",
        )  # fmt: skip


def check_nodes(
    location: StoreLocation,
    cluster: Cluster,
    needed_bytes: int,
    wait_seconds: float,
    report_progress: ReportProgress,
) -> Generator[Check, None, bool]:
    """Compare every node that is up, and one of every type that is not, with the driver.

    All of them have `wait_seconds` together. A type that does not come is a fault only if none for a trial does: until
    then others take its place. Returns whether any node answered that has room for a trial.
    """
    deadline, mine, silent, able = time.monotonic() + wait_seconds, package_versions(), [], False
    for name, resources, pending in _ask_nodes(location, cluster, report_progress):
        try:
            report: NodeReport = ray.get(pending, timeout=max(0.0, deadline - time.monotonic()))
        except ray.exceptions.GetTimeoutError:
            ray.cancel(pending, force=True)
            silent.append(name)
            continue
        except ray.exceptions.RayError as error:
            yield Check(name, "fault", first_line(error), "see the worker's log")
            continue
        check = _compare(name, report, mine, needed_bytes)
        able |= cluster.trial_resources.workers_on(resources) > 0
        yield check
    for name in silent:
        may_lack = able and name.startswith(TYPE)
        remedy = "see ray status and quotas"
        finding = f"no worker answered within {wait_seconds:.0f} s{', others did' if may_lack else ''}"
        yield Check(name, "warning" if may_lack else "fault", finding, remedy)
    return able


def _ask_nodes(
    location: StoreLocation, cluster: Cluster, report_progress: ReportProgress
) -> list[tuple[str, Resources, Any]]:
    """Ask all nodes that are up, and one of every type that is not, for a report: a name, resources, and the answer."""
    # A process that has used a GPU cannot change to another: each serves once.
    probe = ray.remote(num_cpus=0, max_retries=0, max_calls=1)(report_node)
    asked: list[tuple[str, Resources, Any]] = []
    present = [node for node in ray.nodes() if node["Alive"]]
    for node in present:
        pinned = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        # A process sees a GPU only if it requested at least a fraction of one.
        gpus = 0.001 if node["Resources"].get("GPU") else 0
        options = {"scheduling_strategy": pinned, "num_gpus": gpus}
        answer = probe.options(**options).remote(location, gpus > 0)
        asked.append((f"node {node['NodeManagerAddress']}", node["Resources"], answer))
    for group in cluster.autoscaler.groups:
        if not any(group.matches(node["Resources"]) for node in present):
            report_progress(f"starting a node of type {group.name}")
            task = ray.remote(max_retries=0, max_calls=1, **group.task_options)(report_node)
            answer = task.remote(location, group.resources.get("GPU", 0) > 0)
            asked.append((f"{TYPE}{group.name}", group.resources, answer))
    return asked


def _compare(name: str, report: NodeReport, mine: dict[str, str], needed_bytes: int) -> Check:
    others = {
        package: (version, report.versions.get(package, "missing"))
        for package, version in mine.items()
        if package != "catdog-sweep" and report.versions.get(package) != version
    }
    if others:
        shown = ", ".join(f"{package} {theirs} (here {ours})" for package, (ours, theirs) in others.items())
        return Check(name, "fault", f"{report.host}: {shown}", "install requirements.lock there and here")
    if report.gpu_error is not None:
        return Check(name, "fault", f"{report.host}: its GPU: {report.gpu_error}", "repair it, or leave the node out")
    if report.store_error is not None:
        return Check(name, "fault", f"{report.host}: {report.store_error}", "give the node's role access to the store")
    room = f"{report.free_bytes / 1e9:.0f} GB free"
    room += f" for a cache of {needed_bytes / 1e9:.1f} GB" if needed_bytes else ""
    if report.free_bytes < needed_bytes:
        return Check(name, "fault", f"{report.host}: {room}", "a bigger disk, or CATDOG_CACHE on another one")
    gpus = f"{', '.join(report.gpus)} (bfloat16: {_yes(report.bfloat16)})" if report.gpus else "no GPU"
    finding = f"{report.host}: same packages, store writable, {gpus}, torch.compile: {_yes(report.compiler)}, {room}"
    return Check(name, "ok", finding)


def report_node(location: StoreLocation, has_gpu: bool) -> NodeReport:
    """Describe the node that this runs on; `has_gpu` says whether Ray counts one there, which is then tried."""
    import torch

    gpu_error = None
    try:
        if has_gpu:
            working_gpu()
    except DeviceError as error:
        gpu_error = first_line(error)
    cuda = torch.cuda.is_available()
    try:
        location.open().check()
        store_error = None
    except (UserError, StoreError) as error:
        store_error = first_line(error)
    cache = node_cache() if location.is_shared else Path(location.url)
    cache.mkdir(parents=True, exist_ok=True)
    compiler = shutil.which("cc") or shutil.which("gcc")
    return NodeReport(
        host=platform.node(),
        versions=package_versions(),
        gpus=[torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if cuda else [],
        gpu_error=gpu_error,
        bfloat16=cuda and torch.cuda.is_bf16_supported(including_emulation=False),
        compiler=compiler is not None and (not cuda or importlib.util.find_spec("triton") is not None),
        free_bytes=shutil.disk_usage(cache).free,
        store_error=store_error,
    )


def check_canary(
    config: SweepConfig,
    location: StoreLocation,
    identity: Identity,
    cluster: Cluster,
    report_progress: ReportProgress,
) -> Iterator[Check]:
    """Run a short trial of every variant on a worker, and store the measurements for --dry-run."""
    resources = cluster.trial_resources
    context = RunContext.of(config, location, identity, resources.gpus)
    task = ray.remote(**resources.for_task, max_retries=1)(run_canary)
    report_progress("short trials of all variants on a worker")
    try:
        canary: Canary = ray.get(task.remote(context, config.variant_specs))
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None) or error
        yield Check("canary", "fault", first_line(cause))
        return
    location.open().put(RunPaths(config.run_name).canary, to_json(canary))
    for step in canary.steps:
        name = f"canary {step.variant}"
        if step.error is not None:
            yield Check(name, "fault", step.error)
            continue
        peak = step.peak_memory_bytes or 0
        finding = f"{step.train_images_per_second:.0f} images/s in training on {canary.device}, {peak / 1e9:.1f} GB"
        yield Check(name, "ok", finding)
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("GPU")]
    yield from check_packing(config, canary, min((node.get("CPU", 0) / node["GPU"] for node in nodes), default=0))


def check_packing(config: SweepConfig, canary: Canary, cores_per_gpu: float) -> Iterator[Check]:
    """Report what share of a GPU a trial needs, and how many trials a GPU and its share of the cores hold."""
    peaks = [step.peak_memory_bytes for step in canary.steps if step.peak_memory_bytes is not None]
    if canary.memory_bytes is None or not peaks or config.workers > 1:
        return
    need = (max(peaks) + CONTEXT_BYTES) / canary.memory_bytes
    together = max(1, min(int(1 / need), int(cores_per_gpu / config.cpus_per_trial)))
    share = math.floor(1e4 / together) / 1e4
    asked = 1.0 if config.gpus_per_trial is None else config.gpus_per_trial
    room = f"{together} fit on a GPU and its {cores_per_gpu:g} cores"
    finding = f"a trial needs {need:.0%} of {canary.memory_bytes / 1e9:.0f} GB: {room}"
    if need > asked:
        yield Check("GPU memory", "fault", finding, f"--gpus-per-trial {share:g}, or a smaller --batch-size")
    elif asked > share:
        yield Check("GPU memory", "ok", finding, f"--gpus-per-trial {share:g} would pack them")
    else:
        yield Check("GPU memory", "ok", finding)


def _yes(able: bool) -> str:
    return "yes" if able else "no"
