"""Checks before an overnight sweep: one finding each, with the remedy.

The first checks need only this machine, the later ones the cluster: every node that is up, one node of each type that
the autoscaler could start (which starts it), then a short trial of every variant on a worker. Before there is one, the
account's are in their place.
"""

from collections.abc import Generator, Iterator
from pathlib import Path

from catdog.config.sweep_options import SweepConfig
from catdog.data.datasets.base import pack_key
from catdog.data.datasets.registry import check_dataset, find_entry
from catdog.data.prepare import (
    DatasetInfo,
    check_split,
    expected_dataset,
    find_dataset,
    prepare_dataset,
    second_tasks,
)
from catdog.errors import StoreError, UserError, first_line
from catdog.formatting import ReportProgress
from catdog.runs.provenance import package_versions
from catdog.runs.weights_digest import weights_digest
from catdog.storage import StoreLocation
from catdog.storage.aws_account import AwsAccount
from catdog.storage.node_cache import is_stored
from catdog.sweep.cluster import Cluster
from catdog.sweep.cluster_file import read_cluster_file
from catdog.sweep.doctor_account import check_account
from catdog.sweep.doctor_nodes import Check, check_canary, check_cluster, check_nodes
from catdog.sweep.dry_run import feature_bytes
from catdog.sweep.plan import resolve_run
from catdog.sweep.ray_internals import job_package_bytes

WORKING_DIR_BYTES = 5_000_000
"""A job uploads only code; more than this is data that strayed into the folder."""


def examine(config: SweepConfig, wait_seconds: float, report_progress: ReportProgress) -> Iterator[Check]:
    """Yield findings as they are made; after a fault, the checks that depend on it are skipped."""
    location = StoreLocation.of(config.store)
    data, dataset = yield from _check_here(config, location)
    if data is None:
        return
    with Cluster(config, location, report_progress) as cluster:
        try:
            cluster.start()
        except UserError as error:
            yield Check("cluster", "fault", first_line(error))
            return
        yield from check_cluster(location, cluster)
        able = yield from check_nodes(location, cluster, _cache_bytes(config, dataset), wait_seconds, report_progress)
        if not able or data.status == "fault":
            return  # a short trial would wait for a node for ever
        store = location.open()
        run = resolve_run(config, store, lambda: prepare_dataset(config, store, report_progress), cluster.precision)
        yield from check_canary(config, location, run.identity, cluster, report_progress)


def examine_before(config: SweepConfig, cluster_file: str) -> Iterator[Check]:
    """Yield the findings that can be made before `ray up`, on this machine and on the account of a cluster.yaml."""
    cluster, location = read_cluster_file(cluster_file), StoreLocation.of(config.store)
    yield from _check_here(config, location)
    yield from check_account(cluster, AwsAccount(cluster.region), location.url)


def _check_here(
    config: SweepConfig, location: StoreLocation
) -> Generator[Check, None, tuple[Check | None, DatasetInfo | None]]:
    """Check this machine; returns the finding on the data, or None after a fault before, and what is known of them."""
    check_dataset(config)
    yield _check_versions()
    yield from _check_working_dir()
    store_checks = list(_check_store(location))
    yield from store_checks
    weights = _check_weights(config)
    yield weights
    if any(check.status == "fault" for check in (*store_checks, weights)):
        return None, None
    data, dataset = _check_data(config, location)
    yield data
    return data, dataset


def _check_versions() -> Check:
    versions = package_versions()
    shown = ", ".join(f"{name} {versions[name]}" for name in ("python", "ray", "torch", "torchvision", "timm"))
    return Check("packages", "ok", shown)


def _check_working_dir() -> Iterator[Check]:
    """Measure what `ray job submit --working-dir .` would upload, packed by Ray's own code."""
    folder = Path.cwd()
    if not (folder / "jobs" / "sweep.py").is_file():
        return
    size = job_package_bytes(folder)
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
    if abilities := store.abilities():
        shown = ", ".join(f"{name}: {'yes' if able else 'no'}" for name, able in abilities.items())
        yield Check("store's abilities", "ok", shown)


def _check_weights(config: SweepConfig) -> Check:
    try:
        from catdog.models.backbones.build import build_backbone
        from catdog.runs.weights_digest import local_weights

        for backbone, weights, image_size in config.networks:
            build_backbone(backbone, local_weights(weights), image_size)
        digest = weights_digest(config.recipe.weights)
    except (UserError, StoreError) as error:
        return Check("weights", "fault", first_line(error))
    fitting = "; ".join(dict.fromkeys(f"{weights} fit {backbone}" for backbone, weights, _ in config.networks))
    return Check("weights", "ok", f"{fitting}{f' (sha256 {digest[:12]})' if digest else ''}")


def _check_data(config: SweepConfig, location: StoreLocation) -> tuple[Check, DatasetInfo | None]:
    try:
        store = location.open()
        dataset, source = find_dataset(config, store)
        expected = dataset or expected_dataset(config)  # raises if it cannot come
        second_tasks(config, expected)
        check_split(config.recipe, expected.title or expected.name, expected.has_validation)
    except (UserError, StoreError) as error:
        return Check("data", "fault", first_line(error)), None
    if dataset is None:
        title = find_entry(config).title
        missing = Check(
            "data", "warning", f"{title} is neither here nor in the store: it will be downloaded",
            f"python jobs/prepare.py {config.preset} --store {location.url} --data-root DIR",
        )  # fmt: skip
        return missing, expected
    learnt = f"{dataset.trainval_images:,}"
    where = (
        f"in the store, {learnt} images"
        if source is None
        else f"on this machine, {len(source.names):,} images, {learnt} of them"
    )
    packed = "packed in the store" if is_stored(store, pack_key(dataset.fingerprint)) else "not packed yet"
    found = Check(
        "data", "ok",
        f"{config.recipe.dataset} {dataset.fingerprint} {where} to learn from; {packed}",
    )  # fmt: skip
    return found, dataset


def _cache_bytes(config: SweepConfig, dataset: DatasetInfo | None) -> int:
    """Return roughly how many bytes a node caches: all images, and features; 0 if nothing is known of the dataset."""
    if dataset is None:
        return 0
    pack = 2 * dataset.trainval_images * (find_entry(config).image_side or config.pack_size) ** 2 * 3
    return pack + feature_bytes(config, dataset)
