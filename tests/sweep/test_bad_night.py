"""Stores, uploads and sweeps when S3 has a bad night: refused connections, SlowDown, lost, hanging and cut answers,
expired credentials, denied access; on two servers, through a proxy that injects the faults.
"""

import dataclasses
import gc
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from catdog.errors import NotFoundError, StoreError, StoreRefusedError, UserError
from catdog.storage import BackgroundUploads, S3Store, StoreLocation, give_up_on_interrupt
from tests.helpers.faulty_s3 import FaultyS3
from tests.helpers.limits import files_of_at_most
from tests.helpers.pets import copy_packed
from tests.helpers.sweeps import comparable, processes_of, report, run_sweep, small, start_job

pytest_plugins = ["tests.helpers.s3_servers"]

CONTENT = bytes(range(256)) * 400
LONG = 3600.0
"""A patience longer than any test's timeout."""
MEGABYTE = 1 << 20
LARGE = 100_000
"""Bytes of an object large enough to be spooled to disk."""


@dataclass
class Night:
    """A server behind the proxy, with an empty bucket."""

    server: Any
    proxy: FaultyS3
    bucket: str
    credentials: Path

    @property
    def url(self) -> str:
        return f"s3://{self.bucket}/team/pets"

    def store(self, patience: float = 120.0) -> S3Store:
        """A store as in a new process, which has not yet contacted the server."""
        return open_store(self.url, patience)

    def used_store(self, patience: float = 120.0) -> S3Store:
        """The same store after a first success."""
        store = self.store(patience)
        store.put("there", CONTENT)
        return store

    def direct(self) -> S3Store:
        """The store without the proxy."""
        store = StoreLocation(self.url, self.server.url, "us-east-1").open()
        assert isinstance(store, S3Store)
        return store

    def write_credentials(self, access_key: str) -> None:
        lines = [f"aws_access_key_id = {access_key}", f"aws_secret_access_key = {self.server.secret_key}"]
        self.credentials.write_text("\n".join(["[default]", *lines, ""]))

    def keys_put(self) -> list[str]:
        """The keys, relative to the store's url, that reached the server, in order."""
        prefix = f"/{self.bucket}/team/pets/"
        return [path.removeprefix(prefix) for method, path in self.proxy.passed if method == "PUT"]


def open_store(url: str, patience: float) -> S3Store:
    StoreLocation.open.cache_clear()
    store = StoreLocation.of(url, patience).open()
    assert isinstance(store, S3Store)
    return store


def night_of(server: Any, monkeypatch: pytest.MonkeyPatch, folder: Path) -> Iterator[Night]:
    with FaultyS3(server.url) as proxy:
        for name, value in server.variables(folder / "node-cache", proxy.url).items():
            monkeypatch.setenv(name, value)
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
            monkeypatch.delenv(name, raising=False)
        credentials = folder / "credentials"
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(credentials))
        monkeypatch.setenv("AWS_CONFIG_FILE", str(folder / "no-config"))
        night = Night(server, proxy, server.new_bucket(), credentials)
        night.write_credentials(server.access_key)
        yield night


@pytest.fixture
def night(any_server: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Night]:
    """A night on each server in turn."""
    yield from night_of(any_server, monkeypatch, tmp_path)


@pytest.fixture
def moto_night(moto_server: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Night]:
    """A night on a server that accepts any credentials."""
    yield from night_of(moto_server, monkeypatch, tmp_path)


def get_file(store: S3Store, folder: Path) -> bytes:
    store.get_file("there", folder / "target")
    return (folder / "target").read_bytes()


def put_file(store: S3Store, folder: Path) -> bytes:
    (folder / "source").write_bytes(CONTENT)
    store.put_file("put-file", folder / "source")
    return store.get("put-file")


def put(store: S3Store, folder: Path) -> bytes:
    store.put("put", CONTENT)
    return store.get("put")


OPERATIONS: dict[str, tuple[Callable[[S3Store, Path], object], object]] = {
    "put": (put, CONTENT),
    "put_new": (lambda store, folder: store.put_new("put-new", CONTENT), True),
    "get": (lambda store, folder: store.get("there"), CONTENT),
    "put_file": (put_file, CONTENT),
    "get_file": (get_file, CONTENT),
    "delete": (lambda store, folder: store.delete("not-there"), None),
    "list": (lambda store, folder: store.list("the"), ["there"]),
    "exists": (lambda store, folder: store.exists("there"), True),
}
"""Every operation on a store with an object "there", and its expected return value."""


