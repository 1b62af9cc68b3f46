import threading
import time

import pytest

from qconvert.run.executor import Threads


def test_results_keep_the_order_of_the_items():
    def slower_first(item: int) -> int:
        time.sleep(0.002 * (10 - item))
        return item

    with Threads(4) as threads:
        assert list(threads.map(slower_first, range(10))) == list(range(10))


@pytest.mark.parametrize(("ahead", "most"), [(3, 3), (None, 4)])
def test_no_more_items_are_taken_than_may_be_under_way(ahead, most):
    taken = []

    def items():
        for item in range(50):
            taken.append(item)
            yield item

    with Threads(2) as threads:
        for given, _ in enumerate(threads.map(str, items(), ahead)):
            assert len(taken) <= given + 1 + most


def test_the_first_error_wins_and_what_has_not_begun_is_not_begun():
    begun = []
    later_failed = threading.Event()

    def job(item: int) -> int:
        begun.append(item)
        if item == 0:
            assert later_failed.wait(5)
            raise ValueError("first")
        if item == 1:
            later_failed.set()
            raise ValueError("second")
        time.sleep(0.05)
        return item

    with pytest.raises(ValueError, match="first"), Threads(2) as threads:
        list(threads.map(job, range(100), 20))
    assert len(begun) < 10


def test_an_interruption_of_who_asks_cancels_the_rest():
    begun = []

    def job(item: int) -> int:
        begun.append(item)
        time.sleep(0.02)
        return item

    def interrupted() -> None:
        with Threads(1) as threads:
            for _ in threads.map(job, range(100), 50):
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert len(begun) < 5
