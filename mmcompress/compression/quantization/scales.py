"""Scales of groups, found from their weights.

`choose_scale` takes the one, among shrunken versions of the largest magnitude, that rounds with the
least squared error (the search of Banner et al. 2019, arXiv:1810.05723, by grid).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from mmcompress.compression.base import kept_mask
from mmcompress.compression.quantization.grid import Grid, as_scale

CANDIDATES = 31
"""Fractions of the full range that the search tries."""

CHUNK = 2**17
"""Weights that are searched at once, so that they stay in the cache."""


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
    rows = max(CHUNK // weight.shape[1], 1)
    counts = None if importance is None else grid.grouped(importance[None].float())
    fractions = torch.linspace(1.0, smallest_fraction(grid.bits), candidates).tolist()
    found = [
        _search(grid.grouped(part).float(), grid, counts, fractions) for part in weight.split(rows)
    ]
    scale = torch.cat([scale for scale, _ in found])
    zeros = [zero for _, zero in found if zero is not None]
    return scale, torch.cat(zeros) if zeros else None


def _range(groups: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """The lowest weight, zero included, and the scale that clips nothing: (R, G) each."""
    low, high = groups.amin(dim=-1).clamp(max=0), groups.amax(dim=-1).clamp(min=0)
    if grid.symmetric:
        return low, torch.maximum(-low, high) / grid.top
    return low, (high - low) / (2**grid.bits - 1)


def _search(
    groups: Tensor, grid: Grid, importance: Tensor | None, fractions: Sequence[float]
) -> tuple[Tensor, Tensor | None]:
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
    return best_scale, None if grid.symmetric else best_zero


def mean_magnitude(matrix: Tensor, *, group_size: int, per_tensor: bool = False) -> Tensor:
    """Mean |w| of each group over what an earlier mask has left; differentiable.

    Args:
        matrix: (rows, columns).
        group_size: columns of a group.
        per_tensor: one mean over everything, for every group.
    Returns:
        (rows, columns / group_size); zero where nothing is left.
    """
    groups = matrix.abs().reshape(len(matrix), -1, group_size)
    total = groups.sum(dim=-1)  # R G
    count = torch.full_like(total, group_size)
    if torch.count_nonzero(groups) < groups.numel():
        count = torch.count_nonzero(groups, dim=-1).to(total.dtype)
    if per_tensor:
        return (total.sum() / count.sum().clamp(min=1)).expand_as(total)
    return total / count.clamp(min=1)
