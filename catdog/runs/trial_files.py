"""The files of a finished trial: what is wrong with them, and reading them for all trials of a run.

`result.json` holds the sha256 of the trial's other files. A file is damaged if it is missing, altered, or says what the
trial cannot have written; its trial then does not count, and the next sweep runs it again. Contact sheets, from which
nothing is computed, need only exist, and the weights not even that: they are large, and may be deleted by hand.
"""

import itertools
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np

from catdog.config.recipe import Recipe
from catdog.errors import NotFoundError, UserError, first_line
from catdog.formatting import shorten
from catdog.runs.artifacts import (
    SPLITS,
    ProbeMasks,
    SplitPredictions,
    read_attention_npz,
    read_deletion,
    read_localization,
    read_predictions_npz,
)
from catdog.runs.history import epoch_row, numbers, read_history
from catdog.runs.manifest import Identity, PlannedTrial
from catdog.runs.paths import WEIGHTS, TrialPaths
from catdog.runs.results import TrialResult
from catdog.storage import Store, map_objects, read_many, sha256

logger = logging.getLogger(__name__)
T = TypeVar("T")

OUTVOTED = "it is about other images than most trials"
UNDECIDED = "no images are those of most trials"
"""What a trial's own files do not tell: the damage of one that is whole."""

Objects = Iterable[tuple[str, Any]]
Track = Callable[[Objects, int], Objects]
"""Passes objects through and shows progress towards the total."""


def untracked(objects: Objects, total: int) -> Objects:
    """Pass objects through and show nothing."""
    return objects


@dataclass(frozen=True)
class FileCheck:
    """What a look into one stored file has found."""

    damage: str | None
    images: Mapping[str, str] = field(default_factory=dict)
    """By split: a hash of the images that the file is about."""
    content: Any = None
    """What a report needs of a file that every trial has; None of others."""


def parse_result(data: bytes, trial: PlannedTrial, identity: Identity) -> TrialResult | None:
    """Return the trial's result, or None if it has another config hash; raises `ValueError` if it is damaged."""
    result = TrialResult.from_json(data)
    if result.config_hash != identity.trial_hash(trial.variant, trial.seed):
        return None
    if (result.variant, result.seed) != (trial.variant.label, trial.seed):
        raise ValueError(f"it is about {result.variant} seed {result.seed}")
    epochs = identity.of(trial.variant).recipe.epochs
    ends_early = result.epochs == result.best_epoch and result.epochs < epochs
    if not (result.epochs == epochs if result.status == "complete" else ends_early):
        raise ValueError(f"a trial of {epochs} epochs is not {result.status} after {result.epochs}")
    return result


def read_result(store: Store, where: TrialPaths, trial: PlannedTrial, identity: Identity) -> TrialResult | None:
    """Return the trial's result if it has its config hash and is undamaged, else None."""
    try:
        result = parse_result(store.get(where.result), trial, identity)
    except NotFoundError:
        return None
    except ValueError as error:
        logger.warning("%s: %s", where.result, error)
        return None
    if result is None:
        return None
    damage = find_damage(store, {where: result}, set(store.list(f"{where.folder}/")), identity.recipe).get(where)
    if damage:
        logger.warning("%s", damage)
    return None if damage else result


