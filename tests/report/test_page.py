"""The page of a run: its contents, for ordinary and odd runs."""

import base64
import csv
import dataclasses
import hashlib
import html
import io
import json
import re
import subprocess
import sys
import xml.dom.minidom
import zlib
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from rich.console import Console

from catdog.analysis.class_differences import class_differences
from catdog.analysis.intervals import Interval
from catdog.analysis.run_data import ReportContent, read_content
from catdog.analysis.verdicts import LogLoss
from catdog.config.recipe import Recipe
from catdog.data.datasets import drawn, oxford_pets
from catdog.formatting import colour_map, readable
from catdog.report.build import table_markdown
from catdog.report.class_tables import by_class
from catdog.report.csv_text import cells_csv
from catdog.report.mask_gallery import build_gallery, quantise, small_sheet
from catdog.report.origin import CREDITS
from catdog.report.page import build_page
from catdog.report.tables import attention, health, health_warnings, seed_list
from catdog.report.terminal import print_outcome
from catdog.runs.manifest import DataDescription
from catdog.runs.places import HEAD
from catdog.runs.tuning import Point, Tuning
from catdog.storage import MemoryStore
from catdog.trial.contact_sheet import colour_scale, paint_mask
from tests.helpers.made_runs import favoured_on_images, make_run, put_trimaps
from tests.helpers.pages import EIGHT, content_of, text_of, varied_run
from tests.helpers.project import ROOT


@pytest.fixture(scope="module")
def content() -> ReportContent:
    return varied_run()


@pytest.fixture(scope="module")
def small() -> ReportContent:
    return content_of(["baseline", "multi-attention"], range(3), classes=4, test_images=40)


@pytest.fixture(scope="module")
def page(content: ReportContent) -> bytes:
    return build_page(content)


def test_the_verdict_comes_first_then_the_other_contrasts(content: ReportContent, page: bytes) -> None:
    text = text_of(page)
    primary, *others = sorted(content.contrasts, key=lambda contrast: not contrast.is_primary)
    positions = [text.index(one.words) for one in (primary, *others)]
    assert positions == sorted(positions)
    assert "better than baseline on this test set" in primary.verdict
    assert positions[-1] < text.index("Accuracy in percent, mean ±")


def test_all_tables_and_figures_are_there(content: ReportContent, page: bytes) -> None:
    text = text_of(page)
    for heading in (
        "Comparison", "Contrasts", "Learning curves", "Masks, epoch by epoch", "Mask health", "Breeds",
        "Not in the averages", "How it was made", "How to cite it", "Glossary",
    ):  # fmt: skip
        assert heading in text
    assert "Confusion between breeds: best run of" in text
    assert "python jobs/sweep.py pets-frozen" in text
    assert "core-hours in 1 launch" in text
    shown = re.sub("<noscript>.*?</noscript>", "", page.decode(), flags=re.DOTALL)
    figures = re.findall(r'<img src="data:image/svg\+xml;base64,([^"]+)" alt="([^"]+)"', shown)
    assert len(figures) == len(re.findall("<figure>", shown)) == 6 + 4
    assert all(base64.b64decode(data).startswith(b"<svg") for data, _ in figures)


def test_the_contents_lead_to_every_heading_and_every_heading_to_itself(page: bytes) -> None:
    headings = re.findall(r'<h2 id="([a-z-]+)"><a href="#\1">([^<]+)</a></h2>', page.decode())
    assert len(headings) == page.decode().count("<h2")
    (contents,) = re.findall("<nav.*?</nav>", page.decode(), flags=re.DOTALL)
    assert re.findall('<a href="#([a-z-]+)">([^<]+)</a>', contents) == headings[1:], "the first is above"


