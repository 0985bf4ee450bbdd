"""Checks before a night is spent: one finding each, with the remedy.

The first checks need only this machine, the later ones the cluster: on every node that is up, and on one node of each
type that the autoscaler could start (which starts it), then a short trial of every variant on a worker.
"""

import importlib.util
import json
import logging
import os
import platform
import shutil
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import ray
from ray._private.worker import get_dashboard_url
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from catdog.canary import run_canary
from catdog.config import Identity, SweepConfig
from catdog.data.oxford import OFFICIAL_COUNTS, PACKED_SIZE
from catdog.errors import StoreError, UserError, first_line
from catdog.paths import RunPaths, pack_key
from catdog.plan import resolve_identity
from catdog.provenance import package_versions
from catdog.provision import Dataset, find_dataset, is_provided, node_cache, provide_dataset, weights_digest
from catdog.records import Canary
from catdog.storage import S3Store, StoreLocation
from catdog.sweep.cluster import Cluster
from catdog.sweep.run import run_context

logger = logging.getLogger(__name__)

WORKING_DIR_BYTES = 5_000_000
"""What is uploaded for a job is code; more than this is data that strayed into the folder."""
GPU_CONTEXT_BYTES = 600_000_000
"""About what CUDA takes for a process beside its tensors."""


@dataclass(frozen=True)
class Check:
    """One finding."""

    name: str
    status: Literal["ok", "warning", "fault"]
    finding: str
    remedy: str = ""

    @property
    def line(self) -> str:
        mark = {"ok": "ok     ", "warning": "warning", "fault": "FAULT  "}[self.status]
        return f"{mark}  {self.name:<18} {self.finding}{f' → {self.remedy}' if self.remedy else ''}"

    def as_json(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False)


@dataclass(frozen=True)
class NodeReport:
    """What a worker says of its node."""

    host: str
    versions: dict[str, str]
    gpus: list[str]
    bfloat16: bool
    compiler: bool
    """Whether torch.compile has what it needs: triton for GPUs, a C compiler."""
    free_bytes: int
    """On the disk of the node's cache."""
    store_error: str | None


def examine(config: SweepConfig, wait_seconds: float, say: Callable[[str], None]) -> Iterator[Check]:
    """Yield the findings as they are made; a fault ends those that need what is missing."""
    yield _check_versions()
    yield from _check_working_dir()
    location = StoreLocation.of(config.store)
    store_checks = list(_check_store(location))
    yield from store_checks
    weights = _check_weights(config)
    yield weights
    if any(check.status == "fault" for check in (*store_checks, weights)):
        return
    data, dataset = _check_data(config, location)
    yield data
    with Cluster(config, location, say) as cluster:
        try:
            cluster.start()
        except UserError as error:
            yield Check("cluster", "fault", first_line(error))
            return
        yield from _check_cluster(cluster)
        yield from _check_nodes(location, cluster, _cache_bytes(config, dataset), wait_seconds, say)
        if data.status == "fault":
            return
        store = location.open()
        dataset = provide_dataset(config, store, say)
        identity = resolve_identity(config, store, dataset, weights_digest(config.recipe.weights), cluster.precision)
        yield from _check_canary(config, location, identity, cluster, say)


def _check_versions() -> Check:
    versions = package_versions()
    shown = ", ".join(f"{name} {versions[name]}" for name in ("python", "ray", "torch", "torchvision", "timm"))
    return Check("packages", "ok", shown)


def _check_working_dir() -> Iterator[Check]:
    """Measure what `ray job submit --working-dir .` would upload, packed by Ray's own code."""
    folder = Path.cwd()
    if not (folder / "jobs" / "sweep.py").is_file():
        return
    from ray._private.runtime_env.packaging import create_package

    with tempfile.TemporaryDirectory() as scratch:
        package = Path(scratch) / "working_dir.zip"
        create_package(str(folder), package, include_gitignore=True, logger=logger)
        size = package.stat().st_size
    finding = f"{size / 1e6:.1f} MB would be uploaded by ray job submit"
    if size <= WORKING_DIR_BYTES:
        yield Check("working_dir", "ok", finding)
    else:
        yield Check("working_dir", "warning", finding, "name what a job does not need in .rayignore")


def _check_store(location: StoreLocation) -> Iterator[Check]:
    try:
        store = location.open()
        store.check()
    except (UserError, StoreError) as error:
        yield Check("store", "fault", first_line(error))
        return
    yield Check("store", "ok", f"{location.url} can be written from here")
    if isinstance(store, S3Store):
        abilities = store.abilities()
        shown = ", ".join(f"{name}: {'yes' if able else 'no'}" for name, able in abilities.items())
        yield Check("store's abilities", "ok", shown)


