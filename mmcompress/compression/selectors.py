"""Which weights a step works on: the arguments that every step has. No torch."""

from collections.abc import Sequence
from typing import TypedDict

Patterns = str | Sequence[str] | None
"""Shell patterns, of which one must match; null for all."""

EXCEPT = "!"
"""Before a pattern: all except what it matches."""


class Selectors(TypedDict, total=False):
    """Fields of `Target` that patterns are given for."""

    modality: Patterns
    part: Patterns
    role: Patterns
    granularity: Patterns


SELECTORS = tuple(Selectors.__annotations__)


def only_selectors(method: type, given: Selectors) -> Selectors:
    """The arguments, once they are known to be selectors, for a parent that takes more than these.

    Raises:
        TypeError: one is none, in Python's words.

    Example:
        >>> only_selectors(int, {"role": "mlp.*"})
        {'role': 'mlp.*'}
    """
    for name in given:
        if name not in SELECTORS:
            raise TypeError(
                f"{method.__name__}.__init__() got an unexpected keyword argument {name!r}"
            )
    return given
