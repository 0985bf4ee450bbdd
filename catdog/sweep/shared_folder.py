"""Whether a folder is one and the same on every node, which a store in a folder needs on a cluster of several.

Each node must see what the others write, replace a file by renaming another over it, and create a file that only one of
several writers can create. Every node writes first; then, once all have, every node reads. Nothing is written where a
node does not see the driver's own file: there the path is another folder.
"""

import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from catdog.errors import NotFoundError, StoreError, UserError, first_line
from catdog.storage import LocalStore

DRIVER, LATER, CLAIM = "driver", "later", "claim"
VISIBLE_SECONDS = 2.0
"""How long a file may take to be seen from another node: a sweep lists results as soon as it hears of the last one."""
ANSWER_SECONDS = 120.0
"""How long all nodes together may take for a round: the first task of a node starts a process."""


class Answer(NamedTuple):
    """What a node found in one round."""

    fault: str = ""
    """Why the folder does not serve there; empty if it does."""
    created: bool = False
    """Whether this node created the one file that all nodes tried to create."""


def check_shared(url: str) -> None:
    """Raise `UserError` with a node's name unless the folder `url` serves as a store on all nodes that are up."""
    hosts = {node["NodeID"]: node["NodeManagerHostname"] for node in ray.nodes() if node["Alive"]}
    root = Path(url)
    is_new = not root.exists()
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".shared-", dir=root, ignore_cleanup_errors=True) as folder:
            check_folder(url, Path(folder), hosts, _on_all_nodes)
    except OSError as error:
        raise UserError(f"--store {url}: cannot be written ({error.strerror}): choose another folder") from None
    finally:
        if is_new:
            with suppress(OSError):
                root.rmdir()  # fails unless it is empty


def check_folder(
    url: str, folder: Path, hosts: Mapping[str, str], on_all_nodes: Callable[..., Mapping[str, Answer]]
) -> None:
    """Raise `UserError` unless the empty `folder` serves all nodes; `hosts`: their names.

    `on_all_nodes(nodes, work, folder, *arguments)` returns what `work(folder, node, *arguments)` answers on each.
    """

    def require(faults: Mapping[str, str]) -> None:
        for node, fault in faults.items():
            if fault:
                raise UserError(
                    f"--store {url}: not shared with node {hosts[node]} ({fault}): choose a folder that all nodes "
                    "share, or s3://bucket/prefix"
                )

    store = LocalStore(folder)
    store.put(DRIVER, DRIVER.encode())
    written = on_all_nodes(hosts, write_claim, str(folder))
    require({node: answer.fault for node, answer in written.items()})
    require({node: "" if _shows(store, node) else "the driver does not see what it wrote" for node in hosts})
    store.put(LATER, LATER.encode())
    writers = {LATER: "the driver"} | {node: f"node {host}" for node, host in hosts.items()}
    read = on_all_nodes(hosts, read_others, str(folder), writers)
    require({node: answer.fault for node, answer in read.items()})
    creators = [node for node, answer in written.items() if answer.created]
    if len(creators) != 1:
        require(dict.fromkeys(creators or hosts, f"{len(creators)} nodes created the same file, instead of one"))


def write_claim(folder: str, node: str) -> Answer:
    """Write and replace this node's file, and try to create the one that all nodes try to create."""
    store = LocalStore(Path(folder))
    try:
        if not _shows(store, DRIVER):
            return Answer("it does not see the driver's files there")
        store.put(node, b"to be replaced")
        store.put(node, node.encode())
        if not store.has_conditional_writes:
            return Answer("its file system has no hard links, without which two sweeps could own a run")
        created = store.put_new(CLAIM, node.encode())
        store.list("")  # a file system that remembers this for long will not show what is written later
        return Answer(created=created)
    except (StoreError, OSError) as error:
        return Answer(_reason(error))


def read_others(folder: str, node: str, writers: dict[str, str]) -> Answer:
    """Read what all nodes wrote, and the driver; `writers`: in which file who did."""
    store = LocalStore(Path(folder))
    try:
        unseen = [writer for name, writer in writers.items() if not _shows(store, name)]
    except (StoreError, OSError) as error:
        return Answer(_reason(error))
    return Answer(f"it does not see what {unseen[0]} wrote" if unseen else "")


def _shows(store: LocalStore, name: str) -> bool:
    """Return whether a file named `name` is listed and holds its own name, now or soon."""
    deadline = time.monotonic() + VISIBLE_SECONDS
    while True:
        with suppress(NotFoundError):
            if name in store.list("") and store.get(name) == name.encode():
                return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)


def _on_all_nodes(nodes: Iterable[str], work: Callable[..., Answer], folder: str, *arguments: Any) -> dict[str, Answer]:
    """Run `work` on all nodes at once, as a task on each; returns the answers by node."""
    task, pending = ray.remote(num_cpus=0, max_retries=0)(work), {}
    for node in nodes:
        pinned = task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False))
        pending[node] = pinned.remote(folder, node, *arguments)
    ray.wait(list(pending.values()), num_returns=len(pending), timeout=ANSWER_SECONDS)
    return {node: _answer(answer) for node, answer in pending.items()}


def _answer(pending: Any) -> Answer:
    try:
        answer: Answer = ray.get(pending, timeout=0)
        return answer
    except ray.exceptions.GetTimeoutError:
        return Answer(f"it did not answer within {ANSWER_SECONDS:.0f} s")
    except ray.exceptions.RayError as error:
        return Answer(first_line(error))


def _reason(error: StoreError | OSError) -> str:
    """Return a refusal without the option and the remedy, which `check_folder` adds."""
    text = first_line(error)
    return text.partition(": ")[2].rpartition(": ")[0] if text.startswith("--store") else text