def test_every_table_is_there_as_csv_with_plain_numbers(content: ReportContent, page: bytes) -> None:
    found = re.findall(r'download="([a-z0-9-]+\.csv)" href="data:text/csv;charset=utf-8;base64,([^"]+)"', page.decode())
    assert len(found) == page.decode().count("<table")
    tables = {name: base64.b64decode(data).decode() for name, data in found}
    rows = list(csv.reader(io.StringIO(tables["accuracy-in-percent-mean-sample.csv"])))
    assert rows[0][:5] == ["Variant", "n", "Validation", "Test", "Difference"]
    assert [row[0] for row in rows[1:]] == list(content.run_status.manifest.variants)
    assert [row[4] for row in rows[1:]] == [
        "reference", *(f"{one.mean:+.2f}" for one in content.contrasts if one.mean is not None)
    ]  # fmt: skip
    assert not any(re.search(r"−\d", text) for text in tables.values())
    assert cells_csv([("=1+1", "−0.10 to +0.20", "–", "92.16 ± 0.33", "-x", "a;=1")]) == (
        "'=1+1,-0.10 to +0.20,,92.16 ± 0.33,'-x,a;'=1\n"
    )


def test_all_classes_have_their_difference_and_the_sentence_names_those_that_differ() -> None:
    effect = {"multi-attention": 30.0}
    content = content_of(["baseline", "multi-attention"], range(8), epochs=1, classes=5, test_images=400, effect=effect)
    assert content.predictions is not None
    ((contrast, sentence, table),) = by_class(content)
    assert sorted(row[0] for row in table.rows) == sorted(readable(name) for name in content.predictions.classes)
    assert [row[0] for row in table.rows] == [
        readable(content.predictions.classes[one.label]) for one in class_differences(content.predictions, contrast)
    ]
    assert re.match(r"\d of the 5 breeds differs? by more than the seeds’ chance explains: ", sentence)
    assert "With 95 % all 5 intervals hold together" in table.caption
    assert text_of(build_page(content)).count(sentence) == 1
    few = content_of(["baseline", "se"], range(2), epochs=1, classes=5, test_images=40)
    assert [said for _, said, _ in by_class(few)] == ["Too few seeds to tell which of the 5 breeds differ."]


def test_classes_whose_difference_is_the_same_in_all_seeds_are_named_as_such() -> None:
    content = content_of(["baseline", "se"], range(3), epochs=1, test_images=40, classes=2)
    predictions = favoured_on_images(["baseline", "se"], 3, {"se": (5, 0)}, images=40)
    ((_, sentence, _),) = by_class(dataclasses.replace(content, predictions=predictions))
    assert sentence.endswith("is told from zero. 1 without an interval, the same in all 3 seeds: right +12.50.")


def test_of_hundreds_of_classes_the_plot_has_those_that_differ_most_and_says_so() -> None:
    content = content_of(["baseline", "se"], range(3), epochs=1, classes=130, test_images=260)
    ((_, _, table),) = by_class(content)
    assert len(table.rows) == 100
    assert "the 100 that differ most of 130. With 95 % all 130 intervals hold together" in table.caption


def test_how_to_cite_names_the_code_the_device_and_whose_pictures_these_are(page: bytes) -> None:
    text = text_of(page)
    assert "code 0123456789abcdef0123456789abcdef01234567" in text
    assert "cpu (25 trials), precision float32" in text or "cpu (26 trials), precision float32" in text
    assert "Parkhi" in text
    assert "CC BY-SA 4.0" in text
    assert {oxford_pets.DATASET, drawn.DATASET} == CREDITS.keys()
    own = content_of(["baseline"], [0], epochs=1, recipe=Recipe(dataset="images", precision="float32"))
    assert "images: see the dataset’s own licence" in text_of(build_page(own))


