"""Masks: which weights of a tensor are kept, given a score for each.

Every pattern is one rule, "drop the `pruned` weights of lowest score in each group": the group is
the tensor, a row of it (Wanda), or M neighbours in a row (N:M, of which at most N are kept).
"""

import numpy as np
import torch
from torch import Tensor

from mmcompress.compression.base import Parametrization


def lowest_mask(scores: Tensor, pruned: int, *, group_size: int | None = None) -> Tensor:
    """Keep all but the `pruned` weights of lowest score in each group; ties fall in memory order.

    Args:
        scores: any shape.
        pruned: how many to drop in a group, at most all.
        group_size: neighbours in memory order that are compared; the tensor when None.
    Returns:
        bool, shape of `scores`, True = kept.

    Example:
        >>> lowest_mask(torch.tensor([[0.1, 3.0], [2.0, 0.2]]), 2).tolist()
        [[False, True], [True, False]]
        >>> lowest_mask(torch.tensor([[0.1, 3.0], [2.0, 0.2]]), 1, group_size=2).tolist()
        [[False, True], [True, False]]
    """
    if pruned == 0:
        return torch.ones_like(scores, dtype=torch.bool)
    groups = scores.reshape(-1, group_size or scores.numel())
    threshold = kth_smallest(groups, pruned)
    kept = groups > threshold
    missing = groups.shape[1] - pruned - kept.sum(dim=1, keepdim=True)
    if missing.any():
        tied = groups == threshold
        last = tied.sum(dim=1, keepdim=True) - missing
        kept |= tied & (tied.cumsum(dim=1) > last)
    return kept.view_as(scores)


def kth_smallest(groups: Tensor, k: int) -> Tensor:
    """The k-th smallest value of each row, k from 1: (rows, 1).

    Args:
        groups: (rows, columns).
        k: at most the columns.
    """
    if groups.device.type != "cpu" or groups.dtype != torch.float32:
        return groups.kthvalue(k, dim=1, keepdim=True).values
    # NumPy selects several times faster than torch does on a CPU.
    return torch.from_numpy(np.partition(groups.numpy(), k - 1, axis=1)[:, k - 1, None])


def parse_pattern(pattern: str) -> tuple[int, int]:
    """N and M of "N:M".

    Raises:
        ValueError: no such pattern.

    Example:
        >>> parse_pattern("2:4")
        (2, 4)
    """
    parts = pattern.split(":") if isinstance(pattern, str) else []
    if len(parts) == 2 and all(part.isdecimal() for part in parts):
        kept, size = map(int, parts)
        if 0 < kept < size:
            return kept, size
    raise ValueError(
        f"pattern={pattern!r} must be two whole numbers N:M with 0 < N < M, in quotes in a YAML "
        "file: at most N of M neighbours are kept; null for none"
    )


class Mask(Parametrization):
    """Parametrisation W → W ⊙ M, the mask made from scores |W| · row_scale · column_scale.

    Args:
        weight: gives the shape.
        pruned: weights to drop in each group when the schedule is complete.
        group_size: weights that are compared with each other; the tensor when None.
    """

    mask: Tensor
    row_scale: Tensor | None
    column_scale: Tensor | None

    def __init__(self, weight: Tensor, pruned: int, *, group_size: int | None = None) -> None:
        super().__init__()
        self.pruned, self.group_size = pruned, group_size
        self.register_buffer("mask", torch.ones_like(weight, dtype=torch.bool))
        self.register_buffer("row_scale", None)
        self.register_buffer("column_scale", None)

    def set_scales(self, rows: Tensor | None, columns: Tensor | None) -> None:
        """Factors on the scores: (rows,) and (columns,); None for 1."""
        self.row_scale, self.column_scale = rows, columns

    def prune(self, weight: Tensor, share: float = 1.0) -> None:
        """Drop `share` of the weights that are to go; what is masked stays masked."""
        scores = weight.abs().reshape(len(weight), -1)
        if self.row_scale is not None:
            scores = scores * self.row_scale[:, None]
        if self.column_scale is not None:
            scores = scores * self.column_scale
        scores = scores.view_as(weight).masked_fill(~self.mask, -1.0)
        self.mask = lowest_mask(scores, round(share * self.pruned), group_size=self.group_size)

    def forward(self, weight: Tensor) -> Tensor:
        # A product of floats with booleans is many times slower on a CPU.
        return weight * self.mask.to(weight.dtype)
