"""The post hoc contrasts of docs/experiments.md, from the published trials: `python docs/post_hoc.py`.

Prints the rows of its table: mean differences in points, paired by seed, with the 95 % interval of Student's t. None
was declared, and none is adjusted for the others.
"""

from pathlib import Path

import pandas as pd

from catdog.analysis.intervals import t_interval
from catdog.formatting import format_points, format_range

PUBLISHED = Path(__file__).parent.parent / "results" / "published"
CONTROLS, FREE, LAMBDA, FEW = "lite0-controls", "lite0-controls-free", "lite0-lambda", "lite0-5-images-controls"
TUNED, RETUNED, FINETUNED, FINER = "lite0", "lite0-retuned", "lite0-finetuned", "lite0-14"
BACKBONES = {"Lite0": RETUNED, "Lite1": "lite1", "Lite2": "lite2"}
"""By name: the run of all heads, on seeds 90–119."""
Pair = tuple[str, str, str, str]
"""A run and its variant, minus another run and its variant."""

FLAT_MINUS_FREE = (CONTROLS, "flat", LAMBDA, "lambda 0"), (FREE, "flat", FREE, "free")
LOSS = (LAMBDA, "lambda 1e-4", LAMBDA, "lambda 0"), (FREE, "multi-attention", FREE, "free")
AGAINST_BASELINE = tuple((run, "multi-attention", run, "baseline") for run in (TUNED, CONTROLS, FREE, RETUNED))
CONTRASTS: dict[str, tuple[Pair, ...]] = {
    "`flat` − λ = 0, seeds 30–59": FLAT_MINUS_FREE[:1],
    "`flat` − λ = 0, seeds 30–89": FLAT_MINUS_FREE,
    "λ = 1e-4 − λ = 0, seeds 30–89": LOSS,
    "`multi-attention` − `flat`, seeds 60–89": ((FREE, "multi-attention", FREE, "flat"),),
    "`multi-attention` − `baseline`, seeds 60–89": AGAINST_BASELINE[2:3],
    "`multi-attention` − `baseline`, seeds 0–119": AGAINST_BASELINE,
    "`flat` − `baseline`, seeds 30–59": ((CONTROLS, "flat", CONTROLS, "baseline"),),
    "`flat` − `baseline`, seeds 60–89": ((FREE, "flat", FREE, "baseline"),),
    "five a breed: `flat` − `baseline`": ((FEW, "flat", FEW, "baseline"),),
    "five a breed: `free` − `flat`": ((FEW, "free", FEW, "flat"),),
    "five a breed: `multi-attention` − `free`": ((FEW, "multi-attention", FEW, "free"),),
    **{
        f"{name}: `multi-attention` − `multi-attention-free`": ((run, "multi-attention", run, "multi-attention-free"),)
        for name, run in BACKBONES.items()
    },
    **{
        f"{name}: `{head}` − `baseline`": ((run, head, run, "baseline"),)
        for name, run in BACKBONES.items()
        for head in ("multi-attention", "query", "ep")
    },
    "14 × 14: `multi-attention` − `baseline`": ((FINER, "multi-attention", FINER, "baseline"),),
    "14 × 14: `free` − `baseline`": ((FINER, "free", FINER, "baseline"),),
    "14 × 14: `flat` − `baseline`": ((FINER, "flat", FINER, "baseline"),),
    "14 × 14: `free` − `flat`": ((FINER, "free", FINER, "flat"),),
    "14 × 14: `multi-attention` − `free`": ((FINER, "multi-attention", FINER, "free"),),
    "14 × 14: `multi-attention` − `flat`": ((FINER, "multi-attention", FINER, "flat"),),
    "fine-tuned: `attention` − `baseline`": ((FINETUNED, "attention", FINETUNED, "baseline"),),
    "fine-tuned: `multi-attention` − `baseline`": ((FINETUNED, "multi-attention", FINETUNED, "baseline"),),
    "`baseline`: fine-tuned − frozen": ((FINETUNED, "baseline", TUNED, "baseline"),),
    "`attention`: fine-tuned − frozen": ((FINETUNED, "attention", TUNED, "attention"),),
    "`multi-attention`: fine-tuned − frozen": ((FINETUNED, "multi-attention", TUNED, "multi-attention"),),
}


def main() -> None:
    """Print the table's rows."""
    for name, pairs in CONTRASTS.items():
        print(row(name, pairs))


def row(name: str, pairs: tuple[Pair, ...]) -> str:
    """Return a contrast's row: Test, then Validation, over the pairs of seeds of all `pairs` of variants."""
    cells = []
    for column in ("test_accuracy", "val_accuracy"):
        both = [accuracies(*pair[:2], column) - accuracies(*pair[2:], column) for pair in pairs]
        differences = pd.concat(both).dropna().to_numpy()
        interval = t_interval(differences)
        assert interval is not None
        cells.append(f"{format_points(differences.mean())} ({format_range(interval.low, interval.high)})")
    return f"| {name} | {len(differences)} | {' | '.join(cells)} |"


def accuracies(run: str, variant: str, column: str) -> pd.Series:
    """Return a variant's accuracies in a published run, by seed; a variant with settings goes by its name alone."""
    trials = pd.read_csv(PUBLISHED / run / "report" / "trials.csv", index_col="seed")
    return trials.loc[trials["variant"].str.partition(":")[0] == variant, column]


if __name__ == "__main__":
    main()