def test_the_secondary_endpoint_stands_below_the_contrasts_and_what_it_adds_is_said(small: ReportContent) -> None:
    (contrast,) = small.contrasts
    found = LogLoss(3, 0.4707, 0.493, 0.031, Interval(-0.04, -0.00001), "lower")
    content = dataclasses.replace(small, contrasts=[dataclasses.replace(contrast, log_loss=found)])
    figures = "−0.0223 nats, n = 3 pairs; 95 % interval −0.0400 to −0.00001, unadjusted p = 0.031"
    line = (
        "multi-attention against baseline: undecided by accuracy, but Test log-loss, a secondary endpoint, is lower "
        f"({figures})."
    )
    text, markdown, console = text_of(build_page(content)), table_markdown(content), Console(file=io.StringIO())
    table = "n multi-attention − baseline −0.0223 −0.0400 to −0.00001 0.031 0.4707 0.4930 3"
    assert (
        text.index("Secondary endpoint: Test log-loss in nats, paired by seed") < text.index(table) < text.index(line)
    )
    assert f"\n- {line}\n" in markdown
    print_outcome(console, "results", content)
    assert f"\n  {line}\n" in console.file.getvalue()  # type: ignore[attr-defined]
    silent = dataclasses.replace(contrast, log_loss=dataclasses.replace(found, says=None))
    content = dataclasses.replace(small, contrasts=[silent])
    assert line not in text_of(build_page(content))
    assert f"\n- multi-attention − baseline: {figures}.\n" in table_markdown(content)
    nothing = dataclasses.replace(small, contrasts=[dataclasses.replace(contrast, log_loss=None)])
    assert "Secondary endpoint" not in text_of(build_page(nothing)) + table_markdown(nothing)


def test_trials_left_out_of_the_averages_are_listed_and_announced(page: bytes) -> None:
    text = text_of(page)
    assert "3 are not in the averages : 1 failed, 1 diverged, 1 missing" in text
    assert "failed: attention seed 2: RuntimeError: shapes do not match" in text
    assert f"diverged: {EIGHT} seed 1" in text
    assert "missing: attention seed 6" in text


def test_the_same_run_gives_the_same_bytes(content: ReportContent, page: bytes) -> None:
    assert build_page(content) == page


def test_a_page_of_a_sweep_that_waits_for_its_next_look_says_so() -> None:
    waits = content_of(
        ["baseline", "se"], range(6), classes=4, test_images=40, looks=(6, 12), most_seeds=12, smallest_effect=1.0
    )
    told = "The sweep is not finished: 0 of 2 looks taken; the next is after 6 seeds"
    assert told in text_of(build_page(waits))
    assert told not in text_of(build_page(waits, running=True))


