"""Damage in the store or on a node's disk is detected, named and repaired; it never enters a table."""

import dataclasses
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from catdog.analysis.tables import comparison_table
from catdog.cli import run_job
from catdog.config.presets import PRESETS
from catdog.config.recipe import Recipe
from catdog.config.variants import parse_variant
from catdog.data.datasets.base import pack_key
from catdog.data.datasets.oxford_pets import open_oxford
from catdog.data.pack import write_pack
from catdog.errors import NotFoundError, UserError
from catdog.runs.manifest import PlannedTrial
from catdog.runs.paths import RunPaths
from catdog.runs.status import missing_trials, open_run
from catdog.runs.weights_digest import local_weights, weights_digest
from catdog.storage import LocalStore, S3Store, StoreLocation
from catdog.storage.node_cache import fetch_or_make
from catdog.sweep.plan import extend_manifest
from catdog.trial.context import RunContext
from catdog.trial.inputs import forget_inputs, load_inputs
from catdog.trial.run import run_trial
from catdog.trial.setup import prepare_process
from jobs import aggregate, sweep
from tests.helpers.pets import make_pets
from tests.helpers.sweeps import SMALL

ATTENTION = parse_variant("attention")


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def alter(path: Path) -> None:
    """Change one byte in the middle."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def embellish(path: Path) -> None:
    """Change an accuracy in result.json, which stays valid JSON."""
    lines = path.read_text().splitlines()
    path.write_text("\n".join(' "test_accuracy": 99.9,' if '"test_accuracy"' in line else line for line in lines))


DAMAGES: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "predictions truncated": ("predictions.npz", truncate, "predictions.npz is damaged"),
    "predictions altered": ("predictions.npz", alter, "predictions.npz is damaged"),
    "predictions gone": ("predictions.npz", os.unlink, "predictions.npz is missing"),
    "attention altered": ("attention.npz", alter, "attention.npz is damaged"),
    "masks truncated": ("masks.npz", truncate, "masks.npz is damaged"),
    "history altered": ("history.csv", alter, "history.csv is damaged"),
    "a contact sheet gone": ("snapshots/epoch-000.png", os.unlink, "epoch-000.png is missing"),
    "result truncated": ("result.json", truncate, "result.json: not a result.json"),
    "result embellished": ("result.json", embellish, "result.json: its content is not what its sha256 says"),
    "result empty": ("result.json", lambda path: path.write_bytes(b""), "result.json: not a result.json"),
}


@pytest.fixture
def finished(make_context: Callable[..., RunContext], recipe: Recipe) -> RunContext:
    """A run of one finished trial, with its manifest."""
    context = make_context(recipe)
    run_trial(context, ATTENTION, 0)
    config = dataclasses.replace(PRESETS["demo"], run="test", variants=("attention",), seeds="1")
    manifest = extend_manifest(None, config, context.identity, ("python", "jobs/sweep.py", "demo"))
    context.location.open().put(RunPaths("test").manifest, manifest.to_json())
    return context


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_result_is_named_leaves_the_table_and_is_computed_again(
    damage: str, finished: RunContext, capsys: pytest.CaptureFixture[str]
) -> None:
    name, spoil, words = DAMAGES[damage]
    store, where = finished.location.open(), finished.trial_paths(ATTENTION, 0)
    assert isinstance(store, LocalStore)
    before = {key: store.get(key) for key in store.list(where.folder)}
    spoil(store.local_path(f"{where.folder}/{name}"))

    run_status = open_run(store, "test")
    assert comparison_table(run_status)["n"].tolist() == [0]
    assert len(missing_trials(run_status)) == 1
    assert words in missing_trials(run_status)[0]
    assert run_job(aggregate.main, ["--store", store.url, "--run", "test"]) == 1
    assert words in capsys.readouterr().out.replace("\n", "")

    run_trial(finished, ATTENTION, 0)
    assert comparison_table(open_run(store, "test"))["n"].tolist() == [1]
    for key, data in before.items():
        if not key.endswith(("result.json", "history.csv")):
            assert store.get(key) == data, key


def test_a_trial_with_another_recipe_is_not_damage(finished: RunContext) -> None:
    trial = PlannedTrial(ATTENTION, 0)
    other = dataclasses.replace(finished.identity, threads=2)
    assert other.trial_hash(trial.variant, 0) != finished.identity.trial_hash(trial.variant, 0)
    run_status = open_run(finished.location.open(), "test")
    assert [trial.damage for trial in run_status.trials] == [None]


@pytest.mark.parametrize("spoil", [truncate, alter])
def test_the_next_sweep_rebuilds_a_damaged_pack_in_a_local_store(
    spoil: Callable[[Path], None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = open_oxford(make_pets(tmp_path / "pets"))
    store, key = LocalStore(tmp_path / "store"), pack_key(source.fingerprint)

    def make(scratch: Path) -> None:
        write_pack(source, scratch)

    path = fetch_or_make(store, key, make)
    content = path.read_bytes()
    spoil(path)
    with pytest.raises(NotFoundError, match="damaged; the same command makes it again"):
        fetch_or_make(store, key)
    assert "is damaged: its sha256 is not what it was" in caplog.text

    assert fetch_or_make(store, key, make) == path
    assert path.read_bytes() == content


@pytest.mark.parametrize("spoil", [truncate, alter])
def test_damaged_features_are_computed_again(
    spoil: Callable[[Path], None], make_context: Callable[..., RunContext], recipe: Recipe
) -> None:
    context = make_context(dataclasses.replace(recipe, freeze=True))
    device = prepare_process(1, 0, False)
    load_inputs(context, device)
    (path,) = Path(context.location.url).rglob("features-*.safetensors")
    before = path.read_bytes()
    spoil(path)
    forget_inputs()
    load_inputs(context, device)
    assert path.read_bytes() == before
    forget_inputs()


def test_a_damaged_copy_on_a_node_is_fetched_again(s3_bucket: str, tmp_path: Path) -> None:
    store = StoreLocation.of(s3_bucket).open()
    assert isinstance(store, S3Store)
    path = fetch_or_make(store, "datasets/x/pack", lambda scratch: scratch.write_bytes(b"content") and None)
    for spoil in (alter, truncate):
        spoil(path)
        assert fetch_or_make(store, "datasets/x/pack").read_bytes() == b"content"


def test_a_damaged_object_on_s3_is_named_and_rebuilt(
    s3_bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    store = StoreLocation.of(s3_bucket).open()
    assert isinstance(store, S3Store)

    def make(scratch: Path) -> None:
        scratch.write_bytes(b"content")

    fetch_or_make(store, "datasets/x/pack", make)
    store.put("datasets/x/pack", b"c0ntent")
    monkeypatch.setenv("CATDOG_CACHE", str(tmp_path / "another-node"))
    with pytest.raises(NotFoundError, match="datasets/x/pack: damaged"):
        fetch_or_make(store, "datasets/x/pack")
    assert fetch_or_make(store, "datasets/x/pack", make).read_bytes() == b"content"
    assert store.get("datasets/x/pack") == b"content"


def test_a_pack_whose_writer_died_before_its_digest_is_rebuilt(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.put("datasets/x/pack", b"half")
    assert (
        fetch_or_make(store, "datasets/x/pack", lambda scratch: scratch.write_bytes(b"whole") and None).read_bytes()
        == b"whole"
    )


def test_a_file_in_the_way_of_a_pack_is_named(tmp_path: Path) -> None:
    (tmp_path / "datasets").write_bytes(b"")
    with pytest.raises(
        UserError, match=rf"^{tmp_path}/datasets: cannot be written \(.*move the file that is in the way"
    ):
        fetch_or_make(LocalStore(tmp_path), "datasets/x/pack", lambda scratch: scratch.write_bytes(b"") and None)


def test_weights_that_changed_since_the_run_began_are_rejected(s3_bucket: str) -> None:
    store, url = StoreLocation.of(s3_bucket).open(), f"{s3_bucket}/weights.pth"
    store.put("weights.pth", b"old")
    digest = weights_digest(url)
    assert Path(local_weights(url, digest)).read_bytes() == b"old"
    store.put("weights.pth", b"new")
    assert Path(local_weights(url, digest)).read_bytes() == b"old", "this node has the copy that the run began with"
    assert weights_digest(url) != digest, "the driver looks again"
    with pytest.raises(UserError, match=r"not the file that this run began with"):
        local_weights(url, digest)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 160 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=160m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("a tmpfs can be mounted by root only")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path, leave: int) -> None:
    status = os.statvfs(folder)
    with (folder / "filler").open("wb") as file:
        for _ in range((status.f_bavail * status.f_frsize - leave) // 65536):
            file.write(bytes(65536))


def test_a_full_disk_leaves_the_old_file_intact(small_disk: Path) -> None:
    store = LocalStore(small_disk)
    store.put("run/result.json", b"old")
    fill(small_disk, leave=100_000)
    with pytest.raises(UserError, match=r"cannot be written \(no space left on device\): make room"):
        store.put("run/result.json", bytes(1_000_000))
    assert store.get("run/result.json") == b"old"
    assert [path.name for path in (small_disk / "run").iterdir()] == ["result.json"]


@pytest.mark.usefixtures("local_ray")
@pytest.mark.slow
def test_a_full_disk_ends_the_sweep_with_one_line_and_the_sweep_resumes_once_there_is_room(
    small_disk: Path, packed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, store = LocalStore(packed), LocalStore(small_disk)
    for key in source.list(""):
        store.put_file(key, source.local_path(key))
    fill(small_disk, leave=600_000)  # enough for the plan and some contact sheets, not for a whole trial
    arguments = ["demo", "--store", str(small_disk), *SMALL, "--checkpoint-seconds", "0", "--seeds", "2"]
    assert run_job(sweep.main, arguments) == 2
    error = capsys.readouterr().err
    assert f"error: --store {small_disk}: cannot be written (no space left on device): make room" in error
    assert "Traceback" not in error

    (small_disk / "filler").unlink()
    assert run_job(sweep.main, arguments) == 0
    assert not [path for path in small_disk.rglob(".*") if path.is_file()]
