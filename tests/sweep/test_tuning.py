"""Tuning: the same budget for every variant, by Validation alone, resumable; and the report tells of it."""

import dataclasses
import math
import re
from pathlib import Path

import pytest

from catdog.cli import run_job
from catdog.config.presets import PRESETS
from catdog.config.ranges import Range, parse_ranges
from catdog.config.recipe_file import named_config
from catdog.config.sweep_options import SweepConfig
from catdog.errors import UserError
from catdog.runs.paths import RunPaths
from catdog.runs.status import RunStatus
from catdog.runs.tuning import Point, Tuning, mean_accuracy, read_tuning, tuning_sentence
from catdog.storage import LocalStore
from catdog.sweep.tuning import begin_tuning, tune
from jobs import sweep
from jobs import tune as tune_job
from tests.helpers.made_runs import make_run
from tests.helpers.sweeps import SMALL, report

CONFIG = dataclasses.replace(
    PRESETS["demo"], run="search", seeds="1000-1001", variants=("baseline", "attention"), store="nowhere"
)
RANGES = parse_ranges(("learning_rate=1e-3..1e-1",), CONFIG.variant_specs, CONFIG.recipe)


class Night:
    """Sweeps whose trials are made up: accuracy is highest at a learning rate of 0.01."""

    def __init__(self, folder: Path, dies_after: int = 99, out_of_money_in: int = 99) -> None:
        self.store, self.rounds = LocalStore(folder), list[tuple[str, ...]]()
        self.dies_after, self.out_of_money_in, self.is_complete = dies_after, out_of_money_in, False

    def sweep(self, config: SweepConfig) -> RunStatus:
        if len(self.rounds) == self.dies_after:
            raise KeyboardInterrupt
        self.rounds.append(config.variants)
        rates = {label: self.rate(label) for label in config.variants}
        effect = {label: -20 * abs(math.log10(rate / 0.01)) for label, rate in rates.items()}
        missing = [(config.variants[-1], config.seed_list[-1])] if len(self.rounds) == self.out_of_money_in else []
        recipe = dataclasses.replace(config.recipe, precision="float32")
        return make_run(
            self.store, config.variants, config.seed_list, effect=effect, missing=missing, recipe=recipe,
            run=f"round-{len(self.rounds)}", test_images=74, probes=1, epochs=1,
        )  # fmt: skip

    @staticmethod
    def rate(label: str) -> float:
        found = re.search(r":learning_rate=([\d.e-]+)", label)
        return float(found[1]) if found else CONFIG.recipe.learning_rate

    def tuned(self, budget: int) -> Tuning:
        tuning = begin_tuning(CONFIG, RANGES, budget, self.store)
        tuning, self.is_complete = tune(tuning, CONFIG, RANGES, self.store, self.sweep)
        return tuning


def test_every_variant_gets_the_same_number_of_points_and_later_rounds_learn_from_earlier(tmp_path: Path) -> None:
    night = Night(tmp_path)
    tuning = night.tuned(17)
    assert [len(labels) for labels in night.rounds] == [20, 10, 4]
    assert {label: len(points) for label, points in tuning.variants.items()} == {"baseline": 17, "attention": 17}
    assert read_tuning(night.store, "search") == tuning
    for label, points in tuning.variants.items():
        assert len({point.label for point in points}) == 17
        assert all(0.001 <= night.rate(point.label) <= 0.1 for point in points)
        best = tuning.best(label)
        assert best is not None
        assert best.accuracy == max(point.accuracy or 0 for point in points) == tuning.best_so_far(label)[-1]
        assert 0.004 < night.rate(best.label) < 0.025
    first = [[point.values for point in points[:10]] for points in tuning.variants.values()]
    assert first[0] == first[1], "all variants begin with the same points"


def test_an_interrupted_search_goes_on_as_if_it_had_not_been_and_can_be_extended(tmp_path: Path) -> None:
    whole = Night(tmp_path / "whole").tuned(17)
    night = Night(tmp_path / "parts", dies_after=1)
    with pytest.raises(KeyboardInterrupt):
        night.tuned(17)
    assert len((read_tuning(night.store, "search") or whole).variants["baseline"]) == 15, "stored before it runs"
    night.dies_after = 99
    assert night.tuned(17) == whole
    assert [len(labels) for labels in night.rounds] == [20, 10, 4]
    more = night.tuned(20)
    assert more.variants["baseline"][:17] == whole.variants["baseline"]
    assert len(more.variants["attention"]) == 20


def test_a_search_that_left_trials_out_is_not_complete_and_fills_the_gaps_when_it_goes_on(tmp_path: Path) -> None:
    night = Night(tmp_path, out_of_money_in=1)
    first = night.tuned(12)
    assert not night.is_complete
    assert [len(points) for points in first.variants.values()] == [10, 10]
    assert [point.accuracy for point in first.variants["attention"]].count(None) == 1
    whole = night.tuned(12)
    assert night.is_complete
    assert [len(labels) for labels in night.rounds] == [20, 1, 4]
    assert whole == Night(tmp_path / "undisturbed").tuned(12)


