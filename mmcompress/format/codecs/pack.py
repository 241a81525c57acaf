"""Integers of a few bits ↔ bytes with no gap between them.

The stream is little-endian: bit j of code i is bit `i · bits + j`, and bit b of the stream is bit
`b mod 8` of byte `b div 8`. Signed codes are first shifted by 2^(bits−1), so that −2^(bits−1)
becomes 0.
"""

import numpy as np
import torch
from torch import Tensor

CHUNK = 2**18
"""Codes that are spread out into bits at once; a multiple of 8, so that chunks end on bytes."""

WHOLE = {8: "u1", 16: "<u2"}
"""Bits of codes that are whole bytes, and these as numpy has them: nothing is spread out."""


def packed_length(count: int, bits: int) -> int:
    """Bytes that `count` codes take."""
    return (count * bits + 7) // 8


def pack(codes: Tensor, *, bits: int, signed: bool = False) -> Tensor:
    """Codes → bytes.

    Args:
        codes: (n,), integers from 0 to 2^bits − 1, or −2^(bits−1) to 2^(bits−1) − 1 when signed.
        bits: 1 to 16.
        signed: shift the codes first.
    Returns:
        (⌈n · bits / 8⌉,) uint8; unused bits at the end are 0.
    Raises:
        ValueError: a code does not fit.

    Example:
        >>> pack(torch.tensor([1, 2, 3]), bits=4).tolist()
        [33, 3]
    """
    values = codes.numpy().astype(np.int32) + _offset(bits, signed)
    if len(values) and not 0 <= values.min() <= values.max() < 2**bits:
        raise ValueError(f"codes from {codes.min()} to {codes.max()} do not fit {bits} bits")
    if bits in WHOLE:
        return torch.from_numpy(values.astype(WHOLE[bits]).view(np.uint8))
    places = np.arange(bits, dtype=np.int32)
    chunks = [
        np.packbits(((values[start : start + CHUNK, None] >> places) & 1), bitorder="little")
        for start in range(0, len(values), CHUNK)
    ]
    return torch.from_numpy(np.concatenate([np.zeros(0, np.uint8), *chunks]))


def unpack(packed: Tensor, count: int, *, bits: int, signed: bool = False) -> Tensor:
    """The inverse of `pack`: (count,) int32.

    Args:
        packed: (⌈count · bits / 8⌉,) uint8.
    Raises:
        ValueError: the length is wrong, or an unused bit is set.
    """
    if len(packed) != packed_length(count, bits):
        raise ValueError(f"{len(packed)} bytes cannot be {count} codes of {bits} bits")
    data = packed.numpy()
    unused = len(packed) * 8 - count * bits
    if unused and data[-1] >> (8 - unused):
        raise ValueError("unused bits after the last code are set")
    if bits in WHOLE:
        return torch.from_numpy(data.view(WHOLE[bits]).astype(np.int32) - _offset(bits, signed))
    weights = 1 << np.arange(bits, dtype=np.int32)
    values = np.empty(count, np.int32)
    for start in range(0, count, CHUNK):
        length = min(CHUNK, count - start)
        first = start * bits // 8
        chunk = data[first : first + packed_length(length, bits)]
        spread = np.unpackbits(chunk, count=length * bits, bitorder="little")
        values[start : start + length] = spread.reshape(length, bits) @ weights
    return torch.from_numpy(values - _offset(bits, signed))


def _offset(bits: int, signed: bool) -> int:
    if not 1 <= bits <= 16:
        raise ValueError(f"bits={bits} must lie in 1…16")
    return 2 ** (bits - 1) if signed else 0
