"""Order, memory and errors of what is done in threads."""

import threading
import time

import pytest

from mmcompress.system import threads
from mmcompress.system.threads import in_threads


@pytest.fixture(params=[1, 2, 5], autouse=True)
def number(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(threads, "cores", lambda: request.param)
    return request.param


def test_results_come_in_the_order_of_the_items() -> None:
    def work(item: int) -> int:
        time.sleep(0.002 * (item % 3))
        return item * item

    found = list(in_threads(work, range(30), lambda item: 1))
    assert found == [(item, item * item) for item in range(30)]


def test_several_are_worked_on_at_once(number: int) -> None:
    meeting = threading.Barrier(number)
    found = in_threads(lambda item: meeting.wait(10) >= 0, range(2 * number), lambda item: 1)
    assert all(met for _, met in found)


def test_no_more_is_held_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "HELD", 10)
    taken, done = [0], [0]
    sizes = [4, 4, 4, 30, 4, 4, 1, 1, 1, 1]
    most = 0

    def items() -> "list[int]":
        for size in sizes:
            taken[0] += size
            yield size

    for size, _ in in_threads(lambda item: item, items(), lambda item: item):
        # One more has been taken, and waits for room.
        most = max(most, taken[0] - done[0])
        done[0] += size
    assert done[0] == sum(sizes)
    assert most <= 10 + 30


def test_what_work_raises_comes_in_its_turn() -> None:
    def work(item: int) -> int:
        if item == 3:
            raise ValueError("three")
        return item

    results = in_threads(work, range(100), lambda item: 1)
    assert [next(results)[0] for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="three"):
        next(results)


def test_nothing_runs_on_when_the_reader_stops() -> None:
    done: list[int] = []
    results = in_threads(lambda item: done.append(item), range(1000), lambda item: 1)
    next(results)
    results.close()
    assert len(done) < 20
