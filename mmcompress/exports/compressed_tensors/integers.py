"""Stored codes as the signed integers of compressed-tensors: `codes · scale`, and nothing else.

No code is rounded again. A grid with whole zero points, or half a step off zero, has the same
levels as integers of one more bit, which the format holds too.
"""

from dataclasses import dataclass

import numpy as np

from mmcompress.exports.onnx.grids import Grid, grid_of
from mmcompress.format.reader import StoredWeight

MOST_BITS = 8


@dataclass(frozen=True)
class Integers:
    """A matrix (rows, columns) as `codes · scale`.

    Attributes:
        codes: (rows, columns) int8, of −2^(bits−1) to 2^(bits−1) − 1.
        scale: (rows, groups), float16 where that is exact, else float32.
        bits: of a code.
        group_size: columns that share a scale; None where a row has one.
    """

    codes: np.ndarray
    scale: np.ndarray
    bits: int
    group_size: int | None


def integers_of(stored: StoredWeight) -> Integers | str:
    """The integers that decode to exactly what is stored, or in words why there are none.

    A weight that a mask drops is the code 0.
    """
    grid = grid_of(stored)
    if grid is None:
        return f"{stored.codec} is no grid of integers"
    if grid.column_scale is not None:
        return "a scale for each column"
    centered = _centered(grid)
    if centered is None:
        return "zero points that are no whole numbers"
    levels, scale = centered
    # Of its kind: weights of one recipe then have codes of one width, whatever their values.
    symmetric = stored.zero_point is None and (stored.settings or {}).get("grid") != "midrise"
    bits = stored.bits if symmetric else stored.bits + 1
    needed = _bits(int(levels.min()), int(levels.max()))
    if bits > MOST_BITS:
        bits = needed
    if bits > MOST_BITS:
        return f"{bits}-bit integers"
    assert needed <= bits, f"{stored.name}: codes of {needed} bits in {bits}"
    with np.errstate(over="ignore"):
        halves = scale.astype(np.float16)
    exact = np.array_equal(halves.astype(np.float32), scale)
    group_size = None if grid.per_row else grid.group_size
    return Integers(levels.astype(np.int8), halves if exact else scale, bits, group_size)


def _centered(grid: Grid) -> tuple[np.ndarray, np.ndarray] | None:
    """Levels around zero, and their scale; None where a zero point lies between half steps."""
    if grid.zero_point is None:
        return grid.levels, grid.scale
    points = np.repeat(grid.zero_point, grid.group_size, axis=1)
    if not grid.is_real:
        return grid.levels - points, grid.scale
    twice = np.rint(2 * points)
    if not np.array_equal(twice, 2 * points):
        return None
    return 2 * grid.levels - twice.astype(np.int32), grid.scale / np.float32(2)


def _bits(low: int, high: int) -> int:
    """The least width, from 2, of a signed integer that holds both.

    Example:
        >>> _bits(-2, 1), _bits(-1, 2), _bits(0, 128)
        (2, 3, 9)
    """
    return max(2, 1 + max(high.bit_length(), (-low - 1).bit_length() if low < 0 else 0))