def _check_weights(config: SweepConfig) -> Check:
    weights, backbone = config.recipe.weights, config.recipe.backbone
    try:
        from catdog.models.backbones import build_backbone
        from catdog.provision import provide_weights

        build_backbone(backbone, provide_weights(weights))
        digest = weights_digest(weights)
    except (UserError, StoreError) as error:
        return Check("weights", "fault", first_line(error))
    return Check("weights", "ok", f"{weights} fit {backbone}{f' (sha256 {digest[:12]})' if digest else ''}")


def _check_data(config: SweepConfig, location: StoreLocation) -> tuple[Check, Dataset | None]:
    try:
        store = location.open()
        dataset, source = find_dataset(config, store)
    except (UserError, StoreError) as error:
        return Check("data", "fault", first_line(error)), None
    if dataset is None:
        missing = Check(
            "data", "warning", "Oxford-IIIT Pet is neither here nor in the store: it will be downloaded",
            f"python jobs/prepare.py {config.preset} --store {location.url} --data-root DIR",
        )  # fmt: skip
        return missing, None
    where = "this machine" if source is not None else "the store"
    total = f", {len(source.names):,} images" if source is not None else ""
    packed = "packed in the store" if is_provided(store, pack_key(dataset.fingerprint)) else "not packed yet"
    found = Check(
        "data", "ok",
        f"{dataset.name} {dataset.fingerprint} on {where}{total}, {dataset.trainval_images:,} of them to learn from; "
        f"{packed}",
    )  # fmt: skip
    return found, dataset


def _check_cluster(cluster: Cluster) -> Iterator[Check]:
    address = os.environ.get("RAY_ADDRESS")
    nodes = [node for node in ray.nodes() if node["Alive"]]
    finding = (
        f"{address or 'a Ray of this machine'}: {len(nodes)} node{'s' * (len(nodes) > 1)} up"
        + "".join(f", up to {group.most} of {group.name}" for group in cluster.startable.groups)
        + f"; {cluster.slots} trials at once"
    )
    yield Check("cluster", "ok", finding)
    mode = os.environ.get("RAY_AUTH_MODE", "token")
    if mode != "token":
        yield Check("token", "fault", f"RAY_AUTH_MODE is {mode!r}", "set RAY_AUTH_MODE=token on every node")
    else:
        yield Check("token", "ok", "RAY_AUTH_MODE is token")
    yield from _check_dashboard()


def _check_dashboard() -> Iterator[Check]:
    """Ask the dashboard for its jobs without a token: whoever may do that may run code on the cluster."""
    url = get_dashboard_url()
    if not url:
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


def _cache_bytes(config: SweepConfig, dataset: Dataset | None) -> int:
    """Return about how much a node keeps: all images as bytes, and as much again for a frozen backbone's features."""
    trainval_images = dataset.trainval_images if dataset is not None else OFFICIAL_COUNTS["trainval"]
    pack = 2 * trainval_images * PACKED_SIZE**2 * 3
    return 2 * pack if config.recipe.freeze else pack


def _check_nodes(
    location: StoreLocation, cluster: Cluster, needed_bytes: int, wait_seconds: float, say: Callable[[str], None]
) -> Iterator[Check]:
    """Compare every node that is up, and one of every type that is not, with the driver."""
    mine = package_versions()
    probe = ray.remote(num_cpus=0, max_retries=0)(report_node)
    waiting: dict[str, Any] = {}
    for node in ray.nodes():
        if node["Alive"]:
            pinned = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            # A process sees a GPU only where it has asked for a part of one.
            options = {"scheduling_strategy": pinned, "num_gpus": 0.001 if node["Resources"].get("GPU") else 0}
            waiting[f"node {node['NodeManagerAddress']}"] = probe.options(**options).remote(location)
    for group in cluster.startable.groups:
        if not any(group.matches(node["Resources"]) for node in ray.nodes() if node["Alive"]):
            say(f"starting a node of type {group.name}")
            task = ray.remote(max_retries=0, **group.task_options)(report_node)
            waiting[f"type {group.name}"] = task.remote(location)
    for name, pending in waiting.items():
        try:
            report: NodeReport = ray.get(pending, timeout=wait_seconds)
        except ray.exceptions.GetTimeoutError:
            ray.cancel(pending, force=True)
            yield Check(name, "fault", f"no worker answered within {wait_seconds:.0f} s", "see ray status and quotas")
            continue
        except ray.exceptions.RayError as error:
            yield Check(name, "fault", first_line(error), "see the worker's log")
            continue
        yield _compare(name, report, mine, needed_bytes)


