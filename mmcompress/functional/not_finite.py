"""What is said of embeddings and logits that are NaN or infinite: they are no score. No torch."""

from collections.abc import Sequence
from typing import Any

SHOWN = 3
"""Names in a message."""


class NotFiniteError(ValueError):
    """What a model gives for some inputs cannot be scored.

    Attributes:
        rows: which of them, ascending.
    """

    def __init__(self, message: str, rows: Sequence[int]) -> None:
        super().__init__(message)
        self.rows = list(rows)


def not_scored(what: str, rows: Sequence[Any], total: int) -> str:
    """One sentence on what cannot be scored.

    Args:
        what: was computed, in the plural.
        rows: names or numbers of the inputs that it is not finite for.
        total: how many inputs there are.
    """
    shown = ", ".join(str(row) for row in rows[:SHOWN]) + (", …" if len(rows) > SHOWN else "")
    fix = (
        "no metric can be had from this model, choose a milder recipe or a lower optimizer.lr"
        if len(rows) == total
        else "look at these inputs, or at the range of the model's weights"
    )
    return f"{what} are NaN or infinite for {len(rows)} of {total} inputs ({shown}): {fix}"
