"""catdog from Python: runs as tables and arrays, their trained networks, and sweeps.

    run = catdog.load_run("s3://bucket/prefix", "paper")
    run.trials, run.history, run.predictions, run.contrasts       # pandas
    run.masks("multi-attention", seed=0)                          # xarray
    run.best("multi-attention").predict("photo.jpg")              # torch is imported here

What is read of a run is read once, when it is first asked for, in parallel, and without Ray.
"""

import contextlib
import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from rich.console import Console

from catdog.analysis.contrasts import compare
from catdog.analysis.log_loss import with_log_losses
from catdog.analysis.predictions import read_predictions
from catdog.analysis.tables import comparison_table, trials_table
from catdog.analysis.verdicts import contrasts_table
from catdog.cli import output_console
from catdog.config.head_files import load_head_files
from catdog.config.recipe_file import changed_config
from catdog.config.sweep_options import SweepConfig
from catdog.config.variants import VariantSpec
from catdog.errors import UserError
from catdog.formatting import printable
from catdog.runs.artifacts import SPLITS, ProbeMasks, SplitPredictions, read_predictions_npz
from catdog.runs.history import read_history
from catdog.runs.looks import Look
from catdog.runs.manifest import Manifest
from catdog.runs.paths import RunPaths, TrialPaths
from catdog.runs.places import HEAD
from catdog.runs.status import RunStatus, manifest_of, read_run_status
from catdog.runs.trial_files import read_files
from catdog.storage import Store, StoreLocation

if TYPE_CHECKING:
    import xarray

    from catdog.inference.network import KeptNetwork
    from catdog.sweep.notifications import Notifier


def load_run(store: str, run: str, imports: Sequence[str] = ()) -> "Run":
    """Return the run of this name in a store, a folder or `s3://bucket/prefix`; raises `UserError` if there is none.

    `imports` are the files of your own heads, which only networks need.
    """
    load_head_files(imports)
    opened = StoreLocation.of(store).open()
    return Run(opened, manifest_of(opened, run))


def sweep_config(preset: str, **settings: object) -> SweepConfig:
    """Return the options of a sweep: a preset's or a recipe file's, changed by settings as a recipe file has them.

    `sweep_config("demo", seeds=10, learning_rate=1e-3, imports=["heads.py"])`: the setting `import` is called `imports`
    here, for Python's sake. Raises `UserError`.
    """
    return changed_config(preset, {"import" if name == "imports" else name: one for name, one in settings.items()})


def run_sweep(
    config: SweepConfig,
    command: tuple[str, ...] = ("catdog.run_sweep(config)",),
    console: Console | None = None,
) -> "Run":
    """Run what a sweep still needs, write and print its report, and return the run.

    `command` is recorded as what planned the run; progress goes to `console`, by default to standard output. Ray starts
    on this machine, or is the cluster of `RAY_ADDRESS`.

    Raises:
        UserError: a mistake in options, data, weights or store.
        KeyboardInterrupt: the user stopped it; the same call resumes from here.
    """
    from catdog.sweep.notifications import telling_the_end
    from catdog.sweep.run import run_sweep as run_trials

    console = console or output_console()
    with telling_the_end(config, console) as notifier:
        run_status = run_trials(config, command, console, notifier, _refresh_report, _take_look)
        _report(config, run_status, console, notifier)
    store = StoreLocation.of(config.store, config.store_patience).open()
    return Run(store, run_status.manifest, run_status)


def report_lost_run(config: SweepConfig, run_status: RunStatus, console: Console) -> None:
    """Write and print the report of a sweep whose process was lost, and tell whom the sweep was to tell."""
    from catdog.report.terminal import counts_line
    from catdog.sweep.notifications import LOST, telling_the_end

    with telling_the_end(config, console) as notifier:
        notifier.send("end", LOST, lambda: [counts_line(config.store, run_status)])
        _report(config, run_status, console, notifier)


def _report(config: SweepConfig, run_status: RunStatus, console: Console, notifier: "Notifier") -> None:
    from catdog.report.build import write_report
    from catdog.report.terminal import outcome_lines, print_outcome
    from catdog.sweep.tracked_report import log_report

    store = StoreLocation.of(config.store, config.store_patience).open()
    content = write_report(store, run_status, force=True)
    print_outcome(console, store.url, content)
    notifier.send_end(run_status.is_complete, lambda: outcome_lines(store.url, content))
    log_report(config.tracker, store, config.run_name, functools.partial(console.print, soft_wrap=True))


def _refresh_report(store: Store, run_status: RunStatus) -> None:
    from catdog.report.build import write_report  # imports matplotlib, once trials have started

    write_report(store, run_status, running=True)


def _take_look(store: Store, run_status: RunStatus) -> Look | None:
    from catdog.analysis.stopping import take_look

    return take_look(run_status, read_predictions(store, run_status))