def _compare(name: str, report: NodeReport, mine: dict[str, str], needed_bytes: int) -> Check:
    others = {
        package: (version, report.versions.get(package, "missing"))
        for package, version in mine.items()
        if package != "catdog-sweep" and report.versions.get(package) != version
    }
    if others:
        shown = ", ".join(f"{package} {theirs} (here {ours})" for package, (ours, theirs) in others.items())
        return Check(name, "fault", f"{report.host}: {shown}", "install requirements.lock there and here")
    if report.store_error is not None:
        return Check(name, "fault", f"{report.host}: {report.store_error}", "give the node's role access to the store")
    room = f"{report.free_bytes / 1e9:.0f} GB free for a cache of {needed_bytes / 1e9:.1f} GB"
    if report.free_bytes < needed_bytes:
        return Check(name, "fault", f"{report.host}: {room}", "a bigger disk, or CATDOG_CACHE on another one")
    gpus = f"{', '.join(report.gpus)} (bfloat16: {_yes(report.bfloat16)})" if report.gpus else "no GPU"
    finding = f"{report.host}: same packages, store writable, {gpus}, torch.compile: {_yes(report.compiler)}, {room}"
    return Check(name, "ok", finding)


def report_node(location: StoreLocation) -> NodeReport:
    """Describe the node that this runs on."""
    import torch

    cuda = torch.cuda.is_available()
    try:
        location.open().check()
        store_error = None
    except (UserError, StoreError) as error:
        store_error = first_line(error)
    cache = node_cache() if not location.is_local else Path(location.url)
    cache.mkdir(parents=True, exist_ok=True)
    compiler = shutil.which("cc") or shutil.which("gcc")
    return NodeReport(
        host=platform.node(),
        versions=package_versions(),
        gpus=[torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if cuda else [],
        bfloat16=cuda and torch.cuda.is_bf16_supported(),
        compiler=compiler is not None and (not cuda or importlib.util.find_spec("triton") is not None),
        free_bytes=shutil.disk_usage(cache).free,
        store_error=store_error,
    )


def _check_canary(
    config: SweepConfig, location: StoreLocation, identity: Identity, cluster: Cluster, say: Callable[[str], None]
) -> Iterator[Check]:
    """Run a short trial of every variant on a worker; what it measures is kept for --dry-run."""
    resources = cluster.trial_resources
    context = run_context(config, location, identity, cluster.gpus_per_trial)
    task = ray.remote(num_cpus=resources["cpu"], num_gpus=resources["gpu"], max_retries=1)(run_canary)
    say("short trials of all variants on a worker")
    try:
        canary: Canary = ray.get(task.remote(context, config.variant_specs))
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None) or error
        yield Check("canary", "fault", first_line(cause))
        return
    location.open().put(RunPaths(config.run_name).canary, canary.to_json())
    for step in canary.steps:
        name = f"canary {step.variant}"
        if step.error is not None:
            yield Check(name, "fault", step.error)
            continue
        peak = step.peak_memory_bytes or 0
        finding = f"{step.train_images_per_second:.0f} images/s in training on {canary.device}, {peak / 1e9:.1f} GB"
        yield Check(name, "ok", finding)
    yield from check_packing(config, canary)


def check_packing(config: SweepConfig, canary: Canary) -> Iterator[Check]:
    """Say which part of a GPU a trial needs."""
    peaks = [step.peak_memory_bytes for step in canary.steps if step.peak_memory_bytes is not None]
    if canary.memory_bytes is None or not peaks:
        return
    need = (max(peaks) + GPU_CONTEXT_BYTES) / canary.memory_bytes
    together = max(1, int(1 / need))
    share = 1 / together
    asked = 1.0 if config.gpus_per_trial is None else config.gpus_per_trial
    finding = f"a trial needs {need:.0%} of {canary.memory_bytes / 1e9:.0f} GB: {together} fit on a GPU"
    if need > asked:
        yield Check("GPU memory", "fault", finding, f"--gpus-per-trial {share:.3g}, or a smaller --batch-size")
    elif asked > share:
        yield Check("GPU memory", "ok", finding, f"--gpus-per-trial {share:.3g} would pack them")
    else:
        yield Check("GPU memory", "ok", finding)


def _yes(able: bool) -> str:
    return "yes" if able else "no"