@pytest.mark.parametrize(
    ("change", "budget", "named"),
    [
        ({"seeds": "1000-1002"}, 3, "tuned with other seeds"),
        ({"variants": ("baseline",)}, 3, "tunes baseline, attention"),
        ({}, 2, "--budget 2: run 'search' has 3 points"),
    ],
)
def test_a_search_with_other_terms_needs_another_run(
    change: dict[str, object], budget: int, named: str, tmp_path: Path
) -> None:
    night = Night(tmp_path)
    night.tuned(3)
    other = dataclasses.replace(CONFIG, **change)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=named):
        begin_tuning(other, RANGES, budget, night.store)
    ranges = (Range("weight_decay", low=0.1, high=0.2),)
    with pytest.raises(UserError, match="tuned with other ranges"):
        begin_tuning(CONFIG, ranges, 3, night.store)
    with pytest.raises(UserError, match="'round-1' is a comparison"):
        begin_tuning(dataclasses.replace(CONFIG, run="round-1"), RANGES, 3, night.store)


def test_a_point_counts_only_with_an_accuracy_for_each_seed() -> None:
    assert mean_accuracy([90.0, 91.0], 2) == 90.5
    assert mean_accuracy([90.0, None], 2) is None
    points = tuple(Point(label, {}, accuracy) for label, accuracy in (("a", None), ("b", 3.0), ("c", 3.0), ("d", 1.0)))
    tuning = Tuning("search", 4, (1000,), ("epochs=1..2",), {"baseline": points, "se": points[:1]})
    assert (tuning.best("baseline"), tuning.best("se")) == (points[1], None)
    assert tuning.best_so_far("baseline") == [None, 3.0, 3.0, 3.0]
    sentence = tuning_sentence(tuning, ["b", "se"])
    assert "1 or 4 points were tried for each variant (run search), over epochs=1..2" in sentence
    assert sentence.endswith("Points without an accuracy, in all: 2. Not tuned: se.")


@pytest.mark.parametrize("damage", [b"{", b'{"run": "other"}', b"[]"])
def test_a_damaged_record_is_one_line(damage: bytes, tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.put(RunPaths("search").tuning, damage)
    with pytest.raises(UserError, match=r"search/tuning.json is damaged .*tune again"):
        read_tuning(store, "search")


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_the_file_that_a_tuning_writes_compares_the_tuned_variants_and_its_report_says_so(
    store_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    command = [
        "demo",
        *SMALL,
        "--store",
        str(store_folder),
        "--variants",
        "baseline",
        "one=attention:dropout=0",
        "--primary",
        "attention:dropout=0.0",
    ]
    assert run_job(tune_job.main, [*command, "--budget", "2", "--seeds", "0-1", "--dry-run"]) == 2
    assert "0 is a seed of the comparison" in capsys.readouterr().err
    tuning = [*command, "--budget", "2", "--seeds", "1000-1000"]
    assert run_job(tune_job.main, [*tuning, "--dry-run"]) == 0
    assert "4: 2 points × 1 seeds of each variant" in capsys.readouterr().out
    assert run_job(tune_job.main, tuning) == 0
    config = named_config("demo-tuned.yaml")
    assert [spec.title for spec in config.variant_specs] == ["baseline", "one"]
    assert (config.reference, config.primary) == ("baseline", "one")
    assert (config.seeds, config.tuning, config.recipe.epochs) == ("3", "demo-tuning", 2)
    assert (store_folder / "demo-tuning" / "tuned.yaml").read_text() == Path("demo-tuned.yaml").read_text()
    before = Path("demo-tuned.yaml").read_text()
    assert run_job(tune_job.main, tuning) == 0, "again: nothing is left to run"
    assert Path("demo-tuned.yaml").read_text() == before

    assert run_job(sweep.main, ["demo-tuned.yaml", "--seeds", "1"]) == 0
    assert "2 points were tried for each variant" in report(store_folder, "table.md", "demo-tuned").decode()
    page = report(store_folder, "report.html", "demo-tuned").decode()
    assert "How it was tuned" in page
    assert "by the number of points tried" in page
    assert run_job(sweep.main, ["demo-tuned.yaml", "--seeds", "1000-1000"]) == 2
    assert "1000 is a seed that run 'demo-tuning' was tuned with" in capsys.readouterr().err
    assert run_job(sweep.main, ["demo-tuned.yaml", "--store", str(tmp_path / "other"), "--dry-run"]) == 2
    assert "--tuning demo-tuning" in capsys.readouterr().err
