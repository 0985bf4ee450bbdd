"""Ask a run's trained networks about photos of one's own: the likeliest classes, and where the masks look. No Ray.

python jobs/predict.py --store URL --run NAME --variant V PHOTO [PHOTO ...] [--out DIR]
"""

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import tyro

from catdog.cli import ExitCode, NetworkOptions, output_console, parse, run_job
from catdog.config.recipe import require
from catdog.errors import UserError
from catdog.formatting import NumbersTable, counted, printable, readable

if TYPE_CHECKING:
    from catdog.inference.network import Prediction


@dataclass(frozen=True)
class Options(NetworkOptions):
    """The networks, the photos, and where the pictures go."""

    photos: tyro.conf.Positional[tuple[str, ...]] = ()
    """Image files."""
    all_seeds: bool = False
    """Average over all networks of the variant that were kept, and say how far they disagree."""
    top: int = 5
    """How many classes to show."""
    out: str = "predictions"
    """A folder, or s3://bucket/prefix: predictions.csv, and a picture of each photo beside its masks."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(bool(self.photos), "no photos: name at least one image file")
        require(self.seed is None or not self.all_seeds, "--seed: is one network; leave out --all-seeds")
        require(self.top >= 1, f"--top {self.top}: must be at least 1")
        require(self.out != "", "--out: empty; give the folder of the pictures, or leave the option out")


def main(arguments: Sequence[str]) -> int:
    """Print and store what the networks say of each photo; returns the exit code."""
    options = parse(Options, arguments, "Ask a run's trained networks about photos.", "predict.py PHOTO [PHOTO ...]")
    from catdog.api import load_run
    from catdog.inference.network import predict
    from catdog.inference.photo_sheet import photo_sheet
    from catdog.report.csv_text import csv_bytes
    from catdog.report.terminal import place_of
    from catdog.storage import open_target

    run, target = load_run(options.store, options.run), open_target("--out", options.out)
    networks = run.networks(options.variant) if options.all_seeds else [run.network(options.variant, options.seed)]
    console, first = output_console(), networks[0].card
    several = len(networks) > 1
    seeds = ", ".join(str(network.card.seed) for network in networks)
    console.print(f"{first.variant}: {counted(len(networks), 'network')}, of seed {seeds}")

    tables, unread = [], []
    for number, photo in enumerate(options.photos, start=1):
        try:
            prediction = predict(networks, photo)
        except UserError as error:
            unread.append(str(error))
            continue
        tables.append(_rows(prediction, options.top))
        name = (
            f"{number:0{len(str(len(options.photos)))}d}-{re.sub(r'[^A-Za-z0-9.-]+', '_', Path(photo).stem)[:80]}.jpg"
        )
        target.put(name, photo_sheet(prediction, first.resize))
        agree = f"; {prediction.agreeing} of {len(networks)} networks find the first one likeliest" * several
        console.print(f"{photo}{agree}", style="bold", soft_wrap=True)
        console.print(_shown(tables[-1], several))
        if prediction.second is not None:
            group, share = prediction.second.likeliest
            console.print(f"  {prediction.second.task}: {readable(group)}, {100 * share:.1f} %", soft_wrap=True)
        console.print(f"  {place_of(target.url, name)}", soft_wrap=True)
    if tables:
        target.put("predictions.csv", csv_bytes(pd.concat(tables)))
        console.print(f"all  {place_of(target.url, 'predictions.csv')}", soft_wrap=True)
    if unread:
        others = f"; {len(unread) - 1} more could not be read either" if len(unread) > 1 else ""
        raise UserError(unread[0] + others)
    return ExitCode.COMPLETE


def _rows(prediction: "Prediction", count: int) -> pd.DataFrame:
    """Return the likeliest classes of a photo, as many as wanted, with all networks' shares in percent."""
    top = prediction.top(count)
    shares = 100 * prediction.probabilities_NK[:, top]
    table = pd.DataFrame(
        {
            "photo": printable(prediction.photo),  # pandas takes UTF-8 alone
            "rank": range(1, len(top) + 1),
            "class": [printable(prediction.classes[label]) for label in top],
            "probability": shares.mean(axis=0),
            "lowest": shares.min(axis=0),
            "highest": shares.max(axis=0),
            "networks": len(shares),
            "agreeing": prediction.agreeing,
        }
    )
    if (second := prediction.second) is None:
        return table
    group, share = second.likeliest
    return table.assign(second_task=second.task, second_class=printable(group), second_probability=100 * share)


def _shown(table: pd.DataFrame, several: bool) -> NumbersTable:
    spread = [f"{low:.1f} to {high:.1f}" for low, high in zip(table["lowest"], table["highest"], strict=True)]
    columns = {
        "class": [readable(name) for name in table["class"]],
        "probability, %": [f"{share:.1f}" for share in table["probability"]],
    }
    return NumbersTable(columns | ({"networks' range": spread} if several else {}), optional=())


if __name__ == "__main__":
    sys.exit(run_job(main))
