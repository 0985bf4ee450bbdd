"""Work on all cores keeps its order and raises its errors."""

import pytest

from catdog.system.process import map_on_cores, usable_cores


@pytest.mark.parametrize("count", [0, 1, 31, 32, 33, 1000])
def test_results_are_in_the_order_of_their_items(count: int) -> None:
    assert map_on_cores(lambda item: item * item, range(count)) == [item * item for item in range(count)]


def test_the_first_error_is_raised() -> None:
    def work(item: int) -> int:
        if item >= 700:
            raise ValueError(item)
        return item

    with pytest.raises(ValueError, match="700"):
        map_on_cores(work, range(10_000))


def test_there_is_at_least_one_core() -> None:
    assert usable_cores() >= 1
