"""The secondary endpoint: Test log-loss, its test, and what is said of it."""

import dataclasses
import io
import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from catdog.analysis.contrasts import compare
from catdog.analysis.log_loss import log_loss_figures, log_loss_line, with_log_losses
from catdog.analysis.predictions import Predictions, read_predictions
from catdog.analysis.verdicts import Contrast, contrasts_table
from catdog.formatting import format_range
from catdog.runs.looks import UNDECIDED, Look
from catdog.runs.paths import RunPaths
from catdog.runs.status import RunStatus, open_run
from catdog.storage import MemoryStore
from catdog.storage.serialization import npz_bytes
from tests.helpers.hand_made_run import EIGHT, hand_made_store
from tests.helpers.made_runs import add_files, make_run

Losses = Callable[[int], float]


def made(seeds: int, **options: object) -> tuple[RunStatus, Predictions]:
    store = MemoryStore()
    options = {"labels": ("baseline", "se"), "classes": 4, "test_images": 100, "epochs": 1, **options}
    run_status = make_run(store, seeds=range(seeds), **options)  # type: ignore[arg-type]
    predictions = read_predictions(store, run_status)
    assert predictions is not None
    return run_status, predictions


def contrast(made: tuple[RunStatus, Predictions], difference: Losses | None = None) -> Contrast:
    """Return the contrast of a made run; `difference` gives ours minus theirs by seed, instead of the run's own."""
    run_status, predictions = made
    if difference is not None:
        theirs = predictions.log_losses["baseline"]
        ours = {seed: theirs.get(seed, 0.0) + difference(seed) for seed in predictions.log_losses["se"]}
        predictions = dataclasses.replace(predictions, log_losses={"baseline": theirs, "se": ours})
    (found,) = with_log_losses(compare(run_status, predictions), run_status.manifest, predictions)
    return found


def scattered(mean: float) -> Losses:
    return lambda seed: mean + 0.01 * math.sin(5 * seed)


def test_log_loss_is_minus_the_mean_log_probability_of_the_true_class() -> None:
    """Of two classes with logits 1 and 0, an image costs log(1 + 1/e) if it is right, and 1 more if it is wrong."""
    store = hand_made_store()
    run_status = open_run(store, "night")
    predictions = read_predictions(store, run_status)
    assert predictions is not None
    right = math.log(1 + 1 / math.e)
    wrong_shares = {0: 0.2, 1: 0.19, 2: 0.15}
    assert predictions.log_losses["baseline"] == pytest.approx(
        {seed: right + share for seed, share in wrong_shares.items()}, abs=2e-4
    )
    eight, attention = with_log_losses(compare(run_status, predictions), run_status.manifest, predictions)
    found = eight.log_loss
    assert eight.variant == EIGHT
    assert found is not None
    assert (found.n, found.p, found.interval, found.says) == (1, 1.0, None, None)
    assert (found.ours, found.theirs, found.mean) == pytest.approx((right + 0.05, right + 0.2, -0.15), abs=2e-4)
    assert log_loss_figures(eight) == f"−{-found.mean:.4f} nats, n = 1 pair; unadjusted p = 1.000"
    assert attention.log_loss is None, "no seed of it is complete"


@pytest.mark.parametrize(("seeds", "tolerance"), [(6, 1e-12), (12, 1e-12), (20, 0.02)])
def test_p_is_that_of_scipys_permutation_test_and_agrees_with_the_interval(seeds: int, tolerance: float) -> None:
    run = made(seeds)
    losses = [[run[1].log_losses[name][seed] for seed in range(seeds)] for name in ("se", "baseline")]
    for shift in (0.0, 0.03):
        one = contrast(run, lambda seed, shift=shift: losses[0][seed] - losses[1][seed] - shift)  # type: ignore[misc]
        differences = np.subtract(*losses) - shift
        expected = stats.permutation_test(
            (differences,), np.mean, permutation_type="samples", n_resamples=20_000, rng=np.random.default_rng(1)
        )
        assert one.log_loss is not None
        assert one.log_loss.p == pytest.approx(expected.pvalue, abs=tolerance)
        assert one.log_loss.mean == pytest.approx(differences.mean())
        assert one.log_loss.interval is not None
        assert one.log_loss.interval.excludes_zero == (one.log_loss.p < 0.05)


