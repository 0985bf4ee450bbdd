"""The page of a run in a real headless Chromium: mouse, keyboard, phone and print.

Skipped without Chromium (Debian: apt-get install chromium).
"""

import base64
import dataclasses
import importlib.util
import io
import itertools
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from catdog.config.head_registry import VARIANTS
from catdog.report.page import build_page
from tests.helpers.pages import EIGHT, content_of, varied_run

CHROMIUM = Path("/usr/bin/chromium")
TEXTS = "all => all.map(one => one.textContent)"


@pytest.fixture(scope="module")
def page() -> bytes:
    return build_page(varied_run())


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if not CHROMIUM.exists() or importlib.util.find_spec("playwright") is None:
        pytest.skip("no /usr/bin/chromium (apt-get install chromium) or no playwright")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def page_file(page: bytes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_bytes(page)
    return path


class Visit:
    """The page in a tab; errors and requests are recorded."""

    def __init__(self, browser: Any, path: Path, **context: Any) -> None:
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.loads = 0
        self.context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **context})
        self.tab = self.context.new_page()
        self.tab.on("console", lambda message: self.complaints.append(message.text))
        self.tab.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.tab.on("domcontentloaded", self._loaded)
        self.tab.on("request", lambda request: self.requests.append(request.url.partition(":")[0]))
        self.tab.goto(path.as_uri())
        self.until("document.documentElement.dataset.gallery === 'ready'")

    def _loaded(self, _: object) -> None:
        self.loads += 1

    def until(self, truth: str) -> None:
        """Wait until an expression is true; the page's policy forbids `eval`, which Playwright's own wait uses."""
        deadline = time.monotonic() + 10
        while not self.tab.evaluate(truth):
            assert time.monotonic() < deadline, f"{truth} did not come true"
            self.tab.wait_for_timeout(30)

    def pictures(self, side: str = "a") -> list[str]:
        return self.tab.eval_on_selector_all(f"#panel-{side} canvas", "all => all.map(one => one.toDataURL())")

    def overflow(self) -> int:
        return self.tab.evaluate("document.documentElement.scrollWidth - innerWidth")

    def epoch(self) -> str:
        return self.tab.input_value("#epoch")


def pages_of(tab: Any) -> int:
    """Return how many pages a print takes, on the paper that has room for less."""
    return max(len(re.findall(rb"/Type /Page\b", tab.pdf(format=paper))) for paper in ("A4", "Letter"))


@pytest.fixture
def visit(browser: Any, page_file: Path) -> Iterator[Callable[..., Visit]]:
    visits: list[Visit] = []

    def go(path: Path = page_file, **context: Any) -> Visit:
        visits.append(Visit(browser, path, **context))
        return visits[-1]

    yield go
    for one in visits:
        assert one.complaints == []
        assert set(one.requests) <= {"file", "data", "blob"}
        assert len(one.requests) - one.requests.count("data") - one.requests.count("blob") == one.loads
        one.context.close()


def test_the_epoch_slider_works_by_keyboard_and_by_mouse(visit: Callable[..., Visit]) -> None:
    one = visit()
    assert len(one.pictures()) == 4 * 5, "four probe images, each with four masks"
    assert len(set(one.pictures())) == 20
    one.tab.focus("#epoch")
    one.tab.keyboard.press("Home")
    first = one.pictures()
    assert one.epoch() == "0"
    assert one.tab.inner_text("#state").startswith("Epoch 0. multi-attention seed ")
    one.tab.keyboard.press("ArrowRight")
    second = one.pictures()
    assert one.epoch() == "1"
    box = one.tab.locator("#epoch").bounding_box()
    one.tab.mouse.click(box["x"] + box["width"] - 10, box["y"] + box["height"] / 2)
    assert one.epoch() == "5"
    last = one.pictures()
    unmasked = range(0, 20, 5)
    for before, after in ((first, second), (second, last)):
        changed = [position for position in range(20) if before[position] != after[position]]
        assert changed == [position for position in range(20) if position not in unmasked]
    one.tab.click("#chosen")
    assert "the chosen epoch" in one.tab.inner_text("#panel-a > p")
    assert re.search(r"Validation \d\d\.\d\d %, \d of 4 probe images right", one.tab.inner_text("#panel-a > p"))


