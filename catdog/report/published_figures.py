"""Figures that others published for the same Test images, beside those of a run."""

import hashlib

from catdog.analysis.predictions import Predictions
from catdog.analysis.run_data import ReportContent
from catdog.formatting import format_accuracy
from catdog.report.tables import Table

PUBLISHED = {
    "368dd1b4d4a8422476c61b3df56796d8ec1c64fbc62403f1157ce554e506491c": {
        "baseline": ("91.6", "92.1"),
        "attention": ("91.57 ± 0.31", "92.29 ± 0.25"),
        "multi-attention": ("91.96 ± 0.44 (best run 92.47)", "92.45 ± 0.30 (best run 92.79)"),
    }
}
"""By the digest of a Test split, here Oxford-IIIT Pet's official one, and variant: Validation and Test accuracy.

Source: the article whose method catdog reproduces; ResNet-34, about 30 runs of each attention model.
"""


def published(content: ReportContent) -> Table | None:
    """Return published figures beside this run's; None unless its Test images and their classes are the same."""
    found = None if content.predictions is None else PUBLISHED.get(_test_digest(content.predictions))
    if found is None:
        return None
    spec = content.run_status.manifest.spec
    ours = {spec(row["variant"]).label: row for row in content.table.to_dict("records")}
    rows = []
    for label, (validation, test) in found.items():
        row = ours.get(label, {})
        mine = (format_accuracy(row.get(f"{split}_mean"), row.get(f"{split}_std")) for split in ("val", "test"))
        name = "multi-attention (4 masks)" if label == "multi-attention" else label
        rows.append((name, validation, test, *mine))
    columns = ("Model", "Published: Validation", "Published: Test", "This run: Validation", "This run: Test")
    return Table("Published figures, accuracy in percent", columns, tuple(rows))


def _test_digest(predictions: Predictions) -> str:
    """Return the sha256 of the Test images' names and classes, in any order of images and labels."""
    classes = (predictions.classes[label] for label in predictions.labels_N)
    lines = sorted(f"{name} {kind}\n" for name, kind in zip(predictions.images_N, classes, strict=True))
    return hashlib.sha256("".join(lines).encode(errors="backslashreplace")).hexdigest()
