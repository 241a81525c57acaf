"""Floats ↔ integers on a uniform grid, one scale (and zero point) per group of columns."""

import torch
from torch import Tensor


def quantize(
    weight: Tensor,
    scale: Tensor,
    zero_point: Tensor | None,
    *,
    bits: int,
    group_size: int,
    midrise: bool = False,
    column_scale: Tensor | None = None,
) -> Tensor:
    """Round to the nearest grid point, ties to even; what lies outside the grid is clipped.

    Args:
        weight: (rows, columns).
        scale: (rows, columns / group_size), not negative. A zero scale stands for a group of
            zeros.
        zero_point: shape of `scale`, the code that stands for 0.0, whole or real; None for a
            symmetric grid.
        bits: width of a code: 2 to 16, or 1 to 15 with a zero point or midrise.
        group_size: columns that share a scale; divides the columns.
        midrise: the levels lie half a step off zero; without a zero point only.
        column_scale: (columns,), a factor on each column of the grid, not zero.
    Returns:
        (rows, columns) int16, within `code_range`.
    Raises:
        ValueError: `bits` or `group_size` does not fit.

    Example:
        >>> weight, scale = torch.tensor([[0.5, -1.6, 3.0, 90.0]]), torch.tensor([[0.5, 1.0]])
        >>> quantize(weight, scale, None, bits=4, group_size=2).tolist()
        [[1, -3, 3, 7]]
    """
    low, high = code_range(bits, symmetric=zero_point is None, midrise=midrise)
    step = scale.float().unsqueeze(-1)  # R G 1
    if column_scale is not None:
        weight = weight.float() / column_scale.float()
    levels = _grouped(weight, group_size).float() / torch.where(step == 0, 1.0, step)
    if zero_point is not None:
        levels = levels + zero_point.float().unsqueeze(-1)
    elif midrise:
        levels = levels - 0.5
    return levels.round().clamp(low, high).to(torch.int16).reshape(weight.shape)


def dequantize(
    codes: Tensor,
    scale: Tensor,
    zero_point: Tensor | None,
    *,
    group_size: int,
    midrise: bool = False,
    column_scale: Tensor | None = None,
) -> Tensor:
    """`codes · scale`, `(codes − zero_point) · scale` or, midrise, `(codes + ½) · scale`; all of it
    times `column_scale` where there is one. Differentiable in what is a float.

    Args:
        codes: (rows, columns), integers of any dtype.
        scale: (rows, columns / group_size), float16 or float32.
        zero_point: shape of `scale`, or None.
        group_size: columns that share a scale.
        midrise, column_scale: as in `quantize`.
    Returns:
        (rows, columns) float32, products of float32 numbers: the same bits everywhere.
    Raises:
        ValueError: `group_size` does not divide the columns.

    Example:
        >>> codes, scale = torch.tensor([[1, -3, 3, 7]]), torch.tensor([[0.5, 1.0]])
        >>> dequantize(codes, scale, None, group_size=2).tolist()
        [[0.5, -1.5, 3.0, 7.0]]
    """
    grouped = _grouped(codes, group_size)
    if zero_point is not None and zero_point.is_floating_point():
        grouped = grouped.float() - zero_point.float().unsqueeze(-1)
    elif zero_point is not None:
        grouped = grouped - zero_point.unsqueeze(-1)
    elif midrise:
        grouped = grouped.float() + 0.5
    values = (grouped.float() * scale.float().unsqueeze(-1)).reshape(codes.shape)
    return values if column_scale is None else values * column_scale.float()


def code_range(bits: int, *, symmetric: bool, midrise: bool = False) -> tuple[int, int]:
    """Smallest and largest code of a grid.

    ±(2^(bits−1) − 1) when symmetric, −2^(bits−1) to 2^(bits−1) − 1 when midrise, 0 to 2^bits − 1
    with a zero point.

    Args:
        bits: width of a code.
        symmetric: no zero point.
        midrise: levels lie half a step off zero.
    Raises:
        ValueError: no such grid fits 16 signed bits.
    """
    if midrise and not symmetric:
        raise ValueError("a midrise grid has no zero point")
    if not (2 <= bits <= 16 if symmetric and not midrise else 1 <= bits <= 15):
        raise ValueError(
            f"bits={bits} must lie in 2…16 for a symmetric grid, in 1…15 with a zero point or "
            "midrise"
        )
    if midrise:
        return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    if symmetric:
        return -(2 ** (bits - 1) - 1), 2 ** (bits - 1) - 1
    return 0, 2**bits - 1


def _grouped(matrix: Tensor, group_size: int) -> Tensor:
    rows, columns = matrix.shape
    if group_size < 1 or columns % group_size:
        raise ValueError(f"group_size={group_size} must divide the {columns} columns")
    return matrix.reshape(rows, columns // group_size, group_size)
