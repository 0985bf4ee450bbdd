"""Reading the results of trials from the store. A damaged one does not count: its trial is run again.

`result.json` holds the sha256 of itself and of the trial's other files. Everything that tables are made of is compared
with that; of contact sheets, which nothing is computed from, only that they are there.
"""

import logging
from collections.abc import Collection, Mapping

from catdog.errors import NotFoundError
from catdog.paths import TrialPaths
from catdog.records import TrialResult
from catdog.storage import Store, digest_many

logger = logging.getLogger(__name__)


def read_result(store: Store, where: TrialPaths, config_hash: str) -> TrialResult | None:
    """Return the trial's result if it is over with this config hash, and whole."""
    try:
        result = TrialResult.from_json(store.get(where.result))
    except NotFoundError:
        return None
    except ValueError as error:
        logger.warning("%s: %s", where.result, error)
        return None
    if result.config_hash != config_hash:
        return None
    keys = set(store.list(f"{where.folder}/"))
    damage = find_damage(where, result, keys, digest_many(store, checked_keys(where, result)))
    if damage:
        logger.warning("%s", damage)
    return None if damage else result


def checked_keys(where: TrialPaths, result: TrialResult) -> list[str]:
    """Return the keys of the trial's files whose content is compared."""
    return [f"{where.folder}/{name}" for name in result.files if not name.startswith("snapshots/")]


def find_damage(
    where: TrialPaths, result: TrialResult, keys: Collection[str], digests: Mapping[str, str]
) -> str | None:
    """Return what is wrong with the trial's files, if anything is: `keys` are there, with these sha256."""
    checked = set(checked_keys(where, result))
    for name, digest in result.files.items():
        key = f"{where.folder}/{name}"
        if key not in keys:
            return f"{key} is missing"
        if key in checked and digests.get(key) != digest:
            return f"{key} is damaged: its sha256 is not what result.json says"
    return None