def test_it_changes_nothing_of_accuracy_and_ends_the_rows_of_the_table() -> None:
    run_status, predictions = made(8, labels=("baseline", "se", "attention"))
    before = compare(run_status, predictions)
    after = with_log_losses(before, run_status.manifest, predictions)
    assert [dataclasses.replace(one, log_loss=None) for one in after] == before
    assert with_log_losses(before, run_status.manifest, None) == before
    alone = compare(run_status, predictions)[1:]
    assert with_log_losses(alone, run_status.manifest, predictions) == after[1:], "whatever other variants there are"
    row = contrasts_table(after).to_dict("records")[0]
    found = after[0].log_loss
    assert found is not None
    assert found.interval is not None
    assert list(row)[-4:] == ["log_loss", "log_loss_low", "log_loss_high", "p_log_loss"]
    assert list(row.values())[-4:] == [found.mean, found.interval.low, found.interval.high, found.p]
    assert contrasts_table(before)["log_loss"].isna().all()


def test_a_difference_that_accuracy_leaves_open_or_contradicts_is_said() -> None:
    equal, better = made(12), made(12, effect={"se": 9.0})
    one = contrast(equal, scattered(-0.02))
    assert one.outcome == UNDECIDED
    assert one.log_loss is not None
    assert one.log_loss.interval is not None
    low, high = one.log_loss.interval.low, one.log_loss.interval.high
    assert log_loss_line(one) == (
        "se against baseline: undecided by accuracy, but Test log-loss, a secondary endpoint, is lower "
        f"(−{-one.log_loss.mean:.4f} nats, n = 12 pairs; 95 % interval {format_range(low, high, 4)}, "
        "unadjusted p < 0.001)."
    )
    assert log_loss_line(contrast(equal, scattered(0.0))) is None
    assert contrast(better).outcome == "better"
    assert log_loss_line(contrast(better, scattered(-0.02))) is None, "it says the same"
    line = log_loss_line(contrast(better, scattered(0.02)))
    assert line is not None
    assert line.startswith(
        "se against baseline: better by accuracy, but Test log-loss, a secondary endpoint, is higher"
    )
    assert contrast(equal, scattered(-0.02)).verdict == contrast(equal).verdict


def test_a_trial_whose_logits_float16_could_not_hold_is_left_out_and_named(caplog: pytest.LogCaptureFixture) -> None:
    store = MemoryStore()
    run_status = make_run(store, ("baseline", "se"), range(7), classes=4, test_images=100, epochs=1)
    where = RunPaths("made").trial("se", 3)
    arrays = dict(np.load(io.BytesIO(store.get(where.predictions))))
    logits, labels = arrays["test_logits"], arrays["test_labels"]
    wrong = int(np.flatnonzero(logits.argmax(axis=1) != labels)[0])
    logits[wrong, logits[wrong].argmax()] = np.inf
    add_files(store, where, {"predictions.npz": npz_bytes(**arrays)})
    run_status = open_run(store, "made")
    predictions = read_predictions(store, run_status)
    assert caplog.messages == [f"{where.predictions}: float16 could not hold its logits; its log-loss is left out"]
    assert predictions is not None
    one = contrast((run_status, predictions), scattered(-0.02))
    assert one.n == 7
    assert one.log_loss is not None
    assert one.log_loss.n == 6
    assert one.log_loss.says is None, "with the left-out trial as bad as chance, se would not be surer"


@pytest.mark.parametrize(("diverged", "says"), [(["se"], None), (["baseline"], "lower"), (["se", "baseline"], "lower")])
def test_nobody_is_surer_by_diverging(diverged: list[str], says: str | None) -> None:
    found = contrast(made(7, diverged=[(label, 2) for label in diverged]), scattered(-0.02)).log_loss
    assert found is not None
    assert (found.n, found.says) == (6, says)
    assert found.p < 0.05


def test_it_allows_for_looking_early() -> None:
    run_status, predictions = made(12, looks=(6, 12, 30), most_seeds=30, smallest_effect=2.0)
    seeds = tuple(range(12))
    looks = [Look(end, {"se": seeds[:end]}, {"se": UNDECIDED}, "2026-01-01") for end in (6, 12)]
    fixed = dataclasses.replace(run_status, manifest=dataclasses.replace(run_status.manifest, declared=()))
    plain = contrast((fixed, predictions), scattered(-0.004)).log_loss
    early = contrast((dataclasses.replace(run_status, looks=looks), predictions), scattered(-0.004)).log_loss
    assert plain is not None
    assert early is not None
    assert plain.interval is not None
    assert early.interval is not None
    assert early.p > plain.p
    assert early.interval.low < plain.interval.low < plain.interval.high < early.interval.high
    assert contrast((run_status, predictions)).log_loss is None, "before the first look"