def find_damage(
    store: Store,
    results: Mapping[TrialPaths, TrialResult],
    keys: Collection[str],
    recipe: Recipe,
    kept: dict[str, Any] | None = None,
    track: Track = untracked,
    known: dict[str, FileCheck] | None = None,
) -> dict[TrialPaths, str]:
    """Return what is wrong with the files of damaged trials, reading them in parallel; `keys` exist.

    Files of one name are about the same images in all trials, or in those of a seed whose split is its own: one that
    differs from the majority is damaged, and all are if there is none. What the files hold goes into `kept`, by key,
    for `read_files`; `track` shows progress. Files that are `known`, by key, to be as they should be are not read
    again; those that are found so now are added.
    """
    owners = {
        f"{where.folder}/{name}": (name, result)
        for where, result in results.items()
        for name in result.files
        if not name.startswith("snapshots/") and name != WEIGHTS
    }
    known = {} if known is None else known
    checks = {key: known[key] for key in owners if key in known}
    unread = [key for key in owners if key not in known]
    first = {one.about: one for one in (kept or {}).values() if isinstance(one, SplitPredictions)}
    for key, check in track(map_objects(store, unread, lambda key, data: _check(*owners[key], data)), len(unread)):
        content = check.content
        checks[key] = replace(check, content=None)
        if isinstance(content, SplitPredictions):
            content = content.beside(first.setdefault(content.about, content))
        if kept is not None and content is not None:
            kept[key] = content
    damage: dict[TrialPaths, str] = {}
    for where, result in results.items():
        required = ["history.csv", "predictions.npz"] if result.status == "complete" else ["history.csv"]
        for name in dict.fromkeys([*required, *result.files.keys() - {WEIGHTS}]):
            key = f"{where.folder}/{name}"
            if key not in keys or name not in result.files:
                damage.setdefault(where, f"{key} is missing")
            elif key in checks and (wrong := checks[key].damage):
                damage.setdefault(where, f"{key} is damaged: {wrong}")
    _add_outvoted(damage, results, checks, recipe)
    known |= {key: check for key, check in checks.items() if check.damage is None}
    return damage


def _add_outvoted(
    damage: dict[TrialPaths, str],
    results: Mapping[TrialPaths, TrialResult],
    checks: Mapping[str, FileCheck],
    recipe: Recipe,
) -> None:
    """Add to `damage` the trials whose files are about other images than most; who is damaged has no vote."""
    for name, split in itertools.product(_CHECKS, SPLITS):
        alike: dict[int | None, dict[TrialPaths, str | None]] = {}
        for where, result in results.items():
            if (key := f"{where.folder}/{name}") in checks:
                group = result.seed if split == "validation" and recipe.resamples_split else None
                alike.setdefault(group, {})[where] = checks[key].images.get(split)
        for about in alike.values():
            votes: dict[str | None, list[str]] = {}
            for where, images in about.items():
                if where not in damage:
                    votes.setdefault(images, []).append(f"{results[where].variant} seed {results[where].seed}")
            usual = [images for images, names in votes.items() if 2 * len(names) > sum(map(len, votes.values()))]
            sides = " against ".join(shorten(", ".join(names), 200) for names in votes.values())
            wrong = OUTVOTED if usual else f"{UNDECIDED}: {shorten(sides, 600)}"
            for where, images in about.items():
                if votes and usual != [images]:
                    damage.setdefault(where, f"{where.folder}/{name} is damaged: {wrong}")


def delete_outvoted(store: Store, damage: Mapping[TrialPaths, str]) -> None:
    """Delete the results of trials that are damaged as most others are about other images: a worker would keep them.

    Raises:
        UserError: there is no majority, so only the user can know which trials are wrong.
    """
    for text in damage.values():
        if UNDECIDED in text:
            raise UserError(f"{text}: delete result.json of the wrong ones, then run the same command again")
    for where, text in damage.items():
        if text.endswith(OUTVOTED):
            store.delete(where.result)


def _check(name: str, result: TrialResult, data: bytes) -> FileCheck:
    """Look into one of the trial's files."""
    if sha256(data) != result.files[name]:
        return FileCheck("its sha256 is not what result.json says")
    try:
        return _CHECKS[name](result, data) if name in _CHECKS else FileCheck(None)
    except ValueError as error:
        return FileCheck(first_line(error))


def _about(images: Mapping[str, Any]) -> FileCheck:
    return FileCheck(None, {split: sha256(repr(one).encode()) for split, one in images.items()})


