"""Runs to build pages from, and the text of a page."""

import html
import re
from typing import Any

from catdog.analysis.run_data import ReportContent, read_content
from catdog.storage import MemoryStore
from tests.helpers.made_runs import make_run

EIGHT = "multi-attention:num_masks=8,lambda_divergence=0.01"


def content_of(labels: list[str], seeds: range | list[int], **options: Any) -> ReportContent:
    store = MemoryStore()
    return read_content(store, make_run(store, labels, seeds, **options))


def text_of(page: bytes) -> str:
    """Return the visible text: no scripts or styles, tags replaced by spaces."""
    body = re.sub(r"<(script|style)\b.*?</\1>", " ", page.decode(), flags=re.DOTALL)
    body = re.sub(r'<span class="whole">(.*?)</span>', r"\1", body.replace("<wbr>", ""))
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", body)).split())


def varied_run() -> ReportContent:
    """Four variants × seven seeds; one trial failed, one diverged in its first epoch, one is missing."""
    return content_of(
        ["baseline", "attention", "multi-attention", EIGHT],
        range(7),
        test_images=740,
        effect={"multi-attention": 4.0},
        failed=[("attention", 2)],
        diverged=[(EIGHT, 1)],
        missing=[("attention", 6)],
    )