@contextmanager
def once(condition: Callable[[], bool], act: Callable[[], object]) -> Iterator[None]:
    """Call `act` from another thread when `condition` holds, which the block brings about however slowly."""
    left = threading.Event()

    def wait() -> None:
        while not condition() and not left.wait(0.01):
            pass
        act()

    thread = threading.Thread(target=wait)
    thread.start()
    try:
        yield
    finally:
        left.set()
        thread.join()


def set_share(name: str, share: float) -> Callable[[FaultyS3], None]:
    return lambda proxy: setattr(proxy, name, share)


AWAY: dict[str, Callable[[FaultyS3], None]] = {
    "refused": FaultyS3.refuse,
    "slow down": set_share("slow_down_share", 1.0),
    "lost answers": set_share("lose_answer_share", 1.0),
    "cut answers": set_share("cut_share", 1.0),
    "denied": FaultyS3.deny,
}


@pytest.mark.slow
@pytest.mark.parametrize("away", AWAY)
def test_every_operation_retries_until_the_store_is_available_again(night: Night, away: str, tmp_path: Path) -> None:
    store = night.used_store()
    AWAY[away](night.proxy)
    with ThreadPoolExecutor(len(OPERATIONS)) as pool:
        futures = {name: pool.submit(act, store, tmp_path) for name, (act, _) in OPERATIONS.items()}
        time.sleep(3)
        while not night.proxy.injected.total():
            time.sleep(0.01)
        night.proxy.calm_down()
        assert {name: future.result() for name, future in futures.items()} == {
            name: expected for name, (_, expected) in OPERATIONS.items()
        }
    assert night.proxy.injected.total() > 0
    direct = night.direct()
    assert direct.list("") == ["put", "put-file", "put-new", "there"]
    assert {direct.get(key) for key in direct.list("")} == {CONTENT}


def test_every_operation_finds_renewed_credentials(moto_night: Night, tmp_path: Path) -> None:
    stores = {name: moto_night.used_store() for name in OPERATIONS}  # one each: none is helped by another
    moto_night.proxy.expired_keys.add(moto_night.server.access_key)
    with ThreadPoolExecutor(len(OPERATIONS)) as pool:
        futures = {name: pool.submit(act, stores[name], tmp_path) for name, (act, _) in OPERATIONS.items()}
        while moto_night.proxy.injected["expired"] < len(OPERATIONS):
            time.sleep(0.01)
        moto_night.write_credentials("renewed")
        assert {name: future.result() for name, future in futures.items()} == {
            name: expected for name, (_, expected) in OPERATIONS.items()
        }


