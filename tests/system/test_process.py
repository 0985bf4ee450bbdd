"""Work on all cores keeps its order and raises its errors; how many cores there are."""

import os
import subprocess
import sys

import pytest

from catdog.system.process import map_on_cores, quota_cores, usable_cores
from tests.helpers.project import ROOT


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


def test_there_is_at_least_one_core_and_no_more_than_the_process_is_bound_to() -> None:
    assert usable_cores() >= 1
    code = "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])\n"
    code += "from catdog.system.process import usable_cores; print(usable_cores())"
    if hasattr(os, "sched_setaffinity"):
        assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True).stdout == b"1\n"


def test_a_containers_quota_is_rounded_up_to_whole_cores() -> None:
    assert [quota_cores(f"{quota} 100000\n") for quota in (50_000, 100_000, 150_000, 400_000)] == [1, 1, 2, 4]
    with pytest.raises(ValueError, match="max"):
        quota_cores("max 100000\n")
