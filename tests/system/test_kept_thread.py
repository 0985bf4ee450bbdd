"""The kept thread: one for all work in turn, errors as they are, and no waiting for work that hangs."""

import gc
import threading
import traceback
import weakref
from collections.abc import Callable

import pytest

from catdog.system.kept_thread import in_kept_thread


def thread_of_the_next_job() -> int:
    (thread,) = in_kept_thread(lambda send: send(threading.get_native_id()))
    return thread


def test_work_from_several_threads_runs_in_one_other_thread() -> None:
    threads = {thread_of_the_next_job()}
    for _ in range(3):
        caller = threading.Thread(target=lambda: threads.add(thread_of_the_next_job()))
        caller.start()
        caller.join()
    assert len(threads) == 1
    assert threads.isdisjoint({threading.get_native_id()})


@pytest.mark.parametrize("error", [ValueError("wrong"), SystemExit(0)])
def test_an_error_is_raised_with_its_traceback_and_the_thread_serves_on(error: BaseException) -> None:
    def fails(send: Callable[[str], None]) -> None:
        raise error

    before = thread_of_the_next_job()
    with pytest.raises(type(error)) as raised:
        list(in_kept_thread(fails))
    assert raised.value is error
    assert [frame.name for frame in traceback.extract_tb(raised.tb)][-1] == "fails"
    assert thread_of_the_next_job() == before


def test_work_that_hangs_delays_no_other_work() -> None:
    before, has_started, may_end = thread_of_the_next_job(), threading.Event(), threading.Event()

    def hang(send: Callable[[str], None]) -> None:
        has_started.set()
        may_end.wait()

    caller = threading.Thread(target=lambda: list(in_kept_thread(hang)))
    caller.start()
    has_started.wait()
    other = thread_of_the_next_job()
    assert other != before
    assert thread_of_the_next_job() == other
    may_end.set()
    caller.join()


def test_what_work_held_is_freed_at_its_end() -> None:
    class Model:
        pass

    def work(model: Model) -> None:
        held.append(weakref.ref(model))
        raise ValueError("its own")

    held: list[weakref.ref[Model]] = []
    with pytest.raises(ValueError, match="its own"):
        list(in_kept_thread(lambda send: work(Model())))
    gc.collect()
    assert held[0]() is None


def test_work_does_not_wait_until_its_messages_are_read() -> None:
    done = threading.Event()

    def work(send: Callable[[int], None]) -> None:
        for number in range(1000):
            send(number)
        done.set()

    messages = in_kept_thread(work)
    assert next(messages) == 0
    assert done.wait(60)
    assert list(messages) == list(range(1, 1000))
