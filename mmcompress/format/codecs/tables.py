"""Symbol counts ↔ the bytes of a probability table.

An entry b of one byte stands for the weight (16 + b mod 16) · 2^(b div 16), a small float of four
bits of exponent and four of mantissa. A step is at most a sixteenth, which costs some 10⁻⁴ bits per
symbol against exact probabilities. Weights are integers, so every machine reads the same ones.
Entries of symbols that never occur are left out: one bit each says which are there.
"""

import numpy as np

LARGEST_WEIGHT = 31 << 15


def to_entries(counts: np.ndarray) -> np.ndarray:
    """Counts → the entries whose weights are nearest to them, the largest scaled to the largest.

    Args:
        counts: (tables, symbols), not negative.
    Returns:
        (tables, symbols) uint8; those of counts that are zero mean nothing.
    """
    scaled = counts * (LARGEST_WEIGHT / np.maximum(counts.max(axis=1, keepdims=True), 1))
    exponent = np.floor(np.log2(np.maximum(scaled, 16) / 16)).clip(0, 15)
    # A mantissa that is rounded up to 32 is the next exponent's 16.
    return (exponent * 16 + np.rint(scaled / 2**exponent) - 16).clip(0, 255).astype(np.uint8)


def to_weights(entries: np.ndarray, present: np.ndarray) -> np.ndarray:
    """The integers that entries stand for, int64; 0 where nothing is present.

    Example:
        >>> to_weights(np.array([0, 15, 16, 255]), np.array([True, True, True, True])).tolist()
        [16, 31, 32, 1015808]
    """
    wide = entries.astype(np.int64)
    return np.where(present, (16 + wide % 16) << (wide // 16), 0)


def coded_size(counts: np.ndarray) -> float:
    """Bytes that symbols and tables take together, an ideal coder given.

    Args:
        counts: (tables, symbols): how often each table is used for each symbol.
    """
    present = counts > 0
    weights = to_weights(to_entries(counts), present).astype(np.float64)
    total = np.maximum(weights.sum(axis=1, keepdims=True), 1)
    bits = counts * np.log2(total / np.where(present, weights, total))
    return float(bits.sum() / 8 + present.sum() + counts.size / 8)


def pack_tables(counts: np.ndarray) -> np.ndarray:
    """Which entries are present, a bit each, and those that are.

    Args:
        counts: (tables, symbols).
    Returns:
        (length,) uint8.
    """
    present = counts > 0
    return np.concatenate([np.packbits(present), to_entries(counts)[present]])


def unpack_tables(data: np.ndarray, tables: int, symbols: int) -> tuple[np.ndarray, int]:
    """The inverse of `pack_tables`.

    Args:
        data: (length,) uint8, begins with the tables.
    Returns:
        Weights (tables, symbols) int64; how many bytes they took.
    Raises:
        ValueError: there are fewer bytes than that.
    """
    bits = (tables * symbols + 7) // 8
    flags = np.unpackbits(data[:bits])[: tables * symbols].astype(bool)
    used = bits + int(flags.sum())
    if len(data) < used or len(flags) < tables * symbols:
        raise ValueError(f"its {len(data)} bytes hold no {tables} tables of {symbols} symbols")
    entries = np.zeros(tables * symbols, np.uint8)
    entries[flags] = data[bits:used]
    return to_weights(entries, flags).reshape(tables, symbols), used