@pytest.mark.parametrize(
    "unfinished",
    ["", "[defau", "[default]\naws_access_key_id = renewed\n"],
    ids=["empty", "half a line", "half a pair"],
)
def test_operations_retry_while_the_credentials_file_is_being_written(
    moto_night: Night, unfinished: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = moto_night.used_store()
    moto_night.proxy.expired_keys.add(moto_night.server.access_key)
    moto_night.credentials.write_text(unfinished)
    with once(lambda: "waiting for the store" in caplog.text, lambda: moto_night.write_credentials("renewed")):
        store.put("key", CONTENT)
    assert store.get("key") == CONTENT


@pytest.mark.parametrize(
    ("away", "reason"),
    [
        ("refused", "Could not connect"),
        ("slow down", "SlowDown|503"),
        ("denied", "access denied"),
        ("expired", "Expired|400"),
    ],
)
def test_an_operation_gives_up_when_its_patience_runs_out(
    moto_night: Night, away: str, reason: str, tmp_path: Path
) -> None:
    store = moto_night.used_store(patience=1)
    if away == "expired":
        moto_night.proxy.expired_keys.add(moto_night.server.access_key)
    else:
        AWAY[away](moto_night.proxy)

    def error_of(act: Callable[[S3Store, Path], object]) -> StoreError:
        with pytest.raises(StoreError) as caught:
            act(store, tmp_path)
        return caught.value

    with ThreadPoolExecutor(len(OPERATIONS)) as pool:
        errors = dict(zip(OPERATIONS, pool.map(error_of, [act for act, _ in OPERATIONS.values()]), strict=True))
    for operation, error in errors.items():
        for part in (moto_night.url, reason, r"\d s\b"):
            assert pd.Series([str(error)]).str.contains(part, regex=True)[0], f"{operation}: {error} has no {part}"
        assert not isinstance(error, NotFoundError)
        assert isinstance(error, UserError) == (away == "denied")


@pytest.mark.timeout(60)
def test_retrying_can_be_switched_off_while_an_operation_retries(
    moto_night: Night, caplog: pytest.LogCaptureFixture
) -> None:
    store = moto_night.used_store(LONG)
    moto_night.proxy.refuse()
    with (
        once(lambda: "waiting for the store" in caplog.text, lambda: store.set_retrying(False)),
        pytest.raises(StoreError, match=r"Could not connect.* \(for \d+ s\)"),
    ):
        store.get("there")
    with pytest.raises(StoreError, match="Could not connect"):
        store.put("there", CONTENT)
    caplog.clear()
    with (
        once(lambda: "waiting for the store" in caplog.text, moto_night.proxy.accept),
        give_up_on_interrupt(store),  # used by the next sweep in this process
    ):
        store.put("there", CONTENT)


@pytest.mark.timeout(60)
def test_a_missing_object_is_reported_at_once(night: Night, tmp_path: Path) -> None:
    store = night.used_store(LONG)
    with pytest.raises(NotFoundError):
        store.get("nothing")
    with pytest.raises(NotFoundError):
        store.get_file("nothing", tmp_path / "nothing")
    assert not store.exists("nothing")


@pytest.mark.timeout(60)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_refusal_from_the_start_is_reported_at_once(night: Night, operation: str, tmp_path: Path) -> None:
    act, _ = OPERATIONS[operation]
    if operation != "exists":  # which S3 answers with just a 404
        with pytest.raises(StoreRefusedError, match="there is no bucket 'no-such-bucket'"):
            act(open_store("s3://no-such-bucket/x", LONG), tmp_path)
    night.proxy.deny()
    with pytest.raises(StoreRefusedError, match=f"{night.url}: access denied"):
        act(night.store(LONG), tmp_path)
    night.credentials.write_text("")
    with pytest.raises(StoreRefusedError, match="boto3 finds no credentials"):
        act(night.store(LONG), tmp_path)


def test_a_new_object_is_put_only_once(night: Night) -> None:
    store = night.store()
    assert store.put_new("key", b"first")
    assert store.put_new("key", b"first"), "equal content is as good as our own"
    is_second = store.put_new("key", b"second")
    assert store.get("key") == (b"second" if is_second else b"first")
    assert is_second != night.server.keeps_what_is_there


def test_without_conditional_writes_the_store_is_checked_before_writing(night: Night) -> None:
    night.proxy.knows_conditions = False
    store = night.store()
    assert store.abilities()["conditional writes"] is False
    assert store.put_new("key", b"first")
    assert store.put_new("key", b"first")
    assert not store.put_new("key", b"second")
    assert store.get("key") == b"first"


def test_a_worker_retries_a_denied_store_that_has_answered_another_process(night: Night) -> None:
    night.used_store()
    night.proxy.deny()
    location = dataclasses.replace(StoreLocation.of(night.url, patience=120.0), has_answered=True)
    with once(lambda: night.proxy.injected["denied"] > 0, night.proxy.allow):
        assert location.open().get("there") == CONTENT
    assert night.proxy.injected["denied"] > 0


def test_an_unwritable_local_disk_is_not_a_store_error(night: Night, tmp_path: Path) -> None:
    store = night.used_store(LONG)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match=r"cannot be written .*CATDOG_CACHE") as caught:
        store.get_file("there", tmp_path / "file" / "copy")
    assert not isinstance(caught.value, StoreError)