def test_variants_and_seeds_can_be_chosen_and_compared_side_by_side(visit: Callable[..., Visit]) -> None:
    one = visit()
    options = one.tab.eval_on_selector_all("#variant-a option", "all => all.map(one => one.value)")
    assert options == ["attention", "multi-attention", EIGHT]
    before = one.pictures()
    seed = one.tab.input_value("#seed-a")
    one.tab.select_option("#seed-a", "4" if seed != "4" else "5")
    one.until(f"!document.querySelector('#panel-a h3').textContent.endsWith('seed {seed}')")
    assert one.pictures() != before
    assert one.tab.is_hidden("#panel-b")
    one.tab.focus("#compare")
    one.tab.keyboard.press("Space")
    one.tab.wait_for_selector("#panel-b canvas")
    assert len(one.pictures("b")) == 4 * 2
    assert re.search(r" · from 0\.\d+ to 0\.\d+", one.tab.inner_text("#panel-b figcaption >> nth=0"))
    one.tab.select_option("#variant-b", EIGHT)
    one.until("document.querySelectorAll('#panel-b canvas').length === 36")
    left, right = (one.tab.locator(f"#panel-{side}").bounding_box() for side in "ab")
    assert left["y"] == right["y"]
    assert left["x"] + left["width"] <= right["x"]


def test_a_seed_with_a_split_of_its_own_shows_its_own_probe_images(visit: Callable[..., Visit], tmp_path: Path) -> None:
    content = content_of(["attention", "attention-relu"], range(2))
    others = {
        trial_id: dataclasses.replace(
            masks,
            names=[f"other_{name}" for name in masks.names],
            labels_P=masks.labels_P[::-1].copy(),
            images_PSSC=masks.images_PSSC[::-1].copy(),
        )
        for trial_id, masks in content.probe_masks.items()
        if trial_id[1] == 1
    }
    path = tmp_path / "report.html"
    path.write_bytes(build_page(dataclasses.replace(content, probe_masks={**content.probe_masks, **others})))
    one, shown = visit(path), {}
    one.tab.select_option("#variant-a", "attention")
    for seed in ("0", "1"):
        one.tab.select_option("#seed-a", seed)
        one.until(f"document.querySelector('#panel-a h3').textContent.endsWith('attention, seed {seed}')")
        captions = one.tab.eval_on_selector_all("#panel-a figcaption", "all => all.map(one => one.textContent)")
        shown[seed] = one.pictures()[::2], [caption.partition(":")[0] for caption in captions]
    assert shown["0"] == (shown["1"][0][::-1], shown["1"][1][::-1])
    assert len(set(shown["0"][0])) == 4


def test_the_animation_plays_and_pauses(visit: Callable[..., Visit]) -> None:
    one = visit()
    one.tab.focus("#epoch")
    one.tab.keyboard.press("End")
    last = one.pictures()
    one.tab.focus("#play")
    one.tab.keyboard.press("Enter")
    assert one.tab.inner_text("#play") == "Pause"
    one.until("document.getElementById('epoch').value === '2'")
    assert one.pictures() != last
    one.tab.click("#play")
    stopped = one.epoch()
    one.tab.wait_for_timeout(600)
    assert (one.epoch(), one.tab.inner_text("#play")) == (stopped, "Play")
    one.tab.click("#play")
    one.until("document.getElementById('play').textContent === 'Play'")
    assert one.pictures() == last


def test_masks_are_shown_as_overlays_or_alone(visit: Callable[..., Visit]) -> None:
    one = visit()
    over = one.pictures()
    one.tab.focus("#opacity")
    one.tab.keyboard.press("Home")
    clear = one.pictures()
    assert len(set(clear)) == 4, "without opacity all tiles of a probe image show the image"
    one.tab.select_option("#view", "alone")
    alone = one.pictures()
    assert alone[0] == over[0]
    assert alone[1] not in (over[1], clear[1])


def test_colours_are_absolute_unless_each_images_own_range_is_chosen(visit: Callable[..., Visit]) -> None:
    one = visit()
    one.tab.select_option("#variant-a", "attention")
    one.until("document.querySelectorAll('#panel-a canvas').length === 8")
    one.tab.select_option("#view", "alone")
    for scale, told, has_both_ends in (("absolute", "0 to 1.", False), ("own", "each image’s own range.", True)):
        one.tab.select_option("#scale", scale)
        assert one.tab.inner_text("#panel-a > p").endswith(f"Colours: {told}")
        mask = Image.open(io.BytesIO(base64.b64decode(one.pictures()[1].partition(",")[2]))).convert("RGB")
        colours = {colour for _, colour in mask.getcolors(mask.width * mask.height)}
        assert ({(68, 1, 84), (253, 231, 37)} <= colours) == has_both_ends


