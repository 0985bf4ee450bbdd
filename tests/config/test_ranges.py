"""Ranges to tune over: what they mean, and one line for those that a variant cannot take."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catdog.config.ranges import Range, parse_ranges, with_values
from catdog.config.recipe import Recipe
from catdog.config.variants import parse_variant, parse_variants
from catdog.errors import UserError

HEADS = parse_variants(("baseline", "multi-attention:num_masks=8"))


def test_ranges_are_numbers_or_choices() -> None:
    texts = ("learning_rate=1e-4..1e-2", "dropout=0.2..0.6", "batch_size=16..256", "schedule=one-cycle,cosine")
    rate, dropout, batch, schedule = parse_ranges(texts, HEADS, Recipe())
    assert (rate.low, rate.high, rate.is_logarithmic, rate.is_integer) == (1e-4, 1e-2, True, False)
    assert (dropout.is_logarithmic, dropout.is_integer) == (False, False)
    assert (batch.is_logarithmic, batch.is_integer, batch.word(22.6)) == (True, True, "23")
    assert schedule.choices == ("one-cycle", "cosine")
    assert [one.text for one in (rate, batch, schedule)] == ["learning_rate=0.0001..0.01", *texts[2:]]


def test_the_default_is_a_tenth_to_ten_times_of_the_rates() -> None:
    names = [one.name for one in parse_ranges((), HEADS, Recipe())]
    assert names == ["learning_rate", "weight_decay", "backbone_learning_rate"]
    assert [one.name for one in parse_ranges((), HEADS, Recipe(train_modules_only=True))] == names[:2]
    rate, decay = parse_ranges((), HEADS, Recipe(freeze=True))
    assert (rate.low, rate.high) == pytest.approx((2e-4, 2e-2))
    assert (decay.low, decay.high) == pytest.approx((1e-3, 1e-1))


@given(st.floats(1e-6, 1e3), st.floats(1.0001, 1e6), st.floats(0, 1))
def test_a_number_as_written_stays_in_its_range(low: float, factor: float, share: float) -> None:
    one = Range("learning_rate", low=low, high=low * factor)
    assert one.low <= float(one.word(one.low + share * (one.high - one.low))) <= one.high


def test_values_are_added_to_a_label() -> None:
    baseline, eight = HEADS
    assert with_values(baseline, {"epochs": "3"}) == "baseline:epochs=3"
    assert parse_variant(with_values(eight, {"epochs": "3"})).label == "multi-attention:num_masks=8,epochs=3"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("learning_rate", "give name=low..high"),
        ("learning_rate=", "give name=low..high"),
        ("=1..2", "give name=low..high"),
        ("learning_rate=2..1", "2 is not below 1"),
        ("learning_rate=1..x", "'x' is not a number"),
        ("learning_rate=1..inf", "a bound makes no sense"),
        ("learning_rate=0..1", "learning_rate 0.0: must be above 0"),
        ("learning_rate=1..200", "must be above 0 and below 100"),
        ("schedule=one-cycle,linear", "choose from one-cycle, cosine"),
        ("num_masks=2..8", "unknown parameter or setting 'num_masks'"),
        ("split_seed=1..3", "no variant can change it"),
    ],
)
def test_a_range_that_a_variant_cannot_take_is_refused(text: str, named: str) -> None:
    with pytest.raises(UserError, match=named):
        parse_ranges((text,), parse_variants(("baseline",)), Recipe())


def test_values_that_do_not_go_together_are_refused_before_anything_runs() -> None:
    with pytest.raises(UserError, match=r"--ranges: variant 'baseline:freeze=true,cutmix=0.5': cutmix"):
        parse_ranges(("freeze=false,true", "cutmix=0,0.5"), HEADS, Recipe())


def test_the_default_leaves_out_what_a_variant_has_of_its_own() -> None:
    specs = parse_variants(("baseline", "attention:learning_rate=1e-3"))
    assert [one.name for one in parse_ranges((), specs, Recipe())] == ["weight_decay", "backbone_learning_rate"]


def test_a_setting_is_tuned_once() -> None:
    with pytest.raises(UserError, match="given twice"):
        parse_ranges(("epochs=1..3", "epochs=2..4"), HEADS, Recipe())
    with pytest.raises(UserError, match="given twice"):
        parse_ranges(("num_masks=2..4",), HEADS[1:], Recipe())
