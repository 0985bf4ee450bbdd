"""A run in its published form: small files, in another store, from which the same report is built.

A trial keeps result.json and history.csv. Its predictions.npz holds the predicted class and the log-probability of the
true one instead of all logits, and localization.json, instead of attention.npz, where its masks look (grad-cam.json
instead of grad-cam.npz, where the network looks without masks). Only the best run of each variant keeps its masks and
the contact sheet of its chosen epoch. What training needs is left out.
"""

import dataclasses
import os

from catdog.analysis.localization import MAPS, localize
from catdog.errors import UserError
from catdog.runs.artifacts import SPLITS, localization_json, published_predictions_npz, read_predictions_npz
from catdog.runs.manifest import Manifest, read_manifest
from catdog.runs.paths import RunPaths, TrialPaths
from catdog.runs.results import TrialResult, best_run
from catdog.runs.status import RunStatus
from catdog.storage import Store, read_many, sha256

STUDY_FILES = ("lambda.csv", "figures/lambda.png", "scatter.csv", "figures/scatter.png")
"""In the report of a study's last run: built from all its runs, so one of them cannot make them again."""


def publish_run(store: Store, run_status: RunStatus, target: Store) -> None:
    """Write the published form of a run's complete and diverged trials, and its records, into `target`.

    Raises:
        UserError: `target` holds another run of this name, or trials that this one does not plan.
    """
    manifest, run = run_status.manifest, RunPaths(run_status.manifest.run)
    _check_target(store, target, manifest)
    target.put(run.manifest, manifest.to_json())
    records = [key for prefix in (run.imports, run.launches, run.looks, run.failures) for key in store.list(prefix)]
    records += sorted({run.report(name) for name in STUDY_FILES} & set(store.list(run.report(""))))
    for key, data in read_many(store, [run.recipe, *records]):
        target.put(key, data)
    localizations = [(maps.scores, localize(store, run_status, maps)) for maps in MAPS]
    best = [best_run(run_status.results(label)) for label in manifest.variants]
    for where, result in run_status.finished.items():
        files = _files(store, where, result, result in best)
        for name, localized in localizations:
            if splits := localized.get((result.variant, result.seed)):
                files[f"{where.folder}/{name}"] = localization_json(splits)
        digests = {key.removeprefix(f"{where.folder}/"): sha256(data) for key, data in sorted(files.items())}
        files[where.result] = dataclasses.replace(result, files=digests).to_json()
        for key, data in files.items():
            target.put(key, data)
        for key in set(target.list(f"{where.folder}/")) - files.keys():
            target.delete(key)


def _check_target(store: Store, target: Store, manifest: Manifest) -> None:
    if os.path.realpath(target.url) == os.path.realpath(store.url):
        raise UserError(f"--to {target.url}: is the run's own store, whose files training needs: choose another folder")
    there = read_manifest(target, manifest.run)
    if there is None:
        return
    if differences := there.identity.differences(manifest.identity):
        raise UserError(
            f"--to {target.url}: holds a run {manifest.run} with another recipe ({'; '.join(differences)}): "
            "choose another folder, or remove that run"
        )
    if more := set(there.planned()) - set(manifest.planned()):
        raise UserError(
            f"--to {target.url}: its run {manifest.run} has trials that this one lacks ({len(more)}): "
            "choose another folder, or remove that run"
        )


def _files(store: Store, where: TrialPaths, result: TrialResult, is_best: bool) -> dict[str, bytes]:
    """Return the trial's own files in their published form, by key."""
    shown = {where.masks, where.snapshot(result.best_epoch or 0), where.grad_cam_sheet} if is_best else set()
    kept = {where.history, where.predictions, where.deletion} | shown
    wanted = sorted(key for name in result.files if (key := f"{where.folder}/{name}") in kept)
    files = dict(read_many(store, wanted))
    if data := files.get(where.predictions):
        files[where.predictions] = published_predictions_npz(
            {split: read_predictions_npz(data, split) for split in SPLITS}
        )
    return files
