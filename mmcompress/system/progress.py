"""Progress bars on a terminal, and nothing in pipes, logs and doctests."""

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

from rich import get_console
from rich.progress import track

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Counted(Protocol[T_co]):
    """What knows how many items it gives: a list, a `DataLoader`."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[T_co]: ...


def progress(items: Counted[T], description: str, *, least: int = 1) -> Iterable[T]:
    """The items, with a bar that goes when the last of them is done.

    Args:
        description: what is done to them, as a verb: `embed images`.
        least: a bar is drawn for that many items or more.

    Example:
        >>> [2 * n for n in progress([1, 2, 3], "double")]
        [2, 4, 6]
    """
    is_shown = len(items) >= least and get_console().is_terminal
    return track(items, description=description, transient=True, disable=not is_shown)
