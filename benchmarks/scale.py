"""What reads a run, and the driver, at 1,000 to 10,000 trials: time, peak memory, and whether they grow linearly."""

import resource
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import driver
from made_trials import TEST_IMAGES, labels, link_trials, make_trials
from measuring import Cost, Figure, show, timed_job

CHROMIUM = Path("/usr/bin/chromium")
VARIANTS = 100
SEEDS = (10, 30, 100)
FEW_VARIANTS, MANY_SEEDS = 4, 2500


def measure() -> list[Figure]:
    """Measure the commands on 100 variants, then on few variants with many seeds, then the driver."""
    with tempfile.TemporaryDirectory() as folder:
        make_trials(Path(folder), labels(VARIANTS), SEEDS[-1], _run(SEEDS[-1] * VARIANTS))
        for seeds in SEEDS[:-1]:
            link_trials(Path(folder), _run(SEEDS[-1] * VARIANTS), seeds, _run(seeds * VARIANTS))
        trials = [seeds * VARIANTS for seeds in SEEDS]
        status = {count: timed_job(folder, _run(count), "status") for count in trials}
        report = {count: timed_job(folder, _run(count), "aggregate", "--out", f"{folder}/{count}") for count in trials}
        figures = [*_figures("status", status), *_figures("aggregation", report), *_page(Path(folder, str(trials[-1])))]
    with tempfile.TemporaryDirectory() as folder:
        count = FEW_VARIANTS * MANY_SEEDS
        make_trials(Path(folder), labels(FEW_VARIANTS), MANY_SEEDS, _run(count))
        other = {count: timed_job(folder, _run(count), "aggregate", "--out", f"{folder}/{count}")}
        shape = f" of {FEW_VARIANTS} variants × {MANY_SEEDS:,} seeds"
        figures += [*_figures("aggregation", other, shape), *_page(Path(folder, str(count)), shape)]
    return [*figures, *_driver()]


def _run(trials: int) -> str:
    return f"made-{trials}"


def _figures(name: str, costs: Mapping[int, Cost], shape: str = "") -> list[Figure]:
    """Return the time and the memory of the most trials, and how the time of a trial grows if there are fewer, too."""
    *fewer, most = costs
    others = "".join(f"; {count:,}: {show(costs[count].seconds)} s, {costs[count].gigabytes:.2g} GB" for count in fewer)
    detail = f"jobs/{'status' if name == 'status' else 'aggregate'}.py, {TEST_IMAGES:,} test images a trial{others}"
    title = f"{name} of {most:,} trials{shape and f',{shape[3:]}'}"
    figures = [
        Figure(title, (costs[most].seconds,), " s", 120, False, detail),
        Figure(f"{title}, memory", (costs[most].gigabytes,), " GB", 3, False, "the process's peak"),
    ]
    if fewer:
        growth = costs[most].seconds / most / (costs[fewer[0]].seconds / fewer[0])
        what = "linear: a trial takes as long"
        figures.append(Figure(f"{name}, a trial of {most:,} ÷ of {fewer[0]:,}", (growth,), "", 1.3, False, what))
    return figures


def _page(report: Path, shape: str = "") -> list[Figure]:
    """Return the size of report.html, and how long Chromium takes to show it, its gallery ready, if it is there."""
    size = (report / "report.html").stat().st_size / 1e6
    title = f"the page of 10,000 trials{shape and f',{shape[3:]}'}"
    figures = [Figure(title, (size,), " MB", 20, False, "report.html, with at most 9 MB of masks")]
    if CHROMIUM.exists():
        from playwright.sync_api import sync_playwright

        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
            tab = browser.new_page()
            started = time.perf_counter()
            tab.goto((report / "report.html").as_uri())
            while not tab.evaluate("document.documentElement.dataset.gallery === 'ready'"):
                tab.wait_for_timeout(20)
            seconds = time.perf_counter() - started
            browser.close()
        figures.append(Figure(f"{title}, in Chromium", (seconds,), " s", 5, False, "until its gallery is ready"))
    return figures


def _driver() -> list[Figure]:
    costs = {}
    for trials in (1000, 10_000):
        costs[trials], wall = driver.sweep(trials)
    few, most = costs
    gigabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    detail = f"processor time; {most:,} trials in {wall:.0f} s, {gigabytes:.2g} GB; {few:,}: {1e3 * costs[few]:.0f} ms"
    return [
        Figure(f"the driver’s cost of a trial of {most:,}", (1e3 * costs[most],), " ms", 20, False, detail),
        Figure(f"the driver, a trial of {most:,} ÷ of {few:,}", (costs[most] / costs[few],), "", 1.3, False, "linear"),
    ]