class Run:
    """A run in its store, as it was when it was first asked. Tables call variants by their short labels."""

    def __init__(self, store: Store, manifest: Manifest, status: RunStatus | None = None) -> None:
        self.store, self.manifest = store, manifest
        self._given = status

    @functools.cached_property
    def status(self) -> RunStatus:
        """What is known of every planned trial; checks all of its files."""
        status = self._given or read_run_status(self.store, self.manifest, keep=True)
        return status.with_short_labels()

    @functools.cached_property
    def trials(self) -> pd.DataFrame:
        """One row per planned trial, as in trials.csv: its status, accuracies in percent, seconds and origin."""
        return trials_table(self.status)

    @functools.cached_property
    def table(self) -> pd.DataFrame:
        """One row per variant, as in table.csv: n, mean and sample standard deviation, and the best run."""
        return comparison_table(self.status)

    @functools.cached_property
    def history(self) -> pd.DataFrame:
        """One row per trial and epoch, as in history.csv, after the columns variant and seed."""
        found = read_files(self.store, self.status.finished, "history.csv", read_history, kept=self.status.kept)
        return _joined([_of(one.variant, one.seed, history) for one, history in found])

    @functools.cached_property
    def predictions(self) -> pd.DataFrame:
        """One row per complete trial and image of Validation and Test, from each trial's chosen epoch.

        Columns: variant, seed, split, image, label, predicted, log_probability (of the true class, natural logarithm).
        """

        def parse(data: bytes) -> Mapping[str, SplitPredictions]:
            return {split: read_predictions_npz(data, split) for split in SPLITS}

        found = read_files(self.store, self.status.finished, "predictions.npz", parse)
        rows = _joined(
            [
                _of(result.variant, result.seed, _images(split, one))
                for result, splits in found
                for split, one in splits.items()
            ]
        )
        texts = rows.columns.intersection(["variant", "split", "image", "label", "predicted"])
        return rows.astype(dict.fromkeys(texts, "category"))

    @functools.cached_property
    def contrasts(self) -> pd.DataFrame:
        """One row per contrast with the reference, as in contrasts.csv: differences in points, intervals, verdicts."""
        predictions = read_predictions(self.store, self.status)
        return contrasts_table(with_log_losses(compare(self.status, predictions), self.status.manifest, predictions))

    def masks(self, variant: str, seed: int, place: str = HEAD) -> "xarray.DataArray":
        """Return a trial's masks of its probe images in every epoch, by (epoch, image, mask, row, column).

        `place` is the head or a stage of the backbone. Raises `UserError` if the trial has no such masks.
        """
        try:
            import xarray
        except ImportError:
            raise UserError("masks need the package xarray: pip install xarray") from None
        found = self.probe_masks(variant, seed)
        if place not in found.masks:
            raise UserError(f"{variant} seed {seed}: no masks at {place}: it has masks at {', '.join(found.masks)}")
        return xarray.DataArray(
            found.masks[place],
            dims=("epoch", "image", "mask", "row", "column"),
            coords={"image": list(found.names)},
            name=f"{variant} seed {seed}",
        )

    def probe_masks(self, variant: str, seed: int) -> ProbeMasks:
        """Return a trial's masks.npz as it is: also the images, their classes and predictions; raises `UserError`."""
        where = self.trial_paths(variant, seed)
        finished = {at: result for at, result in self.status.finished.items() if at == where}
        for _, masks in read_files(self.store, finished, "masks.npz", ProbeMasks.from_npz):
            return masks
        raise UserError(f"{variant} seed {seed}: it has no masks")

    def title(self, variant: str) -> str:
        """Return what tables call a variant; raises `UserError` if the run has no such variant."""
        return self._spec(variant).title

    def best_seed(self, variant: str) -> int:
        """Return the seed of a variant's best run by validation; raises `UserError` if no trial is complete."""
        best = self.status.best_runs[self.title(variant)]
        if best is None:
            raise UserError(f"{variant}: no trial is complete")
        return best.seed

    def best(self, variant: str) -> "KeptNetwork":
        """Return the network of a variant's best run by validation; raises `UserError` if it was not kept."""
        return self.network(variant)

    def network(self, variant: str, seed: int | None = None) -> "KeptNetwork":
        """Return the network of a trial, by default that of the variant's best run; raises `UserError`."""
        from catdog.inference.network import load_network

        where = self.trial_paths(variant, self.best_seed(variant) if seed is None else seed)
        spec = self._spec(variant)
        return load_network(self.store, where, spec, self.manifest.identity.of(spec).recipe)

    def networks(self, variant: str) -> Sequence["KeptNetwork"]:
        """Return all networks of a variant that were kept, by seed; raises `UserError` if there are none."""
        spec = self._spec(variant)
        kept = [
            one.planned.seed
            for one in self.status.trials
            if one.planned.variant.label == spec.label and one.has_weights
        ]
        return [self.network(variant, seed) for seed in kept] or [self.best(variant)]

    def _spec(self, variant: str) -> VariantSpec:
        """Return a variant of the run by its short label, or as `--variants` takes it; raises `UserError`."""
        manifest = self.manifest
        with contextlib.suppress(UserError):
            if (label := manifest.spec(variant).label) in manifest.variants:
                return manifest.spec(label)
        titles = ", ".join(manifest.spec(label).title for label in manifest.variants)
        raise UserError(f"--variant {variant}: the run {manifest.run} has {titles}")

    def trial_paths(self, variant: str, seed: int) -> TrialPaths:
        """Return the keys of a trial's files in the store; raises `UserError` if the run has no such trial."""
        spec, manifest = self._spec(variant), self.manifest
        if seed not in manifest.seeds[spec.label]:
            raise UserError(f"--seed {seed}: {variant} has no such seed in the run {manifest.run}")
        return RunPaths(manifest.run).trial(spec.folder, seed)


def _of(variant: str, seed: int, rows: pd.DataFrame) -> pd.DataFrame:
    return pd.concat([pd.DataFrame({"variant": variant, "seed": seed}, index=rows.index), rows], axis=1)


def _images(split: str, predictions: SplitPredictions) -> pd.DataFrame:
    classes = np.array(list(map(printable, predictions.classes)))  # pandas takes UTF-8 alone
    return pd.DataFrame(
        {
            "split": split,
            "image": list(map(printable, predictions.images_N.tolist())),
            "label": classes[predictions.labels_N],
            "predicted": classes[predictions.predicted_N],
            "log_probability": predictions.log_probability_N,
        }
    )


def _joined(parts: list[pd.DataFrame]) -> pd.DataFrame:
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