@pytest.mark.timeout(60)
def test_a_full_local_disk_is_not_retried(night: Night, tmp_path: Path) -> None:
    store = night.used_store(LONG)
    with files_of_at_most(1000), pytest.raises(UserError, match=r"cannot be written .*make room"):
        store.get_file("there", tmp_path / "copy")
    assert list(tmp_path.glob(".copy*")) == []
    assert [request.method for request in night.proxy.passed].count("GET") == 1, "it was asked for once"


def test_a_new_object_is_ours_even_if_the_answer_was_lost(night: Night) -> None:
    store = night.store()
    night.proxy.next_faults = ["lose_answer", "lose_answer", "slow_down"]
    assert store.put_new("key", CONTENT)
    assert night.keys_put()[:2] == ["key", "key"]
    assert store.get("key") == CONTENT


def make_noise(proxy: FaultyS3) -> None:
    proxy.slow_down_share, proxy.lose_answer_share, proxy.cut_share = 0.3, 0.05, 0.05


@pytest.mark.slow
def test_every_object_arrives_whole_despite_faults(night: Night) -> None:
    store, random = night.used_store(LONG), np.random.default_rng(0)
    sizes = np.exp(random.uniform(0, np.log(3 * MEGABYTE), 200)).astype(int)
    contents = {f"run/{number:03d}": random.bytes(size) for number, size in enumerate(sizes)}
    make_noise(night.proxy)
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(store.put, contents.keys(), contents.values()))
        assert list(pool.map(store.get, contents)) == list(contents.values())
    assert store.list("run/") == list(contents)
    assert min(night.proxy.injected[fault] for fault in ("slow_down", "lose_answer", "cut")) > 3
    direct = night.direct()
    assert all(direct.get(key) == content for key, content in contents.items())


@pytest.mark.slow
def test_large_files_arrive_whole_despite_faults(night: Night, tmp_path: Path) -> None:
    store, content = night.used_store(LONG), os.urandom(20 * MEGABYTE)
    (tmp_path / "source").write_bytes(content)
    make_noise(night.proxy)
    for number in range(3):
        store.put_file("large", tmp_path / "source")
        store.get_file("large", tmp_path / f"target-{number}")
        assert (tmp_path / f"target-{number}").read_bytes() == content
    assert {path.name for path in tmp_path.iterdir() if "target" in path.name} == {f"target-{i}" for i in range(3)}
    assert night.proxy.injected.total() > 0


def test_no_optional_checksums_are_sent_to_a_custom_endpoint(night: Night, tmp_path: Path) -> None:
    store = night.used_store()
    (tmp_path / "large").write_bytes(bytes(20 * MEGABYTE))
    store.put_file("large", tmp_path / "large")
    store.put_new("new", CONTENT)
    store.get_file("large", tmp_path / "copy")
    store.get("there")
    store.list("")
    store.delete("large")
    seen = set().union(*night.proxy.header_names.values())
    assert {"authorization", "x-amz-content-sha256"} <= seen
    assert not {
        name for name in seen if "checksum" in name or "trailer" in name or name == "x-amz-decoded-content-length"
    }
    assert not night.proxy.content_encodings


def test_uploads_are_accepted_while_the_store_is_unavailable_and_arrive_in_order(night: Night) -> None:
    contents = {f"run/{number:02d}": os.urandom(1000 * number) for number in range(40)}
    with BackgroundUploads(night.used_store()) as uploads:
        night.proxy.refuse()
        for number, (key, content) in enumerate(contents.items()):
            uploads.put(key, content if number % 2 else lambda content=content: content)  # type: ignore[misc]
        stored = list(uploads.digests)
        night.proxy.accept()
    assert stored == []
    assert night.keys_put() == ["there", *contents]
    direct = night.direct()
    assert {key: direct.get(key) for key in contents} == contents
    assert set(uploads.digests) == set(contents)


def test_only_the_newest_version_of_a_pending_object_is_kept(night: Night) -> None:
    with BackgroundUploads(night.used_store(), memory_bytes=1000) as uploads:
        night.proxy.refuse()
        uploads.put("first", b"")
        for number in range(100):
            uploads.put("checkpoint", bytes([number]) * LARGE)
            uploads.put(f"sheet-{number % 3}", bytes([number]))
        waiting = unnamed_files()
        night.proxy.accept()
    assert sorted(night.keys_put()) == sorted(["there", "first", "checkpoint", "sheet-0", "sheet-1", "sheet-2"])
    assert waiting == [LARGE]
    assert night.direct().get("checkpoint") == bytes([99]) * LARGE
    assert night.direct().get("sheet-0") == bytes([99])
    assert not unnamed_files()