def test_a_page_of_a_running_sweep_says_so(
    content: ReportContent, page: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("catdog.report.page.now", lambda: "2026-01-02T06:00:00+00:00")
    text = text_of(build_page(content, running=True))
    assert "The sweep is still running. Results of 25 of 28 planned trials so far; refreshed 2026-01-02 06:00" in text
    assert "still running" not in text_of(page)


def test_the_page_loads_nothing_from_outside(page: bytes) -> None:
    addresses = re.findall(r'(?:src|href)="([^"]*)"', page.decode())
    assert {address.partition(":")[0] for address in addresses if not address.startswith("#")} == {"data"}
    assert not re.search(r"\son\w+=|javascript:|@import|url\(", page.decode())
    figures = [base64.b64decode(data).decode() for data in re.findall(r"svg\+xml;base64,([^\"]+)", page.decode())]
    outside = [address for svg in figures for address in re.findall(r'href="(?!#|data:)([^"]*)', svg)]
    assert outside == []


def test_the_policy_allows_only_this_script_and_this_style(page: bytes) -> None:
    policy = html.unescape(re.findall(r'Content-Security-Policy" content="([^"]+)"', page.decode())[0])
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "unsafe" not in policy
    for pattern in (r"<script>(.*?)</script>", r"<style>(.*?)</style>"):
        (inline,) = re.findall(pattern, page.decode(), flags=re.DOTALL)
        assert base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode() in policy


def test_names_and_messages_are_escaped() -> None:
    nasty = "</script><script>alert(1)</script><b>$x_1$ &amp; \"'"
    content = content_of(
        ["baseline", "attention"],
        range(3),
        classes=[nasty, "B<i>", "C"],
        error_message=nasty,
        failed=[("attention", 2)],
    )
    page = build_page(content).decode()
    assert page.count("<script") == 2
    assert "<b>" not in page
    assert nasty in text_of(page.encode())
    data = re.findall(r'id="gallery-data">(.*?)</script>', page, flags=re.DOTALL)[0]
    assert json.loads(data)["classes"][0] == nasty.replace("_", " ")


def test_class_names_that_utf_8_cannot_hold_are_spelled_out() -> None:
    content = content_of(["baseline", "attention"], range(2), epochs=1, test_images=40, classes=["cat\ud800", "dog"])
    assert "cat\\ud800" in html.unescape(build_page(content).decode())


def test_numbers_stay_with_their_units_and_options_and_dates_are_not_torn_but_commands_are_as_they_were() -> None:
    content = content_of(["baseline", "se"], range(2), epochs=1, classes=["p = 3 %", "B", "C"], test_images=40)
    page = build_page(content).decode()
    for whole in ("95 %", "n = 2", "2026-01-01 22:01 UTC", "p = 3"):
        assert f'<span class="whole">{whole}</span>' in page
    assert re.search(r'<span class="whole">[0-9.]+ ± [0-9.]+</span>', page)
    told = build_page(content_of(["baseline"], [0], epochs=1, test_images=40, classes=4)).decode()
    assert 'Add a variant to compare with (<span class="whole">--variants</span>)' in told
    commands = re.findall(
        "<pre.*?</pre>|<title>.*?</title>|<script.*?</script>|<style.*?</style>", page, flags=re.DOTALL
    )
    assert len(commands) >= 4
    assert not any("whole" in one.replace(".whole", "") or "<wbr>" in one for one in commands)


def test_no_control_character_reaches_the_page() -> None:
    hostile = "\x1b]0;title\x07\u202e\ud800 <b>&"
    content = content_of(
        ["baseline", "attention"], range(2), error_message=hostile, failed=[("attention", 1)], classes=["one", hostile]
    )
    manifest = dataclasses.replace(
        content.run_status.manifest,
        commands=((hostile,),),
        versions={hostile: hostile},
        data=DataDescription(hostile, hostile, None),
        tuning=Tuning(hostile, 1, (9,), (hostile,), {hostile: (Point(hostile, {hostile: hostile}, 90.0),)}),
    )
    status = dataclasses.replace(content.run_status, manifest=manifest)
    page = build_page(dataclasses.replace(content, run_status=status)).decode()
    figures = [base64.b64decode(data).decode() for data in re.findall(r"svg\+xml;base64,([^\"]+)", page)]
    for text in (page, *figures):
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", text)
    for svg in figures:
        xml.dom.minidom.parseString(svg)
    assert r"\u001b]0;title" in html.unescape(page)


def test_the_localization_table_is_shown_if_there_is_one(small: ReportContent) -> None:
    measures = {
        "pointing": 81.5,
        "pointing_std": np.nan,
        "pointing_lift_uniform": 40.25,
        "pointing_lift_gaussian": -6.5,
    }
    measures |= {name.replace("pointing", "energy"): value for name, value in measures.items()}
    cells = {"variant": "attention", "part": "test", "trials": 1, "images": 12, "breeds": 3}
    text = text_of(build_page(dataclasses.replace(small, attention=pd.DataFrame([cells | measures]))))
    assert "trimaps of 12 images of 3 breeds (test)" in text
    assert "attention Test 1 81.50 +40.25, −6.50 81.50 +40.25, −6.50" in text
    without = build_page(small)
    assert "Where the masks look" not in text_of(without)


ODD_RUNS: dict[str, Callable[[], ReportContent]] = {
    "one seed": lambda: content_of(["baseline", "attention", "multi-attention"], range(1)),
    "two seeds": lambda: content_of(["baseline", "multi-attention"], range(2)),
    "only a baseline": lambda: content_of(["baseline"], range(3)),
    "no baseline": lambda: content_of(["attention", "se"], range(3)),
    "heads without masks": lambda: content_of(["baseline", "se"], range(3)),
    "one epoch": lambda: content_of(["baseline", "attention"], range(3), epochs=1),
    "nothing complete": lambda: content_of(
        ["baseline", "attention"],
        range(2),
        diverged=[("baseline", 0), ("attention", 0)],
        failed=[("attention", 1)],
        missing=[("baseline", 1)],
    ),
    "nothing at all": lambda: content_of(["baseline"], [0], missing=[("baseline", 0)]),
    "one variant diverged": lambda: content_of(
        ["baseline", "multi-attention"], range(2), diverged=[("multi-attention", 0), ("multi-attention", 1)]
    ),
    "two classes, one seed complete": lambda: content_of(
        ["attention"], range(2), classes=2, test_images=40, missing=[("attention", 1)]
    ),
    "drawn pets without a price": lambda: content_of(
        ["baseline"], range(2), hourly_price=None, recipe=Recipe(dataset="drawn", precision="float32")
    ),
}


@pytest.mark.parametrize("odd", ODD_RUNS)
def test_an_odd_run_has_a_sensible_page(odd: str) -> None:
    text = text_of(build_page(ODD_RUNS[odd](), running=odd == "nothing at all"))
    assert not re.search(r"\bnan\b|\bNone\b|\binf\b|\bNaN\b", text)
    assert "Verdict" in text
    assert "How it was made" in text
    assert "Published figures" not in text, "they are about other images"


def test_of_many_classes_the_matrix_shows_those_confused_most_and_says_so(page: bytes) -> None:
    many = text_of(build_page(content_of(["baseline"], range(2), classes=60, test_images=240)))
    assert "on Test: the 40 of 60 breeds that it confused most; a row is a true breed" in many
    assert "on Test; a row is a true breed" in text_of(page)


def test_damaged_or_missing_files_leave_the_rest_of_the_page_intact(content: ReportContent) -> None:
    bare = dataclasses.replace(content, predictions=None, histories={}, probe_masks={}, contact_sheets={})
    text = text_of(build_page(bare))
    assert "Comparison" in text
    assert "Masks, epoch by epoch" not in text


def test_masks_with_nan_or_infinity_are_still_drawn(small: ReportContent) -> None:
    cell = ("multi-attention", 0)
    broken = small.probe_masks[cell].masks[HEAD].copy()
    broken[0, 0], broken[1, 0, 0, 0, 0] = np.nan, np.inf
    probe_masks = {**small.probe_masks, cell: dataclasses.replace(small.probe_masks[cell], masks={HEAD: broken})}
    page = build_page(dataclasses.replace(small, probe_masks=probe_masks)).decode()
    assert not re.search(r"\bNaN\b|\bInfinity\b", re.findall(r'id="gallery-data">(.*?)</script>', page)[0])


def test_the_gallery_uses_the_colours_of_the_contact_sheets(content: ReportContent) -> None:
    gallery = build_gallery(content)
    assert gallery is not None
    colours = np.frombuffer(bytes.fromhex(gallery.data["colours"]), dtype=np.uint8).reshape(256, 3)
    for trial in gallery.data["trials"]:
        masks_EPMHW = content.probe_masks[trial["variant"], trial["seed"]].masks[HEAD].astype(np.float32)
        (place,) = trial["places"]
        values = np.frombuffer(zlib.decompress(base64.b64decode(place["masks"])), np.uint8).reshape(place["shape"])
        bottom, top = colour_scale(masks_EPMHW)
        assert place["top"] == pytest.approx(top, rel=0.001)
        low, high = place["ranges"][2][1]
        assert [low, high] == pytest.approx([masks_EPMHW[2, 1].min(), masks_EPMHW[2, 1].max()], rel=0.001)
        drawn = paint_mask(low + (high - low) * values[2, 1, 0] / 255, bottom, top)
        sheet = paint_mask(masks_EPMHW[2, 1, 0], bottom, top)
        assert np.abs(drawn.astype(int) - sheet).max() <= 4, "two steps of the scale"
    assert np.array_equal(colours, colour_map())


def test_the_tables_have_a_row_for_every_place_and_warnings_name_it() -> None:
    store = MemoryStore()
    run_status = make_run(store, ["baseline", "attention"], range(2), classes=4, test_images=40, stages={"layer3": 9})
    put_trimaps(store, run_status, np.eye(64, dtype=bool))
    content = read_content(store, run_status)
    histories = {cell: history.assign(**{"mask_dead@layer3": 0.5}) if "mask_dead@layer3" in history else history
                 for cell, history in content.histories.items()}  # fmt: skip
    content = dataclasses.replace(content, histories=histories)
    for table in (health(content), attention(content.attention, "breeds")):
        assert table is not None
        assert table.columns[:2] == ("Variant", "Place")
        assert [row[:2] for row in table.rows] == [("attention", place) for place in ("head", "layer3")] * (
            len(table.rows) // 2
        )
    assert health_warnings(content) == ["attention: dead masks at layer3 in the chosen epoch of seeds 0–1"]
    histories["attention", 1] = histories["attention", 1].assign(mask_dead=0.5, mask_corner_mass=9.0)
    histories["attention", 1].loc[0, ["mask_dead", "mask_dead@layer3"]] = 0.0
    assert health_warnings(dataclasses.replace(content, histories=histories)) == [
        "attention: dead masks at head, layer3 in the chosen epoch of seeds 0–1; "
        "masks in the corners in other epochs of seed 1"
    ]
    assert "| variant | place | pointing game |" in table_markdown(content)
    assert "| attention | layer3 | " in table_markdown(content)
    gallery = build_gallery(content)
    assert gallery is not None
    shapes = [(one["place"], one["shape"][3:]) for one in gallery.data["trials"][0]["places"]]
    assert shapes == [("head", [7, 7]), ("layer3", [9, 9])]
    assert "A place is the network’s head or a stage" in " ".join(gallery.notes)


def test_a_constant_mask_has_a_range_of_zero_width() -> None:
    values, ranges = quantise(np.full((1, 1, 1, 2, 2), 0.93, dtype=np.float32))
    assert ranges.tolist() == [[[pytest.approx(0.93), pytest.approx(0.93)]]]
    assert not values.any()


def test_a_gallery_that_is_too_big_keeps_the_best_runs_and_the_same_seeds_for_all_variants(
    content: ReportContent,
) -> None:
    whole = build_gallery(content)
    assert whole is not None
    assert not any("holds" in note for note in whole.notes)
    size = len(json.dumps(whole.data))
    small = build_gallery(content, budget=2 * size // 3)
    assert small is not None
    kept = {(trial["variant"], trial["seed"]) for trial in small.data["trials"]}
    bests = {trial["variant"] for trial in small.data["trials"] if trial["best"]}
    assert bests == {trial["variant"] for trial in whole.data["trials"]}
    assert len(json.dumps(small.data)) < 2 * size // 3 + 1000
    assert any(f"holds {len(kept)} of {len(whole.data['trials'])} trials" in note for note in small.notes)
    others = {seed for _, seed in kept} - {trial["seed"] for trial in small.data["trials"] if trial["best"]}
    assert all((label, max(others)) in kept for label in ("multi-attention", EIGHT))
    assert build_gallery(content, budget=1000) is None


def test_a_page_of_many_trials_says_what_it_leaves_out(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, most in {
        "report.page.MOST_VARIANTS": 2, "report.page.MOST_MISSING": 1, "report.figures.MOST_ROWS": 3,
        "report.figures.MOST_LINES": 2, "report.figures.MOST_POINTS": 4, "analysis.run_data.MOST_MASKED": 5,
    }.items():  # fmt: skip
        monkeypatch.setattr(f"catdog.{name}", most)
    page = build_page(varied_run())
    text = text_of(page)
    assert "a point for each seed, of more than 4 those of evenly spaced ranks" in text
    assert "over seeds (the first 3 of 4 variants)" in text
    assert "quantile (the first 2 of 4 variants)" in text
    assert "seed by seed (the first 4 of 7 pairs)" in text
    assert "The page holds 5 of 18 trials with masks" in text
    assert "The confusions of the 2 variants with the best runs" in text
    assert text.count("Confusion between") == 2
    assert "… and 2 more, all in table.md" in text


def test_a_sheet_that_is_no_png_of_its_size_is_left_out_and_one_that_is_gets_smaller() -> None:
    buffer, rng = io.BytesIO(), np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(buffer, format="PNG")
    whole = buffer.getvalue()
    small = small_sheet(whole)
    assert small is not None
    assert len(small) < len(whole)
    assert Image.open(io.BytesIO(small)).size == (64, 64)
    wide = io.BytesIO()
    Image.new("L", (10_001, 1)).save(wide, format="PNG")
    for sheet in (b"", whole[:60], whole[: len(whole) // 2], wide.getvalue(), small):
        assert small_sheet(sheet) is None


def test_a_gallery_with_many_probe_images_and_masks_shows_some_and_says_so() -> None:
    content = content_of(["multi-attention:num_masks=20"], range(1), probes=15)
    gallery = build_gallery(content)
    assert gallery is not None
    assert gallery.data["trials"][0]["places"][0]["shape"][1:3] == [12, 16]
    assert "first 12 of 15 probe images" in " ".join(gallery.notes)
    assert "more than 16 masks" in " ".join(gallery.notes)


def test_warnings_of_collapsed_masks_name_their_seeds(small: ReportContent) -> None:
    histories = dict(small.histories)
    for seed, epochs in ((0, range(6)), (2, range(1))):
        history = histories["multi-attention", seed].copy()
        history.loc[history["epoch"].isin(epochs), "mask_overlap"] = 0.999
        histories["multi-attention", seed] = history
    changed = dataclasses.replace(small, histories=histories)
    expected = "multi-attention: masks alike in the chosen epoch of seed 0 and in other epochs of seed 2"
    assert health_warnings(changed) == [expected]
    assert expected in text_of(build_page(changed))


def test_masks_with_no_preference_are_warned_about_in_the_chosen_epoch_as_all_masks_begin_so(
    small: ReportContent,
) -> None:
    best = small.run_status.results("multi-attention")[1].best_epoch
    histories = dict(small.histories)
    history = histories["multi-attention", 1].copy()
    history.loc[history["epoch"] == best, "mask_entropy"] = 0.998
    histories["multi-attention", 1] = history
    assert histories["multi-attention", 0]["mask_entropy"][0] > 0.99
    assert health_warnings(small) == []
    warnings = health_warnings(dataclasses.replace(small, histories=histories))
    assert warnings == ["multi-attention: masks with no preference in the chosen epoch of seed 1"]


def test_seeds_are_shown_as_ranges() -> None:
    assert seed_list({3}) == "seed 3"
    assert seed_list({7, 0, 1, 2}) == "seeds 0–2, 7"


def test_building_a_page_loads_neither_torch_nor_ray() -> None:
    script = (
        "import sys\nfrom catdog.analysis.run_data import read_content\nfrom catdog.report.page import build_page\n"
        "from catdog.storage import MemoryStore\nfrom tests.helpers.made_runs import make_run\nstore = MemoryStore()\n"
        "build_page(read_content(store, make_run(store, ['baseline', 'attention'], range(2))))\n"
        "print(sorted({'torch', 'ray'} & set(sys.modules)))\n"
    )
    root = ROOT
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=root)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")
