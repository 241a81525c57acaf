"""Scales of groups, found from their weights.

`choose_scale` takes the one, among shrunken versions of the largest magnitude, that rounds with the
least squared error (the search of Banner et al. 2019, arXiv:1810.05723, by grid).
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mmcompress.compression.base import kept_mask
from mmcompress.compression.quantization.grid import Grid, as_scale
from mmcompress.compression.quantization.rows import by_rows

CANDIDATES = 31
"""Fractions of the full range that the search tries."""


def smallest_fraction(bits: int) -> float:
    """Where the search ends: with few levels, clipping the tails pays more."""
    return 0.4 if bits > 3 else 0.2


def choose_scale(
    weight: Tensor,
    grid: Grid,
    *,
    importance: Tensor | None = None,
    candidates: int = CANDIDATES,
) -> tuple[Tensor, Tensor | None]:
    """The scale (and zero point) of each group with the least squared rounding error.

    Args:
        weight: (rows, columns).
        importance: (columns,), what the squared error of a column counts; all alike when None.
        candidates: fractions of the full range that are tried, evenly spaced from 1 down.
        grid: with a zero point, zero lies on it; with `midrise`, weights that are zero have been
            pruned and do not count.
    Returns:
        scale (rows, columns / group_size) float16, the precision that is stored; zero point of
        the same shape, uint8, or None when symmetric.
    """
    counts = None if importance is None else grid.grouped(importance[None].float())
    fractions = torch.linspace(1.0, smallest_fraction(grid.bits), candidates).tolist()

    def search(rows: Tensor) -> tuple[Tensor, ...]:
        return _search(grid.grouped(rows).float(), grid, counts, fractions)

    scale, *zero_point = by_rows(search, weight)
    return scale, zero_point[0] if zero_point else None


def _range(groups: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """The lowest weight, zero included, and the scale that clips nothing: (R, G) each."""
    low, high = groups.amin(dim=-1).clamp(max=0), groups.amax(dim=-1).clamp(min=0)
    if grid.symmetric:
        return low, torch.maximum(-low, high) / grid.top
    return low, (high - low) / (2**grid.bits - 1)


def _search(
    groups: Tensor, grid: Grid, importance: Tensor | None, fractions: Sequence[float]
) -> tuple[Tensor, ...]:
    """`choose_scale` of weights (rows, groups, group_size), importance (1, groups, group_size)."""
    low, full = _range(groups, grid)
    counted = kept_mask(groups) if grid.midrise else None
    best_error = torch.full_like(full, torch.inf)
    best_scale = torch.ones_like(full, dtype=torch.float16)
    best_zero = torch.zeros_like(full, dtype=torch.uint8)
    for fraction in fractions:
        scale = as_scale(full * fraction)
        step = scale.float()
        zero, points = None, None
        if not grid.symmetric:
            zero = (-low * fraction / step).round().clamp(0, 2**grid.bits - 1)
            points = zero[..., None]
        error = grid.nearest(groups, step[..., None], points).sub_(groups).square_()
        if counted is not None:
            error *= counted
        if importance is not None:
            error *= importance
        error = error.sum(dim=-1)
        better = error < best_error
        best_error = torch.where(better, error, best_error)
        best_scale = torch.where(better, scale, best_scale)
        if zero is not None:
            best_zero = torch.where(better, zero.to(torch.uint8), best_zero)
    return (best_scale,) if grid.symmetric else (best_scale, best_zero)


class Magnitudes(torch.autograd.Function):
    """Per group of a matrix, the sum of |w| and how many are not zero."""

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, group_size: int) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(matrix)

        def totals(matrix: Tensor) -> tuple[Tensor, Tensor]:
            groups = matrix.abs().reshape(len(matrix), -1, group_size)
            return groups.sum(dim=-1), groups.sign_().sum(dim=-1)  # R G each

        total, count = by_rows(totals, matrix)
        ctx.mark_non_differentiable(count)
        return total, count

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        def slopes(matrix: Tensor, of_total: Tensor) -> tuple[Tensor]:
            signs = matrix.reshape(*of_total.shape, -1).sign()
            return (signs.mul_(of_total[..., None]).view_as(matrix),)

        return by_rows(slopes, *ctx.saved_tensors, gradients[0])[0], None


def mean_magnitude(matrix: Tensor, *, group_size: int, per_tensor: bool = False) -> Tensor:
    """Mean |w| of each group over what an earlier mask has left; differentiable.

    Args:
        matrix: (rows, columns).
        group_size: columns of a group.
        per_tensor: one mean over everything, for every group.
    Returns:
        (rows, columns / group_size); zero where nothing is left.
    """
    total, count = Magnitudes.apply(matrix, group_size)
    if per_tensor:
        return (total.sum() / count.sum().clamp(min=1)).expand_as(total)
    return total / count.clamp(min=1)