def unnamed_files() -> list[int]:
    """Return the sizes of this process's open but deleted files, except for pytest's own small ones."""
    gc.collect()  # a traceback may keep the last one open for a while
    sizes = []
    for link in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            if os.readlink(link).endswith("(deleted)"):
                sizes.append(link.stat().st_size)
    return [size for size in sizes if size >= LARGE]


def test_large_pending_objects_are_spooled_to_disk(night: Night) -> None:
    contents = {f"run/{number:02d}": os.urandom(LARGE) for number in range(20)}
    with BackgroundUploads(night.used_store(), memory_bytes=50_000) as uploads:
        night.proxy.refuse()
        for key, content in contents.items():
            uploads.put(key, content)
        waiting = unnamed_files()
        night.proxy.accept()
    assert len(waiting) in (19, 20), "one may be on its way"
    assert not unnamed_files()
    direct = night.direct()
    assert {key: direct.get(key) for key in contents} == contents


def test_a_full_queue_blocks_the_caller_until_the_store_is_available_again(night: Night) -> None:
    went_on = threading.Event()

    def fill(uploads: BackgroundUploads) -> None:
        for number in range(20):
            uploads.put(f"run/{number:02d}", b"")
        went_on.set()

    with ThreadPoolExecutor(1) as pool, BackgroundUploads(night.used_store(), capacity=5) as uploads:
        night.proxy.refuse()
        pool.submit(fill, uploads)
        had_room = went_on.wait(1)
        night.proxy.accept()
    assert not had_room
    assert went_on.is_set()
    assert len(night.direct().list("run/")) == 20


def test_uploads_name_the_object_that_could_not_be_stored(night: Night) -> None:
    uploads = BackgroundUploads(night.used_store(patience=1))

    def upload() -> None:
        with uploads:
            uploads.put("run/1", CONTENT)
            uploads.flush()
            night.proxy.refuse()
            uploads.put("run/2", CONTENT)
            uploads.put("run/3", CONTENT)

    with pytest.raises(StoreError, match=rf"{night.url}/run/2.*\d s\b"):
        upload()
    night.proxy.accept()
    assert set(uploads.digests) == {"run/1"} == set(night.direct().list("run/"))


def test_uploads_that_gave_up_accept_nothing_more(night: Night) -> None:
    uploads = BackgroundUploads(night.used_store(patience=1))

    def upload_without_end() -> None:
        with uploads:
            night.proxy.refuse()
            while True:
                uploads.put("run/1", CONTENT)
                time.sleep(0.01)

    with pytest.raises(StoreError, match="run/1"):
        upload_without_end()
    assert not uploads.digests


def test_leaving_uploads_with_an_exception_leaves_nothing_in_progress(night: Night) -> None:
    """A later attempt of the same trial must not find its objects overwritten by this one."""

    def interrupt() -> None:
        with BackgroundUploads(night.used_store(patience=3)) as uploads:
            night.proxy.refuse()
            uploads.put("run/1", CONTENT)
            uploads.put("run/2", CONTENT)
            time.sleep(1)  # the first is in progress
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupt()
    assert not [thread for thread in threading.enumerate() if thread.name == "uploads"]
    night.proxy.accept()
    assert night.direct().list("run/") == []


SWEEP = small("--seeds", "1", "--variants", "baseline", "multi-attention", "--checkpoint-seconds", "0")


@contextmanager
def sweep_of(night: Night, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A sweep to the night's store; none of its processes survives a failed test."""
    with start_job(night.url, *arguments) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
                for pid in processes_of(str(night.credentials)).keys() - {os.getpid()}:
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)


def wait_for_a_put(night: Night, part: str, process: subprocess.Popen[str]) -> None:
    for _ in range(3000):
        if any(part in key for key in night.keys_put()):
            return
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.1)
    raise AssertionError(f"{part} was not put; faults: {dict(night.proxy.injected)}")


