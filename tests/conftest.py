"""Shared fixtures: packed drawn pets, a small recipe, a real S3 server, a local Ray, the real images."""

import dataclasses
import functools
import gc
import os
import signal
import subprocess
import sys
import time
import unittest.mock
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch

from catdog.config.extensions import EXTERNAL_LOSSES, EXTERNAL_OPTIMIZERS
from catdog.config.head_registry import EXTERNAL, HEAD_CLASSES
from catdog.config.presets import PRESETS
from catdog.config.recipe import Recipe
from catdog.data.datasets.base import pack_key
from catdog.data.datasets.drawn import open_drawn
from catdog.data.groups import store_groups
from catdog.data.pack import write_pack
from catdog.runs.manifest import Identity
from catdog.storage import LocalStore, StoreLocation
from catdog.storage.node_cache import fetch_or_make
from catdog.trial.context import RunContext
from tests.helpers.pets import DRAWN_GROUPS, copy_packed
from tests.helpers.s3_servers import s3_variables
from tests.helpers.servers import free_ports, wait_until_ready

hypothesis.settings.register_profile("catdog", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("catdog")
signal.signal(
    signal.SIGINT, signal.default_int_handler
)  # a suite in the background ignores Ctrl-C, as would all it starts
os.environ.setdefault("RAY_AUTH_MODE", "token")  # as the product does; must be set before any test imports Ray


IN_XDIST = "PYTEST_XDIST_WORKER" in os.environ
"""This is one of several processes that share the tests."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests on the shared Ray first: pytest-xdist gives neighbours to one process, so only one starts it."""
    if IN_XDIST:
        items.sort(key=lambda item: "local_ray" not in getattr(item, "fixturenames", ()))


def pytest_collection_finish() -> None:
    """Keep the garbage collector from walking through all that was imported, again and again."""
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def cache_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A node cache of the tests' own: what the developer has in the real one must change nothing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CATDOG_CACHE", str(tmp_path_factory.mktemp("node-cache")))
        yield


@pytest.fixture(autouse=True)
def the_same_random_numbers() -> None:
    """Every test draws the same on one thread, whichever ran before it in its process."""
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def drawn_fingerprint() -> str:
    return open_drawn().fingerprint


@pytest.fixture(scope="session")
def packed(tmp_path_factory: pytest.TempPathFactory, drawn_fingerprint: str) -> Path:
    """A store folder with the pack of the drawn pets, built once for all tests and processes."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if IN_XDIST else base) / "packed"
    folder.mkdir(exist_ok=True)
    store, source = LocalStore(folder), open_drawn()
    fetch_or_make(store, pack_key(drawn_fingerprint), functools.partial(write_pack, source))
    store_groups(store, drawn_fingerprint, source.groups)
    return folder


@pytest.fixture
def store_folder(tmp_path: Path, packed: Path, drawn_fingerprint: str) -> Path:
    """A local store that holds the drawn pets."""
    return copy_packed(packed, tmp_path / "store")


@pytest.fixture(scope="session")
def recipe() -> Recipe:
    """The demo's recipe, small enough for a test: 24 images per split, two epochs."""
    return dataclasses.replace(
        PRESETS["demo"].recipe, precision="float32", epochs=2, limit_images=24, batch_size=8, image_size=48
    )


@pytest.fixture
def make_context(store_folder: Path, drawn_fingerprint: str) -> Callable[..., RunContext]:
    """A function that returns the context of a run on the drawn pets; keywords replace its fields."""

    def make(recipe: Recipe, **fields: object) -> RunContext:
        identity = Identity(recipe, drawn_fingerprint, None, 1, groups=DRAWN_GROUPS)
        context = RunContext("test", StoreLocation.of(str(store_folder)), identity, recipe.weights)
        return dataclasses.replace(context, **fields)  # type: ignore[arg-type]

    return make


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """A real S3 server (moto's) over HTTP on loopback; yields its url."""
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-c", "from moto.server import main; main()", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until_ready(f"{url}/moto-api/data.json")
        yield url
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture
def s3_environment(s3_server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, str]:
    """The environment of a user of the S3 server."""
    environment = s3_variables(s3_server, tmp_path / "node-cache")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return environment


@pytest.fixture
def s3_bucket(s3_environment: dict[str, str]) -> str:
    """The url of a new bucket."""
    import boto3

    name = f"bucket-{time.time_ns()}"
    boto3.client("s3").create_bucket(Bucket=name)
    return f"s3://{name}"


@pytest.fixture
def s3_store(s3_bucket: str, packed: Path) -> str:
    """The url of a store on S3 that holds the drawn pets."""
    store, source = StoreLocation.of(s3_bucket).open(), LocalStore(packed)
    for key in source.list(""):
        store.put_file(key, source.local_path(key))
    return s3_bucket


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    """A real Ray with two cores, started as the product does, shared by the tests of this process."""
    import ray

    from catdog.sweep.local_ray import start_local_ray

    with unittest.mock.patch.dict(os.environ):
        start_local_ray(None, ["catdog.sweep.trainable", "catdog.trial.run"], num_cpus=2, log_to_driver=False)
        yield
        ray.shutdown()


@pytest.fixture(scope="session")
def pets_root() -> Path:
    """The real images; tests that need them are skipped unless CATDOG_DATA_ROOT points to them."""
    root = os.environ.get("CATDOG_DATA_ROOT")
    if not root:
        pytest.skip("CATDOG_DATA_ROOT does not name the folder of Oxford-IIIT Pet")
    return Path(root)


@pytest.fixture
def no_external_heads() -> Iterator[None]:
    """Nothing from outside the package is known before the test, and nothing that it registers after it."""
    registries: tuple[dict[str, Any], ...] = (EXTERNAL, HEAD_CLASSES, EXTERNAL_OPTIMIZERS, EXTERNAL_LOSSES)
    before = [dict(registry) for registry in registries]
    for registry in registries:
        registry.clear()
    yield
    for registry, known in zip(registries, before, strict=True):
        registry.clear()
        registry.update(known)