def test_the_masks_of_every_place_can_be_chosen_and_compared(visit: Callable[..., Visit], tmp_path: Path) -> None:
    path = tmp_path / "places.html"
    path.write_bytes(build_page(content_of(["attention"], range(1), classes=4, test_images=40, stages={"layer3": 14})))
    one = visit(path, viewport={"width": 390, "height": 844})
    options = one.tab.eval_on_selector_all("#place-a option", "all => all.map(one => one.textContent)")
    assert options == ["head, 7 × 7", "layer3, 14 × 14"]
    one.tab.select_option("#view", "alone")

    def runs(side: str) -> int:
        """The number of cells in a row: how often its colour changes, and one."""
        mask = Image.open(io.BytesIO(base64.b64decode(one.pictures(side)[1].partition(",")[2]))).convert("RGB")
        return 1 + sum(mask.getpixel((x, 1)) != mask.getpixel((x + 1, 1)) for x in range(mask.width - 1))

    assert runs("a") <= 7
    one.tab.select_option("#place-a", "layer3")
    one.until("document.querySelector('#panel-a h3').textContent.endsWith('layer3')")
    assert 7 < runs("a") <= 14
    one.tab.check("#compare")
    one.tab.wait_for_selector("#panel-b canvas")
    assert runs("b") <= 7
    assert one.overflow() <= 0


def test_without_stages_there_is_no_place_to_choose(visit: Callable[..., Visit]) -> None:
    assert visit().tab.is_hidden("#place-a")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_never_scrolls_sideways(visit: Callable[..., Visit], scheme: str) -> None:
    one = visit(viewport={"width": 360, "height": 740}, color_scheme=scheme, is_mobile=True, has_touch=True)
    assert one.overflow() <= 0
    one.tab.check("#compare")
    one.tab.wait_for_selector("#panel-b canvas")
    one.tab.eval_on_selector_all("details", "all => all.forEach(one => { one.open = true; })")
    assert one.overflow() <= 0
    one.tab.locator("#panel-b canvas >> nth=-1").scroll_into_view_if_needed()
    assert one.tab.locator("#epoch").bounding_box()["y"] < 740, "the slider stays in sight beside the masks"
    background = one.tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(253, 253, 252)" if scheme == "light" else "rgb(23, 24, 26)")


def test_a_print_shows_the_gallery_without_its_controls_on_at_most_eight_pages(visit: Callable[..., Visit]) -> None:
    one = visit()
    one.tab.emulate_media(media="print")
    for hidden in (".controls", "#epoch", "nav", ".csv >> nth=0", "details:not([open]) >> nth=0"):
        assert one.tab.is_hidden(hidden)
    assert one.tab.is_visible("#panel-a canvas >> nth=0")
    assert pages_of(one.tab) <= 8


def test_a_phone_shows_variant_test_and_difference_and_all_columns_on_demand(visit: Callable[..., Visit]) -> None:
    one = visit(viewport={"width": 390, "height": 844})

    def shown() -> list[str]:
        seen = "all => all.filter(one => one.offsetWidth).map(one => one.textContent)"
        return one.tab.eval_on_selector_all("section[aria-labelledby=comparison] thead th", seen)

    assert shown() == ["Variant", "Test", "Difference"]
    assert one.tab.evaluate("(box => box.scrollWidth - box.clientWidth)(document.querySelectorAll('.scroll')[1])") <= 0
    one.tab.check("section[aria-labelledby=comparison] .all")
    assert len(shown()) == 11
    one.tab.set_viewport_size({"width": 1280, "height": 900})
    assert one.tab.is_hidden(".phone >> nth=0")


