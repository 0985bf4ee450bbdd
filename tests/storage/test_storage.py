"""The contract of stores (a folder, a real S3 server over HTTP, memory), and background uploads."""

import errno
import functools
import os
import socket
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from catdog.errors import NotFoundError, StoreError, StoreRefusedError, UserError
from catdog.storage import (
    BackgroundUploads,
    LocalStore,
    MemoryStore,
    S3Store,
    Store,
    StoreLocation,
    map_objects,
    put_file,
    read_many,
    sha256,
)
from catdog.storage.local import scratch_beside
from catdog.storage.store import MOST_AHEAD
from tests.helpers.limits import files_of_at_most, no_more_open_files

TRIAL = "run/trials/multi-attention__num_masks=2,lambda_divergence=1e-5/seed-00"


@pytest.fixture(params=["local", "memory", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """An empty store of each kind."""
    if request.param == "memory":
        return MemoryStore()
    if request.param == "local":
        return LocalStore(tmp_path / "store")
    return StoreLocation.of(f"{request.getfixturevalue('s3_bucket')}/some/prefix").open()


def everything_below(folder: Path) -> set[str]:
    """All files below a folder, including hidden ones."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_get_returns_what_was_put(store: Store) -> None:
    for key, data in (
        (f"{TRIAL}/result.json", b'{"seed": 0}'),
        ("run/empty", b""),
        ("a", os.urandom(100_000)),
    ):
        store.put(key, data)
        assert store.get(key) == data
        assert store.exists(key)


def test_a_slow_reader_finds_few_objects_ahead_of_their_turn() -> None:
    store, read = MemoryStore(), []
    store.objects = dict.fromkeys(map(str, range(500)), b"")
    reader = map_objects(store, store.objects, lambda key, data: read.append(key))
    assert next(reader)[0] == "0"
    time.sleep(0.05)
    assert len(read) <= MOST_AHEAD + 1
    assert [key for key, _ in reader] == list(store.objects)[1:]


def test_a_later_object_replaces_an_earlier_one(store: Store) -> None:
    for data in (b"first, and longer", b"second"):
        store.put("run/manifest.json", data)
    assert store.get("run/manifest.json") == b"second"
    assert store.list("") == ["run/manifest.json"]


def test_a_missing_object_is_not_found(store: Store) -> None:
    store.put("run/trials/x", b"")
    for key in ("nothing", "run/nothing", "run/trials/x2"):
        assert not store.exists(key)
        with pytest.raises(NotFoundError, match=key):
            store.get(key)
    assert not store.exists("run/trials")


def test_deleting_removes_one_object_and_ignores_missing_ones(store: Store) -> None:
    store.put("run/a", b"1")
    store.put("run/ab", b"2")
    store.delete("run/a")
    store.delete("run/a")
    store.delete("never/was/there")
    assert store.list("") == ["run/ab"]
    with pytest.raises(NotFoundError):
        store.get("run/a")


def test_a_listing_is_sorted_and_holds_exactly_the_keys_with_the_prefix(store: Store) -> None:
    keys = [
        f"run/trials/{name}/seed-{seed:02d}/result.json"
        for name in ("se", "attention-relu", "attention")
        for seed in (1, 0, 10)
    ]
    for key in [*keys, "run/manifest.json", "run2/manifest.json", "datasets/x/pack"]:
        store.put(key, b"")
    assert store.list("run/trials/") == sorted(keys)
    assert store.list("run/trials/attention/") == sorted(key for key in keys if "/attention/" in key)
    assert store.list("run/trials/attention") == sorted(key for key in keys if "/attention" in key)
    assert store.list("run") == sorted([*keys, "run/manifest.json", "run2/manifest.json"])
    assert store.list("run/manifest.json") == ["run/manifest.json"]
    assert len(store.list("")) == 12
    assert store.list("nothing/here/") == []


def test_files_are_stored_and_fetched_whole(store: Store, tmp_path: Path) -> None:
    content = os.urandom(300_000)
    (tmp_path / "source").write_bytes(content)
    store.put_file("datasets/x/pack", tmp_path / "source")
    assert store.get("datasets/x/pack") == content
    if isinstance(store, LocalStore):
        return  # its files are used in place
    store.get_file("datasets/x/pack", tmp_path / "new" / "folder" / "target")
    assert (tmp_path / "new" / "folder" / "target").read_bytes() == content
    with pytest.raises(NotFoundError):
        store.get_file("datasets/x/nothing", tmp_path / "new" / "nothing")
    assert everything_below(tmp_path / "new") == {"folder/target"}


def test_a_working_store_passes_the_check_which_leaves_nothing_behind(store: Store) -> None:
    store.check()
    assert store.list("") == []


def test_many_objects_are_read_in_order_and_missing_ones_are_left_out(store: Store) -> None:
    keys = [f"run/{i}" for i in (5, 3, 9, 1, 7)]
    for key in keys:
        store.put(key, key.encode())
    store.delete("run/9")
    assert list(read_many(store, keys)) == [(key, key.encode()) for key in keys if key != "run/9"]


def test_stores_with_similar_names_do_not_see_each_other(s3_bucket: str, tmp_path: Path) -> None:
    for root in (str(tmp_path / "x"), s3_bucket):
        stores = [StoreLocation.of(f"{root}/{name}").open() for name in ("a", "ab", "a/b")]
        for i, one in enumerate(stores):
            one.put("key", bytes([i]))
        assert [one.list("") for one in stores] == [["b/key", "key"], ["key"], ["key"]]
        assert [one.get("key") for one in stores] == [b"\0", b"\1", b"\2"]
        assert stores[0].list("b") == ["b/key"]


def test_a_missing_bucket_is_a_mistake_that_names_it(s3_environment: dict[str, str], tmp_path: Path) -> None:
    store = StoreLocation.of("s3://no-such-bucket/prefix").open()
    (tmp_path / "file").write_bytes(b"")
    for act in (
        store.check,
        lambda: store.put("key", b""),
        lambda: store.get("key"),
        lambda: store.list(""),
        lambda: store.put_file("key", tmp_path / "file"),
    ):
        with pytest.raises(UserError, match="there is no bucket 'no-such-bucket'"):
            act()


def test_missing_credentials_are_a_mistake(s3_bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "nothing"))
    with pytest.raises(UserError, match="boto3 finds no credentials"):
        StoreLocation.of(f"{s3_bucket}/without").open().check()


@pytest.mark.parametrize("url", ["s3://", "s3:///", "s3:///prefix"])
def test_an_s3_url_without_a_bucket_is_a_mistake(url: str) -> None:
    with pytest.raises(UserError, match=f"^--store {url}: names no bucket; give s3://bucket/prefix$"):
        StoreLocation.of(url).open()


def test_a_location_is_absolute_and_of_a_known_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert StoreLocation.of("results") == StoreLocation(str(tmp_path / "results"))
    assert StoreLocation.of("~/results").url == str(Path.home() / "results")
    for url in ("gs://bucket/prefix", "ftp://x/y", "s3:/bucket/prefix", "s3:bucket"):
        with pytest.raises(UserError, match=f"^--store {url}: give a folder or s3://bucket/prefix$"):
            StoreLocation.of(url)


def test_a_location_holds_endpoint_and_region_and_no_secret(s3_bucket: str, s3_environment: dict[str, str]) -> None:
    location = StoreLocation.of(f"{s3_bucket}/p/")
    assert location == StoreLocation(f"{s3_bucket}/p", s3_environment["AWS_ENDPOINT_URL"], "us-east-1")
    assert "testing" not in repr(location)


@pytest.mark.parametrize(
    ("url", "folder"),
    [("x.png", "."), ("a/x.png", "a"), ("/x.png", "/"), ("/a/x.png", "/a"), ("s3://bucket/x.png", "s3://bucket")],
)
def test_a_file_goes_into_the_folder_before_its_name(url: str, folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    target = MemoryStore()
    monkeypatch.setattr("catdog.storage.open_target", lambda *asked: {("--out", folder): target}[asked])
    put_file("--out", url, b"picture")
    assert target.get("x.png") == b"picture"


def test_a_local_store_leaves_no_temporary_files(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    (tmp_path / "file").write_bytes(b"content")
    store.check()
    store.put("a/b/c", b"1")
    store.put("a/b/c", b"2")
    store.put_file("a/d", tmp_path / "file")
    assert everything_below(tmp_path / "store") == {"a/b/c", "a/d"}


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    store.put("a/result.json", b"old")
    (tmp_path / "big").write_bytes(bytes(100_000))
    with files_of_at_most(1000):
        for act in (
            lambda: store.put("a/result.json", bytes(100_000)),
            lambda: store.put_file("a/result.json", tmp_path / "big"),
            lambda: store.put("a/new", bytes(100_000)),
        ):
            with pytest.raises(StoreError):
                act()
    with pytest.raises(StoreError):
        store.put_file("a/result.json", tmp_path / "nothing")
    assert everything_below(tmp_path / "store") == {"a/result.json"}
    assert store.get("a/result.json") == b"old"


def test_an_unwritable_folder_is_a_mistake_in_the_check_and_a_store_error_later(
    tmp_path: Path,
) -> None:
    (tmp_path / "file").write_bytes(b"in the way")
    for folder in (tmp_path / "file", tmp_path / "file" / "store"):
        store = LocalStore(folder)
        with pytest.raises(UserError, match=f"^--store {folder}: cannot be written"):
            store.check()
        with pytest.raises(StoreError):
            store.put("run/a", b"")
        assert store.list("") == []
    LocalStore(tmp_path).put("run", b"")
    with pytest.raises(StoreError):
        LocalStore(tmp_path).put("run/a", b"")
    with pytest.raises(StoreError):
        LocalStore(tmp_path).get("run/a")


@pytest.mark.parametrize(
    ("key", "place", "is_folder", "remedy"),
    [
        ("run/claim.json", "run/claim.json", True, "move the folder that is in the way"),
        ("datasets/x/pack", "datasets", False, "move the file that is in the way"),
        ("datasets/x/pack", "datasets/x", False, "move the file that is in the way"),
    ],
)
def test_what_is_in_the_way_of_a_write_is_named(
    key: str, place: str, is_folder: bool, remedy: str, tmp_path: Path
) -> None:
    store, path = LocalStore(tmp_path), tmp_path / place
    path.parent.mkdir(exist_ok=True)
    path.mkdir() if is_folder else path.write_bytes(b"")
    with pytest.raises(StoreRefusedError, match=rf"^--store {tmp_path}: cannot be written \({place}: .*{remedy}$"):
        store.put(key, b"")


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        here = os.open(path.parent, os.O_RDONLY)
        server.bind(f"/proc/self/fd/{here}/{path.name}")  # a socket's path must be short
        os.close(here)


def make_link_to_a_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.timeout(60)
@pytest.mark.parametrize("make", [make_fifo, make_socket, make_link_to_a_device, Path.mkdir])
def test_what_is_no_file_is_no_object_and_is_not_waited_for(make: Callable[[Path], None], tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    make(tmp_path / "manifest.json")
    assert not store.exists("manifest.json")
    assert store.list("") == []
    for act in (lambda: store.get("manifest.json"), lambda: store.put_new("manifest.json", b"")):
        with pytest.raises(StoreRefusedError, match=rf"^--store {tmp_path}: manifest.json is no file: move away"):
            act()


@pytest.mark.parametrize("code", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EACCES])
def test_a_folder_without_hard_links_is_a_store_that_says_it_has_no_conditional_writes(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    store = LocalStore(tmp_path / "store")
    assert store.has_conditional_writes
    monkeypatch.setattr(os, "link", fail)
    assert not store.has_conditional_writes
    store.check()
    assert not (tmp_path / "store").exists()
    assert store.put_new("run/claim", b"mine")
    assert store.put_new("run/claim", b"mine")
    assert not store.put_new("run/claim", b"yours")
    assert everything_below(tmp_path) == {"store/run/claim"}
    assert store.get("run/claim") == b"mine"


def test_a_folder_that_is_unavailable_for_a_while_is_asked_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = StoreLocation.of(str(tmp_path / "store"), patience=60.0).open()
    store.put("run/a", b"1")
    operations = (
        lambda: store.get("run/a"),
        lambda: store.list("run/"),
        lambda: store.put("run/a", b"1"),
        lambda: store.put_new("run/a", b"1"),
    )
    with ThreadPoolExecutor(len(operations)) as pool:
        with no_more_open_files():
            asked = [pool.submit(operation) for operation in operations]
            while caplog.text.count("waiting for the store") < len(operations):
                time.sleep(0.01)
        assert [one.result() for one in asked] == [b"1", ["run/a"], None, True]
    assert "too many open files" in caplog.text


def test_a_folder_is_not_asked_again_for_what_stays_so(tmp_path: Path) -> None:
    store = StoreLocation.of(str(tmp_path / "store"), patience=1e6).open()
    with pytest.raises(NotFoundError):
        store.get("run/a")
    store.set_retrying(False)
    store.put("run/a", b"1")
    for operation in (lambda: store.get("run/a"), lambda: store.list("run/")):
        with no_more_open_files(), pytest.raises(StoreError, match=r"(?i)too many open files"):
            operation()
    store.set_retrying(True)
    for operation in (lambda: store.list("a" * 300 + "/"), lambda: store.exists("a" * 300)):
        with pytest.raises(StoreRefusedError, match=r"file name too long.*: choose another folder, or shorter labels"):
            operation()


def test_a_half_written_file_of_a_dead_process_is_not_an_object(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.put("run/a", b"1")
    (tmp_path / "run" / ".b.4711-1").write_bytes(b"half")
    assert store.list("run/") == ["run/a"]


@pytest.mark.parametrize("key", ["", "/etc/passwd", "../x", "run/../../x"])
def test_a_key_outside_the_store_is_rejected(key: str, tmp_path: Path) -> None:
    local = LocalStore(tmp_path / "store")
    s3 = StoreLocation("s3://bucket/prefix", "http://127.0.0.1:1", "us-east-1").open()
    puts = [functools.partial(store.put, key, b"") for store in (local, MemoryStore(), s3)]
    for act in (*puts, lambda: local.get(key), lambda: local.delete(key)):
        with pytest.raises(UserError, match="lies outside the store"):
            act()
    assert not everything_below(tmp_path)


def test_readers_never_see_half_an_object_while_writers_replace_it(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    contents = [bytes([i]) * 50_000 for i in range(4)]
    store.put("key", contents[0])

    def write(content: bytes) -> None:
        for _ in range(10):
            store.put("key", content)

    with ThreadPoolExecutor(4) as pool:
        writers = [pool.submit(write, content) for content in contents]
        while not all(writer.done() for writer in writers):
            assert store.get("key") in contents
        for writer in writers:
            writer.result()
    assert everything_below(tmp_path) == {"key"}


def upload(
    store: Store,
    objects: Mapping[str, Callable[[], bytes]],
    then: Callable[[BackgroundUploads], None] = lambda uploads: None,
) -> None:
    """Queue objects, call `then`, and leave the context."""
    with BackgroundUploads(store) as uploads:
        for key, make in objects.items():
            uploads.put(key, make)
        then(uploads)


def upload_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "uploads"]


def test_uploads_are_made_and_stored_in_order_off_the_calling_thread() -> None:
    store, makers = MemoryStore(), set()

    def make(i: int) -> bytes:
        makers.add(threading.current_thread())
        return str(i).encode()

    with BackgroundUploads(store) as uploads:
        for i in range(50):
            uploads.put(f"key-{i}", lambda i=i: make(i))  # type: ignore[misc]
    assert list(store.objects.items()) == [(f"key-{i}", str(i).encode()) for i in range(50)]
    assert len(makers) == 1
    assert threading.current_thread() not in makers
    assert uploads.digests == {key: sha256(data) for key, data in store.objects.items()}
    assert not upload_threads()


def test_a_flush_waits_until_everything_is_stored() -> None:
    store, gate = MemoryStore(), threading.Event()

    def make() -> bytes:
        gate.wait()
        return b"late"

    with BackgroundUploads(store) as uploads:
        uploads.put("first", make)
        uploads.put("second", lambda: b"2")
        assert not store.exists("second")
        threading.Timer(0.05, gate.set).start()
        uploads.flush()
        assert store.list("") == ["first", "second"]
        assert set(uploads.digests) == {"first", "second"}
        uploads.put("first", lambda: b"later")
        uploads.flush()
        assert store.get("first") == b"later"
        assert uploads.digests["first"] == sha256(b"later")


def test_an_error_while_making_an_object_surfaces_and_nothing_after_it_is_stored() -> None:
    def fail() -> bytes:
        raise ZeroDivisionError("a bug in a contact sheet")

    def flush(uploads: BackgroundUploads) -> None:
        uploads.flush()

    def go_on(uploads: BackgroundUploads) -> None:
        while True:
            uploads.put("after", lambda: b"")
            time.sleep(0.001)

    def leave(uploads: BackgroundUploads) -> None:
        pass

    for then in (flush, go_on, leave):
        store = MemoryStore()
        with pytest.raises(ZeroDivisionError, match="contact sheet"):
            upload(store, {"before": lambda: b"", "sheet": fail, "after": lambda: b""}, then)
        assert store.list("") == ["before"]
    assert not upload_threads()


def test_leaving_with_an_exception_drops_pending_uploads() -> None:
    store, gate = MemoryStore(), threading.Event()

    def make() -> bytes:
        gate.wait()
        return b""

    def stop(uploads: BackgroundUploads) -> None:
        threading.Timer(0.2, gate.set).start()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        upload(store, {"in progress": make, "waiting-1": lambda: b"", "waiting-2": lambda: b""}, stop)
    assert not [key for key in store.list("") if key.startswith("waiting")]
    assert not upload_threads()


def test_an_object_put_again_while_pending_is_stored_once_after_everything_queued_before_it() -> None:
    store, gate = MemoryStore(), threading.Event()

    def make() -> bytes:
        gate.wait()
        return b""

    with BackgroundUploads(store, memory_bytes=10) as uploads:
        uploads.put("in progress", make)
        for epoch in range(5):
            uploads.put(f"sheet-{epoch}", b"sheet")
            uploads.put("checkpoint", bytes([epoch]) * 1000)
        gate.set()
    assert list(store.objects) == ["in progress", *(f"sheet-{epoch}" for epoch in range(5)), "checkpoint"]
    assert store.objects["checkpoint"] == bytes([4]) * 1000


def test_put_new_never_overwrites_other_content(store: Store) -> None:
    assert store.put_new("run/claim", b"mine")
    assert store.put_new("run/claim", b"mine")
    assert not store.put_new("run/claim", b"yours")
    assert store.get("run/claim") == b"mine"
    assert store.list("") == ["run/claim"]


def test_tidying_removes_leftovers_of_dead_processes_and_empty_folders(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.put("run/trials/a", b"1")
    dead = 2**22 + 1  # above the kernel's highest pid
    with scratch_beside(tmp_path / "run/trials/c") as begun:
        begun.with_name(begun.name.replace(f"-{os.getpid()}-", f"-{dead}-")).write_bytes(b"half")
        (tmp_path / "run/failures/se").mkdir(parents=True)
        store.remove_leftovers("run")
        assert everything_below(tmp_path) == {"run/trials/a", f"run/trials/{begun.name}"}
    assert not (tmp_path / "run/failures").exists()


def test_a_folder_that_another_node_removes_meanwhile_does_not_disturb_a_listing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, scandir = LocalStore(tmp_path), os.scandir
    store.put("run/a", b"1")
    (tmp_path / "run" / "gone").mkdir()

    def just_after_it_was_removed(path: Path) -> object:
        if Path(path).name == "gone":
            Path(path).rmdir()
        return scandir(path)

    monkeypatch.setattr(os, "scandir", just_after_it_was_removed)
    assert store.list("run/") == ["run/a"]


def test_what_another_node_replaces_or_removes_on_nfs_while_it_is_read_is_read_again_or_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There the open file or folder goes stale (ESTALE)."""
    store, scandir, read = LocalStore(tmp_path), os.scandir, Path.read_bytes
    store.put("run/a", b"old")
    (tmp_path / "run" / "gone").mkdir()

    def stale(path: Path) -> bytes:
        if read(path) == b"new":
            return b"new"
        store.put("run/a", b"new")
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    def just_after_it_was_removed(path: Path) -> object:
        if Path(path).name == "gone":
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return scandir(path)

    monkeypatch.setattr(Path, "read_bytes", stale)
    monkeypatch.setattr(os, "scandir", just_after_it_was_removed)
    assert store.get("run/a") == b"new"
    assert store.list("run/") == ["run/a"]


def test_a_check_leaves_nothing_behind_not_even_the_folder(tmp_path: Path) -> None:
    LocalStore(tmp_path / "new" / "store").check()
    assert not (tmp_path / "new").exists()


def test_a_link_shows_an_object_without_credentials(store: Store) -> None:
    store.put("night/report/my report.html", b"<p>before")
    link = store.link("night/report/my report.html")
    store.put("night/report/my report.html", b"<p>after")
    if not isinstance(store, MemoryStore):
        with urllib.request.urlopen(link.url) as page:
            assert page.read() == b"<p>after"
            assert page.headers["Content-Type"].startswith("text/html")
    assert link.lasts.startswith({MemoryStore: "in this", LocalStore: "on this", S3Store: "for every"}[type(store)])
