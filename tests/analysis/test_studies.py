"""The two studies: their sweeps, their tables on simulated runs, and one real run of each."""

import dataclasses
import io
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from rich.console import Console

from catdog.analysis.intervals import std_interval, variance_share
from catdog.analysis.significance import rank_intervals
from catdog.analysis.studies import lambda_table, scatter_lines, scatter_table
from catdog.cli import run_job
from catdog.config.presets import LAMBDAS, lambda_config, preset_config, scatter_configs
from catdog.config.recipe import Recipe
from catdog.config.variants import parse_variants
from catdog.data.prepare import DatasetInfo
from catdog.errors import UserError
from catdog.report.study_figures import lambda_figure, scatter_figure
from catdog.storage import MemoryStore, StoreLocation
from jobs import study
from tests.helpers.made_runs import make_run
from tests.helpers.sweeps import SMALL

WEIGHTS = {form: [0.0, *map(float, listing.split(","))] for form, listing in LAMBDAS.items()}


def test_a_lambda_study_is_one_sweep_of_seven_lambdas() -> None:
    config = lambda_config(preset_config("pets-frozen"))
    assert config.run_name == "pets-frozen-lambda"
    assert [spec.arguments["lambda_divergence"] for spec in config.variant_specs] == WEIGHTS["sum"]
    assert [spec.title for spec in config.variant_specs][:3] == ["lambda 0", "lambda 1e-6", "lambda 1e-5"]


def test_a_lambda_study_keeps_all_else_of_the_multi_attention_that_it_is_of() -> None:
    preset = preset_config("pets-frozen")
    label = "multi-attention:lambda_divergence=0.5,num_masks=2,divergence=mean,learning_rate=0.005"
    specs = lambda_config(dataclasses.replace(preset, variants=("baseline", label))).variant_specs
    assert [spec.arguments["lambda_divergence"] for spec in specs] == WEIGHTS["mean"]
    assert {(spec.arguments["num_masks"], spec.settings["learning_rate"]) for spec in specs} == {(2, 0.005)}
    assert [spec.arguments.get("divergence") for spec in specs] == [None, *["mean"] * 6]
    for variants in (("baseline",), ("multi-attention", label)):
        with pytest.raises(UserError, match="one multi-attention"):
            lambda_config(dataclasses.replace(preset, variants=variants))


def test_a_scatter_study_is_one_sweep_per_source_of_randomness_and_one_for_all() -> None:
    configs = scatter_configs(preset_config("demo"), with_split=True)
    assert {source: config.run_name for source, config in configs.items()} == {
        source: f"demo-scatter-{source}" for source in ("init", "order", "augment", "dropout", "split", "all")
    }
    assert [config.recipe.vary for config in configs.values()] == list(configs)
    assert [source for source, config in configs.items() if config.recipe.resamples_split] == ["split", "all"]
    fewer = scatter_configs(preset_config("demo"), with_split=False)
    assert list(fewer) == ["init", "order", "augment", "dropout", "all"]
    assert not any(config.recipe.resamples_split for config in fewer.values())


def test_a_scatter_study_that_was_begun_without_the_split_goes_on_without_it() -> None:
    store, config = MemoryStore(), preset_config("demo")
    given = DatasetInfo("mine", "0" * 16, trainval_images=100, has_validation=True)
    assert list(study._scatter(config, store, given)) == ["init", "order", "augment", "dropout", "all"]
    assert "split" in study._scatter(config, store, None)
    make_run(store, ("baseline",), range(1), run="demo-scatter-all")
    assert list(study._scatter(config, store, None)) == ["init", "order", "augment", "dropout", "all"]


def test_the_lambda_table_is_sorted_by_lambda_and_leaves_other_variants_out() -> None:
    store = MemoryStore()
    specs = parse_variants(lambda_config(preset_config("pets-frozen")).variants, Recipe())
    labels = ["baseline", *(spec.label for spec in reversed(specs))]
    run_status = make_run(store, labels, range(3), failed=[("multi-attention-free", 1)])
    table = lambda_table(store, run_status)
    assert table["lambda"].tolist() == WEIGHTS["sum"]
    assert table["n"].tolist() == [2, 3, 3, 3, 3, 3, 3]
    one, pairs = table.iloc[1], [(0, 0), (2, 1)]  # seed 1 has no λ = 0
    tests = {
        label: [result.test_accuracy for result in run_status.results(label)] for label in run_status.manifest.variants
    }
    differences = [tests[one["variant"]][with_] - tests["multi-attention-free"][without] for with_, without in pairs]
    assert one["test_difference_mean"] == pytest.approx(np.mean(differences))
    assert np.isnan(one["test_difference_low"]), "two pairs have no interval"
    assert (table["overlap_low"][1:] < table["overlap_mean"][1:]).all()
    assert (table["overlap_mean"][1:] < table["overlap_high"][1:]).all()
    assert table["overlap_mean"].between(0, 1).all()
    free = [result.test_accuracy for result in run_status.results("multi-attention-free")]
    assert table["test_mean"][0] == pytest.approx(np.mean([value for value in free if value is not None]))
    assert is_a_figure(lambda_figure(table))


def is_a_figure(png: bytes) -> bool:
    with Image.open(io.BytesIO(png)) as image:
        return len(image.getcolors(1 << 20) or []) > 20


