"""Work on several items at once, while no more than a few of them are in memory."""

import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

MOST = 8
"""Threads; more of them would wait for one another's bytecode."""

HELD = 2**26
"""Bytes that the items worked on at once may have; a larger one is worked on alone."""


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def in_threads(
    work: Callable[[T], R], items: Iterable[T], size: Callable[[T], int]
) -> Iterator[tuple[T, R]]:
    """Each item and what `work` makes of it, in order, some of them at once.

    For work that is done outside Python's lock, as numpy's and Zstandard's is.

    Args:
        work: may be called from any thread; what it raises is raised here, in the item's turn.
        items: the next one is taken when there is room for it.
        size: bytes of an item.

    Example:
        >>> list(in_threads(len, ["a", "bcd"], len))
        [('a', 1), ('bcd', 3)]
    """
    number = min(cores(), MOST)
    if number == 1:
        for item in items:
            yield item, work(item)
        return
    waiting: deque[tuple[T, Future[R]]] = deque()
    held = 0
    with ThreadPoolExecutor(number, thread_name_prefix="mmcompress") as pool:
        try:
            for item in items:
                while waiting and (len(waiting) > number or held + size(item) > HELD):
                    first, done = waiting.popleft()
                    yield first, done.result()
                    held -= size(first)
                waiting.append((item, pool.submit(work, item)))
                held += size(item)
            while waiting:
                first, done = waiting.popleft()
                yield first, done.result()
        finally:
            pool.shutdown(cancel_futures=True)
