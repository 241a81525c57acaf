"""Floats ↔ integers on a uniform grid, one scale (and zero point) per group of columns."""

import torch
from torch import Tensor


def quantise(
    weight: Tensor, scale: Tensor, zero_point: Tensor | None, *, bits: int, group_size: int
) -> Tensor:
    """Round to the nearest grid point, ties to even; what lies outside the grid is clipped.

    Args:
        weight: (rows, columns).
        scale: (rows, columns / group_size), not negative. A zero scale stands for a group of
            zeros.
        zero_point: shape of `scale`, the code that stands for 0.0; None for a symmetric grid.
        bits: width of a code: 2 to 16, or 1 to 15 with a zero point.
        group_size: columns that share a scale; divides the columns.
    Returns:
        (rows, columns) int16: from −(2^(bits−1) − 1) to 2^(bits−1) − 1 when symmetric, else from
        0 to 2^bits − 1.
    Raises:
        ValueError: `bits` or `group_size` does not fit.

    Example:
        >>> weight, scale = torch.tensor([[0.5, -1.6, 3.0, 90.0]]), torch.tensor([[0.5, 1.0]])
        >>> quantise(weight, scale, None, bits=4, group_size=2).tolist()
        [[1, -3, 3, 7]]
    """
    low, high = code_range(bits, symmetric=zero_point is None)
    step = scale.float().unsqueeze(-1)  # R G 1
    levels = _grouped(weight, group_size).float() / torch.where(step == 0, 1.0, step)
    if zero_point is not None:
        levels = levels + zero_point.float().unsqueeze(-1)
    return levels.round().clamp(low, high).to(torch.int16).reshape(weight.shape)


def dequantise(
    codes: Tensor, scale: Tensor, zero_point: Tensor | None, *, group_size: int
) -> Tensor:
    """`codes · scale`, or `(codes − zero_point) · scale`; differentiable in what is a float.

    Args:
        codes: (rows, columns), integers of any dtype.
        scale: (rows, columns / group_size), float16 or float32.
        zero_point: shape of `scale`, or None.
        group_size: columns that share a scale.
    Returns:
        (rows, columns) float32, the product of two float32 numbers: the same bits everywhere.
    Raises:
        ValueError: `group_size` does not divide the columns.

    Example:
        >>> codes, scale = torch.tensor([[1, -3, 3, 7]]), torch.tensor([[0.5, 1.0]])
        >>> dequantise(codes, scale, None, group_size=2).tolist()
        [[0.5, -1.5, 3.0, 7.0]]
    """
    grouped = _grouped(codes, group_size)
    if zero_point is not None:
        grouped = grouped - zero_point.unsqueeze(-1)
    return (grouped.float() * scale.float().unsqueeze(-1)).reshape(codes.shape)


def code_range(bits: int, *, symmetric: bool) -> tuple[int, int]:
    """Smallest and largest code.

    Raises:
        ValueError: no such grid fits 16 signed bits.
    """
    if not (2 <= bits <= 16 if symmetric else 1 <= bits <= 15):
        raise ValueError(
            f"bits={bits} must lie in 2…16 for a symmetric grid, in 1…15 with a zero point"
        )
    if symmetric:
        return -(2 ** (bits - 1) - 1), 2 ** (bits - 1) - 1
    return 0, 2**bits - 1


def _grouped(matrix: Tensor, group_size: int) -> Tensor:
    rows, columns = matrix.shape
    if group_size < 1 or columns % group_size:
        raise ValueError(f"group_size={group_size} must divide the {columns} columns")
    return matrix.reshape(rows, columns // group_size, group_size)
