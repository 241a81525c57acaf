"""Bytes ↔ one Zstandard frame that states its content size."""

import numpy as np
import zstandard

LEVELS = (1, 9)
"""Most of what is stored holds no long repeats, and level 19 makes of it what level 1 does (within
0.3 %) 100 to 500 times slower; level 9 is there for the rare weight that does repeat itself."""

SMALL = 2**14
"""Bytes up to which both levels are tried."""

REPEATS = 0.98
"""Share of the bytes that a code for each byte would take; the first level is below it where there
are repeats, and then the other one is tried too."""

MAX_EXPANSION = 2**15
"""No frame can hold more: a block takes 4 bytes and yields at most 128 KiB."""

HEADER_BYTES = 18
"""Longest frame header."""


def compress(data: np.ndarray) -> np.ndarray:
    """Bytes → one frame, both (length,) uint8."""
    content = data.tobytes()
    frame = zstandard.ZstdCompressor(level=LEVELS[0]).compress(content)
    if len(data) <= SMALL or len(frame) < REPEATS * entropy(data):
        frame = min(frame, zstandard.ZstdCompressor(level=LEVELS[1]).compress(content), key=len)
    return np.frombuffer(frame, np.uint8)


def entropy(data: np.ndarray) -> float:
    """Bytes that an ideal code for each byte by itself would take, its table left out.

    Example:
        >>> entropy(np.arange(256, dtype=np.uint8))
        256.0
    """
    counts = np.bincount(data, minlength=256)
    counts = counts[counts > 0]
    return float(counts @ np.log2(max(len(data), 1) / counts)) / 8


def check_frame(header: np.ndarray, length: int, expected: int) -> None:
    """Refuse a frame before anything is allocated for what it holds.

    Args:
        header: (at least 18 or all,) uint8, how the frame begins.
        length: of the whole frame, in bytes.
        expected: bytes that it must hold.
    Raises:
        ValueError: not a frame, not that many bytes, or more than a frame of that length can hold.
    """
    try:
        stated = zstandard.get_frame_parameters(header.tobytes()).content_size
    except zstandard.ZstdError as error:
        raise ValueError(f"it is no Zstandard frame ({error})") from error
    if stated != expected:
        raise ValueError(f"its frame states {stated} bytes where {expected} are expected")
    if expected > length * MAX_EXPANSION:
        raise ValueError(f"a frame of {length} bytes cannot hold {expected}")


def decompress(frame: np.ndarray, count: int) -> np.ndarray:
    """The inverse of `compress`: (count,) uint8.

    Args:
        frame: (length,) uint8.
        count: how many bytes are expected.
    Raises:
        ValueError: the frame is damaged, or holds another number of bytes.
    """
    check_frame(frame[:HEADER_BYTES], len(frame), count)
    try:
        data = zstandard.ZstdDecompressor().decompress(
            frame.tobytes(), max_output_size=count, allow_extra_data=False
        )
    except zstandard.ZstdError as error:
        raise ValueError(f"its Zstandard frame is damaged ({error})") from error
    if len(data) != count:
        raise ValueError(f"its frame holds {len(data)} bytes where {count} are expected")
    return np.frombuffer(data, np.uint8)