@pytest.mark.parametrize("seeds", [range(1), range(8)])
def test_the_scatter_table_compares_each_source_with_all_together(seeds: Sequence[int]) -> None:
    purposes = ("init", "order", "augment", "dropout", "split", "all")
    run_statuses = {
        purpose: make_run(MemoryStore(), ["baseline", "se"], seeds, rng_seed=number)
        for number, purpose in enumerate(purposes)
    }
    table = scatter_table(run_statuses)
    assert list(zip(table["variant"], table["vary"], strict=True)) == [
        (label, purpose) for label in ("baseline", "se") for purpose in purposes
    ]
    if len(seeds) > 1:
        assert (table["test_std_low"] < table["test_std"]).all()
        assert (table["test_std"] < table["test_std_high"]).all()
        shares = table[table["vary"] != "all"]
        assert ((shares["share_low"] < shares["share"]) & (shares["share"] < shares["share_high"])).all()
        assert (shares["rank_low"] <= shares["rank_high"]).all()
        assert all(re.search(rf"{purpose} \d", line) for line in scatter_lines(table) for purpose in purposes[:-1])
    assert len(scatter_lines(table)) == (2 if len(seeds) > 1 else 0)
    assert table.loc[table["vary"] == "all", ["share", "rank_low", "rank_high"]].isna().all(axis=None)
    assert is_a_figure(scatter_figure(table))


def test_the_interval_of_a_deviation_covers_it_nineteen_times_out_of_twenty() -> None:
    samples = np.random.default_rng(0).normal(0, 2.0, (2000, 10))
    intervals = [std_interval(sample) for sample in samples]
    assert 0.94 <= np.mean([one is not None and one.low <= 2.0 <= one.high for one in intervals]) <= 0.96
    assert std_interval([1.0]) is None
    assert std_interval([1.0, 1.0]) is None


def test_the_interval_of_a_share_covers_it_nineteen_times_out_of_twenty() -> None:
    rng = np.random.default_rng(1)
    covered = []
    for _ in range(2000):
        found = variance_share(rng.normal(0, 1.0, 10), rng.normal(0, 2.0, 12))
        assert found is not None
        covered.append(found[1].low <= 0.25 <= found[1].high)
    assert 0.94 <= np.mean(covered) <= 0.96
    assert variance_share([1.0, 1.0], [1.0, 2.0]) is None


def test_ranks_are_certain_where_variances_differ_much_and_open_where_they_do_not() -> None:
    rng = np.random.default_rng(2)
    deviations = [0.2, 0.2, 5.0, 1.0]
    assert rank_intervals([rng.normal(0, std, 60) for std in deviations]) == [(3, 4), (3, 4), (1, 1), (2, 2)]
    assert rank_intervals([np.ones(5), rng.normal(0, 1, 5), np.ones(5)]) == [(2, 3), (1, 1), (2, 3)]
    assert rank_intervals([np.ones(1), np.array([1.0, 2.0])]) == [(1, 2), (1, 2)]
    tied, apart = np.array([90.0, 90.0]), np.array([90.0, 90.5])
    assert rank_intervals([tied, apart, tied]) == [(1, 3)] * 3, "two values can tie by luck"
    assert rank_intervals([np.repeat(tied, 10), np.arange(90.0, 100.0, 0.5)]) == [(2, 2), (1, 1)], "twenty do not"
    wrong = 0
    for _ in range(1000):
        ranks = rank_intervals(list(rng.normal(0, 1, (5, 10))))
        wrong += any(rank != (1, 5) for rank in ranks)
    assert wrong <= 60, "of five equal ones, none is ranked, 95 times out of 100"


def test_a_lambda_study_is_read_and_reported_with_the_patience_given(monkeypatch: pytest.MonkeyPatch) -> None:
    store, opened = MemoryStore(), []
    run_status = make_run(store, ["multi-attention-free", "multi-attention"], range(2))
    monkeypatch.setattr(study, "_sweep", lambda *_: run_status)
    monkeypatch.setattr(StoreLocation, "open", lambda location: opened.append(location.patience) or store)
    study.study_lambda(dataclasses.replace(preset_config("demo"), store_patience=7.0), (), Console(quiet=True))
    assert opened == [7.0]
    assert is_a_figure(store.get("demo-lambda/report/figures/lambda.png"))


def test_an_unknown_study_is_a_mistake_that_lists_the_studies() -> None:
    for arguments in ([], ["weather", "demo"]):
        with pytest.raises(UserError, match="studies: lambda, scatter"):
            study.main(arguments)


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize("name", ["lambda", "scatter"])
def test_a_study_ends_in_a_table_and_a_figure(
    name: str, store_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [name, "demo", "--store", str(store_folder), *SMALL, "--seeds", "2"]
    if name == "scatter":
        arguments += ["--variants", "baseline"]
        assert run_job(study.main, [*arguments, "--hourly-price", "1000000", "--max-cost", "0.01"]) == 1
        assert "--max-cost 0.01 is reached: the study's other runs do not start" in capsys.readouterr().out
        assert [path.name for path in store_folder.glob("demo-scatter-*")] == ["demo-scatter-init"]
    assert run_job(study.main, arguments) == 0
    report = store_folder / {"lambda": "demo-lambda", "scatter": "demo-scatter-all"}[name] / "report"
    table = pd.read_csv(report / f"{name}.csv")
    assert len(table) == {"lambda": 7, "scatter": 6}[name]
    assert is_a_figure((report / "figures" / f"{name}.png").read_bytes())
    assert f"figures/{name}.png" in capsys.readouterr().out
