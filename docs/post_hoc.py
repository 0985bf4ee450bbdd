"""The post hoc contrasts of docs/experiments.md, from the published trials: `python docs/post_hoc.py`.

Prints the rows of its table: mean differences in points, paired by seed, with the 95 % interval of Student's t, none
adjusted for the others. The table's introduction says which were declared on Test.
"""

from pathlib import Path

import pandas as pd

from catdog.analysis.intervals import t_interval
from catdog.formatting import format_points, format_range

PUBLISHED = Path(__file__).parent.parent / "results" / "published"
CONTROLS, FREE, LAMBDA, FEW = "lite0-controls", "lite0-controls-free", "lite0-lambda", "lite0-5-images-controls"
TUNED, RETUNED, FINETUNED = "lite0", "lite0-retuned", "lite0-finetuned"
LARGE, CHECKS, RATES, FEW_RATES = "lite0-14", "lite0-14-checks", "lite0-14-rates", "lite0-5-images-rates"
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
        f"five a breed: `{ours}` − `{theirs}`": ((FEW_RATES, ours, FEW_RATES, theirs),)
        for ours, theirs in (
            ("flat 0.00443", "mean 0.00443"),
            ("masks 0.000264", "flat 0.000264"),
            ("masks 0.00443", "flat 0.00443"),
            ("flat 0.000264", "mean 0.00443"),
            ("masks 0.000264", "mean 0.00443"),
        )
    },
    **{
        f"{name}: `multi-attention` − `multi-attention-free`": ((run, "multi-attention", run, "multi-attention-free"),)
        for name, run in BACKBONES.items()
    },
    **{
        f"{name}: `{head}` − `baseline`": ((run, head, run, "baseline"),)
        for name, run in BACKBONES.items()
        for head in ("multi-attention", "query", "ep")
    },
    "448 px: `multi-attention` − `baseline`": ((LARGE, "multi-attention", LARGE, "baseline"),),
    "448 px: `free` − `baseline`": ((LARGE, "free", LARGE, "baseline"),),
    "448 px: `flat` − `baseline`": ((LARGE, "flat", LARGE, "baseline"),),
    "448 px: `free` − `flat`": ((LARGE, "free", LARGE, "flat"),),
    "448 px: `multi-attention` − `free`": ((LARGE, "multi-attention", LARGE, "free"),),
    "448 px: `multi-attention` − `flat`": ((LARGE, "multi-attention", LARGE, "flat"),),
    **{
        f"448 px: `multi-attention` − `{other}`": ((LARGE, "multi-attention", CHECKS, other),)
        for other in ("rate 0.00211", "rate 0.00259", "rate 0.00525", "untrained", "coarse", "coarse 0.00111")
    },
    "448 px: `flat` − `rate 0.00525`": ((LARGE, "flat", CHECKS, "rate 0.00525"),),
    "448 px: `coarse 0.00111` − `rate 0.00525`": ((CHECKS, "coarse 0.00111", CHECKS, "rate 0.00525"),),
    "448 px: `untrained` − `flat`": ((CHECKS, "untrained", LARGE, "flat"),),
    **{
        f"448 px, {rate}: `{ours}` − `{theirs}`": ((RATES, f"{ours} {rate}", RATES, f"{theirs} {rate}"),)
        for ours, theirs in (("14x14", "mean"), ("7x7", "mean"), ("14x14", "7x7"))
        for rate in ("0.00111", "0.00259", "0.00525")
    },
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
