"""When masks are made: all at once before training, or step by step while training.

The gradual schedule is that of "To prune, or not to prune: exploring the efficacy of pruning for
model compression", Zhu & Gupta 2017, arXiv:1710.01878, equation 1.
"""

from typing import Literal, get_args

Kind = Literal["one_shot", "cubic"]


def cubic_sparsity(progress: float, *, begin: float, end: float) -> float:
    """Share of the final sparsity that is due (arXiv:1710.01878, eq. 1, from zero).

    Args:
        progress: share of training done, in [0, 1].
        begin, end: where the ramp starts and where it is complete.

    Example:
        >>> cubic_sparsity(0.25, begin=0.0, end=0.5)
        0.875
    """
    if progress >= end:
        return 1.0
    ramp = max(progress - begin, 0.0) / (end - begin)
    return 1.0 - (1.0 - ramp) ** 3


class Schedule:
    """Tells when masks have to change, and how far.

    Args:
        kind: `one_shot` prunes before training, `cubic` while training.
        begin, end: of the cubic ramp, as shares of training.
        updates: how often the cubic ramp moves the masks.
    Raises:
        ValueError: a setting is out of its range.
    """

    def __init__(self, kind: Kind, *, begin: float, end: float, updates: int) -> None:
        if kind not in get_args(Kind):
            raise ValueError(f"schedule={kind!r} must be one_shot or cubic")
        if not 0 <= begin < end <= 1:
            raise ValueError(f"begin={begin} and end={end} must satisfy 0 <= begin < end <= 1")
        if updates < 1:
            raise ValueError(f"updates={updates} must be at least 1")
        self.kind, self.begin, self.end, self.updates = kind, begin, end, updates

    def due(self, progress: float) -> float | None:
        """Share of the final sparsity that is due; None when masks are made before training.

        Args:
            progress: share of training done, in [0, 1].
        """
        if self.kind == "one_shot":
            return None
        update = int(min(progress / self.end, 1.0) * self.updates)
        return cubic_sparsity(update / self.updates * self.end, begin=self.begin, end=self.end)