def test_without_javascript_the_contact_sheets_and_the_tables_as_csv_are_there(browser: Any, page_file: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    tab = context.new_page()
    tab.goto(page_file.as_uri())
    assert [tab.is_visible(f"noscript figure >> nth={number}") for number in range(3)] == [True] * 3
    assert tab.is_hidden(".controls")
    with tab.expect_download() as download:
        tab.click("section[aria-labelledby=comparison] .csv")
    assert download.value.suggested_filename == "accuracy-in-percent-mean-sample.csv"
    assert Path(download.value.path()).read_text().startswith("Variant,n,Validation,Test,Difference,")
    tab.emulate_media(media="print")
    assert tab.is_visible("noscript figure >> nth=0")
    assert pages_of(tab) <= 8
    context.close()


def test_images_that_most_trials_get_wrong_come_first_on_both_sides_and_wrong_answers_have_a_red_edge(
    visit: Callable[..., Visit],
) -> None:
    one = visit()
    one.tab.check("#compare")
    one.tab.wait_for_selector("#panel-b canvas")
    captions = [one.tab.eval_on_selector_all(f"#panel-{side} figcaption", TEXTS) for side in "ab"]
    names = [[caption.partition(":")[0] for caption in side] for side in captions]
    counts = [int(re.findall(r"wrong in (\d+) of 18 trials", caption)[0]) for caption in captions[0]]
    assert names[0] == names[1]
    assert counts == sorted(counts, reverse=True)
    one.tab.focus("#epoch")
    one.tab.keyboard.press("Home")
    missed = one.tab.eval_on_selector_all("#panel-a .missed figcaption", TEXTS)
    assert missed
    assert all("✗ predicted" in caption for caption in missed)
    assert one.tab.eval_on_selector_all("#panel-a .legend span", TEXTS) == ["0", "", "1"]


def test_axe_finds_nothing_at_any_width_in_any_scheme(visit: Callable[..., Visit], tmp_path: Path) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    labels, path = ["baseline", "attention", "multi-attention"], tmp_path / "report.html"
    torn = {"failed": [("attention", 2)], "effect": {"multi-attention": 9.0}, "smallest_effect": 0.5}
    path.write_bytes(build_page(content_of(labels, range(6), epochs=2, classes=4, test_images=120, **torn)))
    one = visit(path)
    one.tab.check("#compare")
    one.tab.wait_for_selector("#panel-b canvas")
    one.tab.eval_on_selector_all("details", "all => all.forEach(one => { one.open = true; })")
    for width, scheme in itertools.product((390, 1280), ("light", "dark")):
        one.tab.set_viewport_size({"width": width, "height": 900})
        one.tab.emulate_media(color_scheme=scheme)
        found = axe.run(one.tab).response["violations"]
        assert found == [], (width, scheme, [(rule["id"], rule["nodes"][0]["html"]) for rule in found])


def test_controls_have_labels_and_headings_are_in_order(visit: Callable[..., Visit]) -> None:
    one = visit()
    one.tab.check("#compare")
    one.tab.wait_for_selector("#panel-b canvas")
    unnamed = "all => all.filter(one => !one.labels.length && !one.textContent).map(one => one.id)"
    assert one.tab.eval_on_selector_all("select, input, button", unnamed) == []
    levels = one.tab.eval_on_selector_all("h1, h2, h3", "all => all.map(one => Number(one.tagName[1]))")
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert one.tab.eval_on_selector_all("img", "all => all.every(one => one.alt && one.naturalWidth)")
    ids = one.tab.eval_on_selector_all("[id]", "all => all.map(one => one.id)")
    assert len(ids) == len(set(ids))
    one.tab.reload()
    one.tab.keyboard.press("Tab")
    assert one.tab.evaluate("document.activeElement.className") == "skip"
    assert one.tab.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    assert one.tab.get_attribute("#state", "aria-live") == "polite"
    assert one.tab.get_attribute("html", "lang") == "en"


def test_the_policy_blocks_an_injected_script(browser: Any, page: bytes, tmp_path: Path) -> None:
    slipped = tmp_path / "report.html"
    slipped.write_bytes(page.replace(b"<main", b"<script>document.title = 'taken'</script><main", 1))
    tab = browser.new_page()
    tab.goto(slipped.as_uri())
    assert tab.title() != "taken"
    tab.close()


@pytest.mark.slow
def test_thirty_seeds_of_all_variants_fit_into_one_page(browser: Any, tmp_path: Path) -> None:
    content = content_of(list(VARIANTS), range(30), epochs=20, test_images=3669, image_side=224)
    page = build_page(content)
    assert len(page) < 15_000_000
    (tmp_path / "report.html").write_bytes(page)
    one = Visit(browser, tmp_path / "report.html")
    assert one.complaints == []
    with_masks = {label for label, _ in content.probe_masks}
    assert len(one.tab.query_selector_all("#variant-a option")) == len(with_masks)
    one.tab.emulate_media(media="print")
    assert pages_of(one.tab) <= 12
    tall = "all => all.filter(one => one.offsetHeight > 500).length"  # 130 mm are 491 pixels
    assert one.tab.eval_on_selector_all(".figures img", tall) == 0, "a figure is never cut, and its heading above it"
    one.context.close()
