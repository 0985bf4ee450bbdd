"""Group columns in a store: each a small file beside the pack, named by its content."""

from collections.abc import Sequence

from catdog.data.datasets.base import Groups, groups_key
from catdog.errors import NotFoundError, UserError
from catdog.storage import Store
from catdog.storage.serialization import npz_bytes, read_npz

REMEDY = "run prepare.py where the dataset's images are"


def store_groups(store: Store, fingerprint: str, groups: Sequence[Groups]) -> None:
    """Store what is missing of a dataset's group columns."""
    for one in groups:
        key = groups_key(fingerprint, one.digest)
        if not store.exists(key):
            store.put(key, npz_bytes(names=one.names, labels=one.labels))


def read_groups(store: Store, fingerprint: str, column: str, digest: str) -> Groups:
    """Return a group column; raises `UserError` if the store lacks it, or it is damaged."""
    key = groups_key(fingerprint, digest)
    try:
        content = read_npz(store.get(key), {"names": "U G", "labels": "i N"})
        groups = Groups(column, tuple(content["names"].tolist()), content["labels"])
        if groups.digest != digest:
            raise ValueError("its content is not what its name says")
    except NotFoundError:
        raise UserError(f"{store.url}/{key}: no such object: {REMEDY}") from None
    except ValueError as error:
        raise UserError(f"{store.url}/{key} is damaged ({error}): delete it, then {REMEDY}") from None
    return groups
