"""Small integers ↔ bytes close to their entropy: asymmetric numeral systems with a fixed table.

Coder: `constriction` ("Understanding Entropy Coding With Asymmetric Numeral Systems (ANS): a
Statistician's Perspective", Bamler 2022, arXiv:2201.01741). It comes within a few bytes of what an
ideal coder with the same table would need, also below one bit per code, where a code per bit
pattern (Huffman's, in Zstandard) cannot go.

A frame is the number of symbols k (uint16, at least 2), the table (k uint16: counts, scaled to at
most 65535, never 0), and the compressed words (uint32), all little-endian. Probabilities are ratios
of stored integers, so that every machine computes the same.
"""

import constriction
import numpy as np
import torch
from torch import Tensor

LARGEST_ALPHABET = 4096
"""Symbols; a larger table would cost more than it saves."""

MAX_EXPANSION = 2**19
"""No byte can hold more symbols: the likeliest has at most 65535 of 65536 parts, 2e-5 bits."""


def encode_symbols(symbols: Tensor) -> Tensor:
    """Symbols → one frame.

    Args:
        symbols: (n,) integers from 0; the largest is below `LARGEST_ALPHABET`.
    Returns:
        (length,) uint8.
    Raises:
        ValueError: a symbol is negative or too large.
    """
    values = symbols.numpy().astype(np.int32)
    if len(values) and not 0 <= values.min() <= values.max() < LARGEST_ALPHABET:
        raise ValueError(f"symbols must lie in 0…{LARGEST_ALPHABET - 1}")
    counts = np.bincount(values, minlength=2).astype(np.float64)
    table = np.maximum(counts * (65535 / max(counts.max(), 1)), 1).astype("<u2")
    coder = constriction.stream.stack.AnsCoder()
    coder.encode_reverse(values, _model(table))
    words = coder.get_compressed().astype("<u4")
    head = np.array([len(table)], dtype="<u2")
    frame = b"".join(part.tobytes() for part in (head, table, words))
    return torch.frombuffer(bytearray(frame), dtype=torch.uint8)


def check_length(length: int, count: int) -> None:
    """Refuse a frame before anything is allocated for what it holds.

    Raises:
        ValueError: a frame of `length` bytes cannot hold `count` symbols.
    """
    if count > length * MAX_EXPANSION:
        raise ValueError(f"an entropy coded frame of {length} bytes cannot hold {count} symbols")


def decode_symbols(frame: Tensor, count: int, alphabet: int) -> Tensor:
    """The inverse: (count,) int32.

    Args:
        frame: (length,) uint8.
        count: how many symbols it must hold.
        alphabet: how many different symbols make sense.
    Raises:
        ValueError: the frame is damaged, or holds many more or fewer symbols. (A few too many or
            too few the code itself cannot tell.)
    """
    check_length(len(frame), count)
    data = frame.numpy().tobytes()
    size = int.from_bytes(data[:2], "little")
    begin = 2 + 2 * size
    if not 2 <= size <= alphabet or len(data) < begin or (len(data) - begin) % 4:
        raise ValueError(f"its frame of {len(data)} bytes holds no table of {size} symbols")
    table = np.frombuffer(data, dtype="<u2", count=size, offset=2)
    words = np.frombuffer(data, dtype="<u4", offset=begin).astype(np.uint32)
    if not table.all():
        raise ValueError("its table gives a symbol no probability")
    try:
        coder = constriction.stream.stack.AnsCoder(words)
    except ValueError as error:
        raise ValueError(f"its words are no code ({error})") from error
    values = np.asarray(coder.decode(_model(table), count), dtype=np.int32)
    if not coder.is_empty():
        raise ValueError(f"its frame does not hold the {count} symbols expected")
    return torch.from_numpy(values)


def _model(table: np.ndarray) -> constriction.stream.model.Categorical:
    probabilities = table.astype(np.float64) / table.sum(dtype=np.float64)
    return constriction.stream.model.Categorical(probabilities.astype(np.float32), perfect=False)
