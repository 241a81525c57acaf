"""Bytes ↔ one Zstandard frame that states its content size.

Numbers of several bytes are compressed plane by plane, all lowest bytes first: bytes of like
meaning then stand together, which makes float16 scales 12 % and float32 weights 8 % smaller than
compressing them as they lie.
"""

import torch
import zstandard
from torch import Tensor

LEVELS = (1, 9)
"""Tried in turn, the smaller result wins. On codes, which hold no long repeats, level 1 is an
entropy coder and level 19 gives the same size (within 0.3 %) 100 to 500 times slower; level 9 is
there for the rare weight that does repeat itself."""

MAX_EXPANSION = 2**15
"""No frame can hold more: a block takes 4 bytes and yields at most 128 KiB."""

HEADER_BYTES = 18
"""Longest frame header."""


def compress(values: Tensor) -> Tensor:
    """A tensor's bytes → one frame.

    Args:
        values: any shape and dtype; contiguous, on the CPU.
    Returns:
        (length,) uint8.
    """
    width = values.element_size()
    planes = values.reshape(-1).view(torch.uint8).reshape(-1, width).T.contiguous()
    data = planes.numpy().tobytes()
    frames = [zstandard.ZstdCompressor(level=level).compress(data) for level in LEVELS]
    return torch.frombuffer(bytearray(min(frames, key=len)), dtype=torch.uint8)


def check_frame(header: Tensor, length: int, expected: int) -> None:
    """Refuse a frame before anything is allocated for what it holds.

    Args:
        header: (at least 18 or all,) uint8, how the frame begins.
        length: of the whole frame, in bytes.
        expected: bytes that it must hold.
    Raises:
        ValueError: not a frame, not that many bytes, or more than a frame of that length can hold.
    """
    try:
        stated = zstandard.get_frame_parameters(header.numpy().tobytes()).content_size
    except zstandard.ZstdError as error:
        raise ValueError(f"it is no Zstandard frame ({error})") from error
    if stated != expected:
        raise ValueError(f"its frame states {stated} bytes where {expected} are expected")
    if expected > length * MAX_EXPANSION:
        raise ValueError(f"a frame of {length} bytes cannot hold {expected}")


def decompress(frame: Tensor, dtype: torch.dtype, count: int) -> Tensor:
    """The inverse of `compress`: (count,) of `dtype`.

    Args:
        frame: (length,) uint8.
        dtype: of the values.
        count: how many values are expected.
    Raises:
        ValueError: the frame is damaged, or holds another number of bytes.
    """
    width = dtype.itemsize
    check_frame(frame[:HEADER_BYTES], len(frame), count * width)
    try:
        data = zstandard.ZstdDecompressor().decompress(
            frame.numpy().tobytes(), max_output_size=count * width, allow_extra_data=False
        )
    except zstandard.ZstdError as error:
        raise ValueError(f"its Zstandard frame is damaged ({error})") from error
    if len(data) != count * width:
        raise ValueError(f"its frame holds {len(data)} bytes where {count * width} are expected")
    if not data:
        return torch.zeros(0, dtype=dtype)
    planes = torch.frombuffer(bytearray(data), dtype=torch.uint8).reshape(width, -1)
    return planes.T.contiguous().reshape(-1).view(dtype)
