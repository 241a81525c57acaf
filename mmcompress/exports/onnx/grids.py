"""Stored codes in the bytes that `com.microsoft.MatMulNBits` and `MatMulInteger` take.

No code is rounded again: a grid either fits a container exactly, or does not fit it.
"""

from dataclasses import dataclass

import numpy as np

from mmcompress.format.codecs.quantize import Quantize
from mmcompress.format.reader import StoredWeight

WIDTHS = (2, 4, 8)
"""Bits of a code for which ONNX Runtime has a kernel on the CPU."""

LEAST_BLOCK = 16
"""Columns that share a scale, at least; it is a power of two."""


@dataclass(frozen=True)
class Grid:
    """A matrix (rows, columns) as whole numbers, `(levels − zero point) · scale`.

    Attributes:
        levels: (rows, columns) int32.
        zero_point: (rows, groups), whole or real numbers; None for 0.
        scale: (rows, groups) float32.
        group_size: columns that share a scale.
        column_scale: (columns,) float32, a factor on each column; None for none.
    """

    levels: np.ndarray
    zero_point: np.ndarray | None
    scale: np.ndarray
    group_size: int
    column_scale: np.ndarray | None

    @property
    def is_real(self) -> bool:
        """Whether zero points are no whole numbers."""
        return self.zero_point is not None and self.zero_point.dtype.kind == "f"

    @property
    def per_row(self) -> bool:
        """Whether a row has one scale."""
        return self.group_size == self.levels.shape[1]


def grid_of(stored: StoredWeight) -> Grid | None:
    """The grid that a weight is stored on; None where it is on none, or needs its mask.

    Levels half a step off zero, `(code + ½) · scale`, are `(2 · code + 1) · scale / 2`, so that a
    weight that a mask drops is level 0. Those of 4 bits would need 5, and have a zero point of 7½
    where nothing is dropped.
    """
    if not isinstance(stored.chain and stored.chain.values, Quantize) or stored.scale is None:
        return None
    levels, scale = stored.codes.astype(np.int32), stored.scale.astype(np.float32)
    mask = None if stored.mask is None else stored.mask.reshape(levels.shape)
    zero_point, columns = stored.zero_point, stored.column_scale
    if zero_point is not None and zero_point.dtype.kind == "f":
        if mask is not None and not mask.all():
            return None  # no level is 0.0
        zero_point = zero_point.astype(np.float32)
    elif zero_point is not None:
        zero_point = zero_point.astype(np.int32)
        dropped = np.repeat(zero_point, stored.group_size, axis=1)
        levels = levels if mask is None else np.where(mask, levels, dropped)
    elif (stored.settings or {}).get("grid") == "midrise":
        if stored.bits == 4 and mask is None:
            levels, zero_point = levels + 8, np.full(scale.shape, 7.5, np.float32)
        else:
            levels, scale = 2 * levels + 1, scale / np.float32(2)
            levels = levels if mask is None else np.where(mask, levels, 0)
    columns = None if columns is None else columns.astype(np.float32)
    return Grid(levels, zero_point, scale, stored.group_size, columns)


@dataclass(frozen=True)
class Blocks:
    """What `com.microsoft.MatMulNBits` reads.

    Attributes:
        bits: of a code.
        block_size: columns that share a scale.
        codes: (rows, blocks, block_size · bits / 8) uint8, lowest bits first.
        scale: (rows, blocks) float32.
        zero_point: (rows, ⌈blocks · bits / 8⌉) uint8, or (rows, blocks) float32; None for the
            middle of the codes.
    """

    bits: int
    block_size: int
    codes: np.ndarray
    scale: np.ndarray
    zero_point: np.ndarray | None


def to_blocks(grid: Grid) -> Blocks | None:
    """The grid in blocks of 2, 4 or 8 bits; None where it does not fit."""
    block_size = _block_size(grid)
    found = to_codes(grid)
    if block_size is None or found is None:
        return None
    codes, zero_point, bits = found
    rows, columns = codes.shape
    blocks = -(-columns // block_size)
    padded = np.zeros((rows, blocks * block_size), np.uint8)
    padded[:, :columns] = codes
    per_group = blocks if grid.per_row else grid.group_size // block_size
    scale = np.repeat(grid.scale, per_group, axis=1)
    points = None
    if not np.isscalar(zero_point):
        points = np.repeat(zero_point, per_group, axis=1)
    elif zero_point != 2 ** (bits - 1):
        points = np.full((rows, blocks), zero_point, np.uint8)
    if points is not None and points.dtype.kind != "f":
        points = pack_rows(points.astype(np.uint8), bits)
    packed = pack_rows(padded, bits).reshape(rows, blocks, -1)
    return Blocks(bits, block_size, packed, scale, points)


def to_bytes(grid: Grid) -> tuple[np.ndarray, np.ndarray | None] | None:
    """The levels as int8 with one scale for a row, and zero points (rows,) int8 where there are
    any; None where they do not fit."""
    if not grid.per_row or grid.is_real:
        return None
    if grid.zero_point is None:
        fits = grid.levels.min() >= -128 and grid.levels.max() <= 127
        return (grid.levels.astype(np.int8), None) if fits else None
    if grid.levels.max() > 255:
        return None
    points = grid.zero_point[:, 0]
    return (grid.levels - 128).astype(np.int8), (points - 128).astype(np.int8)


def pack_rows(codes: np.ndarray, bits: int) -> np.ndarray:
    """Codes of 1, 2, 4 or 8 bits in bytes, row by row, lowest bits first.

    Args:
        codes: (rows, columns) uint8.
    Returns:
        (rows, ⌈columns · bits / 8⌉) uint8.

    Example:
        >>> pack_rows(np.array([[1, 2, 3]], np.uint8), 4).tolist()
        [[33, 3]]
    """
    per_byte = 8 // bits
    rows, columns = codes.shape
    padded = np.zeros((rows, -(-columns // per_byte) * per_byte), np.uint8)
    padded[:, :columns] = codes
    packed = np.zeros((rows, padded.shape[1] // per_byte), np.uint8)
    for place in range(per_byte):
        packed |= padded[:, place::per_byte] << np.uint8(place * bits)
    return packed


def _block_size(grid: Grid) -> int | None:
    """The power of two that takes the fewest bytes."""
    columns = grid.levels.shape[1]
    if not grid.per_row:
        largest = grid.group_size & -grid.group_size
        return largest if largest >= LEAST_BLOCK else None
    sizes = [2**power for power in range(4, 9)]
    # A block is padded to its end, one byte or less a code; its scale has four.
    return min(sizes, key=lambda size: -(-columns // size) * (size + 4))


def to_codes(grid: Grid) -> tuple[np.ndarray, int | np.ndarray, int] | None:
    """Codes from 0, zero points, and bits, the least that there is a kernel for."""
    low, high = int(grid.levels.min(initial=0)), int(grid.levels.max(initial=0))
    if grid.zero_point is None:
        bits = _bits(high - low)
        if bits is None:
            return None
        half = 2 ** (bits - 1)
        zero = half if -half <= low and high < half else -low
        return (grid.levels + zero).astype(np.uint8), zero, bits
    bits = _bits(high if grid.is_real else max(high, int(grid.zero_point.max(initial=0))))
    if bits is None or (grid.is_real and bits == 8):  # which has no kernel
        return None
    return grid.levels.astype(np.uint8), grid.zero_point, bits


def _bits(high: int) -> int | None:
    return next((bits for bits in WIDTHS if high < 2**bits), None)