def assert_it_ends_as(undisturbed: bytes, night: Night, process: subprocess.Popen[str]) -> None:
    output = process.communicate(timeout=1200)[0]
    assert process.returncode == 0, output
    print(f"{night.server.name}: {len(night.proxy.passed)} requests passed; faults: {dict(night.proxy.injected)}")
    trials = night.direct().get("demo/report/trials.csv")
    pd.testing.assert_frame_equal(comparable(trials), comparable(undisturbed))


@pytest.fixture(scope="module")
def undisturbed(local_ray: None, packed: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """trials.csv of the same sweep with a local store."""
    store = copy_packed(packed, tmp_path_factory.mktemp("undisturbed") / "store")
    assert run_sweep(store, *SWEEP) == 0
    return report(store, "trials.csv")


@pytest.mark.slow
def test_a_sweep_in_a_bad_night_ends_like_an_undisturbed_one(night: Night, undisturbed: bytes) -> None:
    with sweep_of(night, *SWEEP) as process:
        wait_for_a_put(night, "claim.json", process)
        make_noise(night.proxy)
        night.proxy.cut_share = 0.2
        wait_for_a_put(night, "/snapshots/", process)
        night.proxy.refuse()
        time.sleep(15)
        night.proxy.accept()
        assert_it_ends_as(undisturbed, night, process)
    assert {"slow_down", "lose_answer", "cut", "refuse"} <= set(night.proxy.injected)


@pytest.mark.slow
def test_a_sweep_can_be_interrupted_while_the_store_is_unavailable(moto_night: Night) -> None:
    with sweep_of(moto_night, *SWEEP) as process:
        wait_for_a_put(moto_night, "/snapshots/", process)
        moto_night.proxy.refuse()
        time.sleep(10)  # until all threads are retrying
        process.send_signal(signal.SIGINT)
        output = process.communicate(timeout=60)[0]
    assert process.returncode == 130, output
    assert "the same command resumes from here" in output


LONG_SWEEP = [
    "--limit-images", "48", "--image-size", "64", "--batch-size", "8", "--epochs", "20", "--seeds", "2",
    "--variants", "attention", "baseline", "--checkpoint-seconds", "0",
]  # fmt: skip


@pytest.mark.chaos
@pytest.mark.timeout(1800)
@pytest.mark.usefixtures("local_ray")
def test_a_sweep_in_a_night_of_all_faults_ends_like_an_undisturbed_one(night: Night, store_folder: Path) -> None:
    proxy = night.proxy
    assert run_sweep(store_folder, *LONG_SWEEP) == 0
    undisturbed = report(store_folder, "trials.csv")
    with sweep_of(night, *LONG_SWEEP) as process:
        wait_for_a_put(night, "claim.json", process)
        make_noise(proxy)
        proxy.cut_share = 0.2
        proxy.hang_answer_share, proxy.hang_seconds = 0.02, 45  # longer than boto3 waits for an answer
        wait_for_a_put(night, "/snapshots/epoch-002", process)
        for begin, seconds in ((proxy.refuse, 90), (proxy.deny, 20)):
            begin()
            time.sleep(seconds)
            proxy.accept()
            proxy.allow()
            time.sleep(10)
        expire_and_renew(night)
        assert_it_ends_as(undisturbed, night, process)
    assert {"slow_down", "lose_answer", "hang_answer", "cut", "refuse", "denied", "expired"} <= set(proxy.injected)


def expire_and_renew(night: Night) -> None:
    """Let the credentials expire for a while; a server that verifies them then accepts the same ones again."""
    night.proxy.expired_keys.add(night.server.access_key)
    time.sleep(20)
    if night.server.takes_any_key:
        night.write_credentials("renewed")
    else:
        night.proxy.expired_keys.clear()


@pytest.mark.chaos
def test_an_answer_that_hangs_times_out_and_is_retried(night: Night) -> None:
    store = night.used_store()
    night.proxy.hang_seconds = LONG
    night.proxy.next_faults = ["hang_answer"]
    store.put("key", CONTENT)
    night.proxy.next_faults = ["hang_answer"]
    assert store.get("key") == CONTENT
    assert night.proxy.injected == {"hang_answer": 2}
