"""Masks: which weights of a tensor are kept, given a score for each.

Every pattern is one rule, "drop the `pruned` weights of lowest score in each group": the group is
the tensor, a row of it (Wanda), or M neighbors in a row (N:M, of which at most N are kept).
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmcompress.compression.base import Parametrization

NEAR = 0.02
"""How far a threshold may have moved, as a share of itself, for a guess to pay."""


def lowest_mask(scores: Tensor, pruned: int, *, group_size: int | None = None) -> Tensor:
    """Keep all but the `pruned` weights of lowest score in each group; ties fall in memory order.

    Args:
        scores: any shape.
        pruned: how many to drop in a group, at most all.
        group_size: neighbors in memory order that are compared; the tensor when None.
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
    return keep_above(groups, kth_smallest(groups, pruned), pruned).view_as(scores)


def keep_above(groups: Tensor, threshold: Tensor, pruned: int) -> Tensor:
    """Where scores lie above the threshold, and as many that tie with it as are not to go.

    Args:
        groups: (groups, size).
        threshold: (groups, 1), the highest score that is dropped.
        pruned: how many to drop in a group.
    Returns:
        bool, shape of `groups`.
    """
    if _numpy_is_faster(groups):
        kept = torch.from_numpy(groups.numpy() > threshold.numpy())
        counts = np.count_nonzero(kept.numpy(), axis=None if len(kept) == 1 else 1)
        missing = groups.shape[1] - pruned - torch.as_tensor(counts).reshape(-1, 1)
    else:
        kept = groups > threshold
        missing = groups.shape[1] - pruned - kept.sum(dim=1, keepdim=True)
    if missing.any():
        tied = groups == threshold
        last = tied.sum(dim=1, keepdim=True) - missing
        kept |= tied & (tied.cumsum(dim=1) > last)
    return kept


def kth_smallest(groups: Tensor, k: int) -> Tensor:
    """The k-th smallest value of each row, k from 1: (rows, 1).

    Args:
        groups: (rows, columns).
        k: at most the columns.
    """
    if not _numpy_is_faster(groups):
        return groups.kthvalue(k, dim=1, keepdim=True).values
    return torch.from_numpy(np.partition(groups.numpy(), k - 1, axis=1)[:, k - 1, None])


def kth_smallest_near(groups: Tensor, k: int, guess: float) -> Tensor | None:
    """`kth_smallest` of one row, sought close to a guess; None when it does not lie there.

    Args:
        groups: (1, columns).
        k: from 1, at most the columns.
    Returns:
        (1, 1).
    """
    low, high = guess - NEAR * abs(guess), guess + NEAR * abs(guess)
    if _numpy_is_faster(groups):
        values = groups.numpy()
        above = values >= low
        around = torch.from_numpy(values[above & (values <= high)])
        below = above.size - int(np.count_nonzero(above))
    else:
        around = groups[(groups >= low) & (groups <= high)]
        below = int((groups < low).count_nonzero())
    if not 0 < k - below <= len(around):
        return None
    return kth_smallest(around[None], k - below)


def _numpy_is_faster(values: Tensor) -> bool:
    """On a CPU NumPy compares, counts and selects several times as fast as torch does."""
    return values.device.type == "cpu" and values.dtype == torch.float32


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
        "file: at most N of M neighbors are kept; null for none"
    )


class Masked(torch.autograd.Function):
    """W ⊙ M; scores S that have led to M get the gradient ∂L/∂W' ⊙ W.

    Of its own, for a training step allocates half as much as with the products written out.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, mask: Tensor, scores: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight if scores is not None else None, mask)
        # A product of floats with booleans is many times slower on a CPU.
        return mask.to(weight.dtype).mul_(weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,), (weight, mask) = gradients, ctx.saved_tensors
        of_weight = mask.to(gradient.dtype).mul_(gradient) if ctx.needs_input_grad[0] else None
        return of_weight, None, None if weight is None else gradient * weight


class Mask(Parametrization):
    """Parametrization W → W ⊙ M, the mask made from scores |W| · row_scale · column_scale.

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
        self._followed: float | None = None
        """Share at the last move of the schedule."""
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

    def follow_schedule(self, weight: Tensor, share: float) -> None:
        """`prune` where the share that is due has changed."""
        if share != self._followed:
            self.prune(weight, share)
            self._followed = share

    def forward(self, weight: Tensor) -> Tensor:
        return Masked.apply(weight, self.mask, None)
