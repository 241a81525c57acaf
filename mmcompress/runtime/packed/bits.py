"""Small whole numbers side by side in bytes, as tensors that unpack where the model runs."""

import numpy as np
import torch
from torch import Tensor

WIDTHS = (1, 2, 4, 8)
"""Bits that a number may take in a byte: whole numbers of them fill it."""


def width_of(bits: int) -> int:
    """The least width in bits that holds a number of `bits` bits, 1 to 8.

    Example:
        >>> [width_of(bits) for bits in (1, 2, 3, 4, 5, 8)]
        [1, 2, 4, 4, 8, 8]
    """
    return next(width for width in WIDTHS if width >= bits)


def pack_rows(values: np.ndarray, width: int) -> Tensor:
    """Numbers (rows, n) of `width` bits in bytes: (rows, ⌈n · width / 8⌉) uint8, lowest bits first.

    Args:
        values: whole numbers from 0 to 2^width − 1.
        width: one of `WIDTHS`.
    """
    per_byte = 8 // width
    rows, count = values.shape
    padded = np.zeros((rows, -(-count // per_byte) * per_byte), np.uint8)
    padded[:, :count] = values
    parts = padded.reshape(rows, -1, per_byte) << np.arange(0, 8, width, dtype=np.uint8)
    return torch.from_numpy(np.bitwise_or.reduce(parts, axis=-1))


def unpack_rows(packed: Tensor, width: int, count: int) -> Tensor:
    """The numbers that `pack_rows` has packed: (rows, count) uint8.

    Args:
        packed: (rows, bytes) uint8.
        width: of a number, in bits.
        count: how many a row holds.

    Example:
        >>> unpack_rows(pack_rows(np.array([[1, 3, 0]]), 2), 2, 3).tolist()
        [[1, 3, 0]]
    """
    if width == 8:
        return packed
    shifts = torch.arange(0, 8, width, dtype=torch.uint8, device=packed.device)
    numbers = packed.unsqueeze(-1).bitwise_right_shift(shifts).bitwise_and_(2**width - 1)
    return numbers.flatten(-2)[:, :count]