def _check_history(result: TrialResult, data: bytes) -> FileCheck:
    history = read_history(data)
    if len(history) != result.epochs:
        raise ValueError(f"it has {len(history)} epochs, not the {result.epochs} of result.json")
    if result.status != "complete":
        return FileCheck(None, content=history)
    chosen = epoch_row(history, result.best_epoch)
    if chosen is None or history["val_accuracy"].idxmax() != result.best_epoch:
        raise ValueError(f"epoch {result.best_epoch} is not its best")
    if (
        abs(chosen["val_accuracy"] - (result.val_accuracy or 0)) > 1e-6
        or np.isinf([chosen[n] for n in numbers(history)]).any()
    ):
        raise ValueError(f"its epoch {result.best_epoch} is not that of result.json")
    scores = {name: value for name, value in result.side_accuracies.items() if name.startswith("val_")}
    if wrong := [name for name, value in scores.items() if not abs(chosen.get(name, np.nan) - value) <= 1e-6]:
        raise ValueError(f"its {wrong[0]} of epoch {result.best_epoch} is not that of result.json")
    return FileCheck(None, content=history)


def _check_masks(result: TrialResult, data: bytes) -> FileCheck:
    masks = ProbeMasks.from_npz(data)
    if len(masks.predicted_EP) != result.epochs:
        raise ValueError(f"it has {len(masks.predicted_EP)} epochs, not the {result.epochs} of result.json")
    shown = [masks.classes, masks.names, masks.labels_P.tolist(), sha256(masks.images_PSSC.tobytes())]
    return _about({"validation": shown})


def _check_predictions(result: TrialResult, data: bytes) -> FileCheck:
    splits = {split: read_predictions_npz(data, split) for split in SPLITS}
    for found, accuracy in zip(splits.values(), (result.val_accuracy, result.test_accuracy), strict=True):
        # The logits were rounded to float16, where an image's two highest may tie.
        if accuracy is None or abs(found.accuracy - accuracy) > max(1, 101 / len(found.labels_N)):
            raise ValueError(f"its accuracy is {found.accuracy:.2f}, not the {accuracy} of result.json")
    return FileCheck(None, {split: one.about for split, one in splits.items()}, splits["test"])


def _check_attention(result: TrialResult, data: bytes) -> FileCheck:
    return _about({split: masks.images for split, masks in read_attention_npz(data).items()})


def _check_localization(result: TrialResult, data: bytes) -> FileCheck:
    found = read_localization(data)  # alike in trials that have masks at other places
    return _about({name.partition("@")[0]: (one.images, one.breeds) for name, one in found.items()})


def _check_deletion(result: TrialResult, data: bytes) -> FileCheck:
    return _about({split: one.images for split, one in read_deletion(data).items()})


_CHECKS: Mapping[str, Callable[[TrialResult, bytes], FileCheck]] = {
    "history.csv": _check_history,
    "masks.npz": _check_masks,
    "predictions.npz": _check_predictions,
    "attention.npz": _check_attention,
    "localization.json": _check_localization,
    "grad-cam.npz": _check_attention,
    "grad-cam.json": _check_localization,
    "deletion.json": _check_deletion,
}
"""Raise `ValueError` for what the trial cannot have written; return which images of each split the file is about."""


def read_files(
    store: Store,
    results: Mapping[TrialPaths, TrialResult],
    name: str,
    parse: Callable[[bytes], T],
    track: Track = untracked,
    kept: Mapping[str, Any] = MappingProxyType({}),
) -> Iterator[tuple[TrialResult, T]]:
    """Read the file `name` of all trials that have it, in parallel, but those that `find_damage` has `kept`.

    Raises:
        UserError: a file has vanished or changed since `results` were found undamaged.
    """
    owners = {f"{where.folder}/{name}": result for where, result in results.items() if name in result.files}
    if kept and owners.keys() <= kept.keys():
        yield from ((result, kept[key]) for key, result in owners.items())
        return
    unread = set(owners)
    for key, data in track(read_many(store, owners), len(owners)):
        unread.discard(key)
        try:
            yield owners[key], parse(data)
        except ValueError as error:
            raise UserError(f"{key} has changed ({first_line(error)}): run the same command again") from None
    if unread:
        raise UserError(f"{min(unread)} has vanished: run the same command again")
