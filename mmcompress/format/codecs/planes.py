"""Numbers ↔ byte planes, each entropy coded by itself: all lowest bytes, …, all highest bytes.

Bytes of like meaning then stand together. The highest byte of a float, sign and exponent,
compresses well, those of the mantissa hardly: float16 biases and norms become some 20 % smaller,
float32 weights 15 %. A plane is written in the smallest of these codings:

    0  raw    as it is
    1  same   its first byte, of which it is made
    2  zstd   a Zstandard frame
    3  ans    symbols of rows of `ROW` bytes, for neighbors are alike: the biases of one layer, say

A frame begins with the coding of each plane, one byte, followed in the last two cases by the
plane's length, uint32 little-endian; then come the planes.

A float32 that was born as float16 or bfloat16 has planes of zeros, and so has all that is pruned
away: a few bytes may hold any number of them. How many are believed is no matter of a frame but of
the whole file (`mmcompress.format.bounds`).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from mmcompress.format.codecs import ans, zstd
from mmcompress.format.codecs.base import Arrays, Codec, Forms, check_fields
from mmcompress.format.dtypes import DTYPES

RAW, SAME, ZSTD, ANS = range(4)

ROW = 64
"""Bytes in which neighbors are looked for that are alike."""

INCOMPRESSIBLE = 7.95
"""Bits of entropy per byte above which only repeats are looked for."""

HEADER_BYTES = 8 * 5
"""Longest header: numbers of 8 bytes, the length of each plane stated."""


@dataclass(frozen=True)
class Planes(Codec):
    """The stage: payloads → frames.

    Attributes:
        of: name of a payload and of its dtype, for each that is a frame.
    """

    name = "planes"
    order = 4
    of: tuple[tuple[str, str], ...]

    @classmethod
    def read(cls, stage: Mapping[str, Any]) -> Self:
        of = stage.get("of")
        if not isinstance(of, dict) or not all(isinstance(d, str) for d in of.values()):
            raise ValueError("its planes stage does not say of which payloads")
        check_fields(stage, "of")
        return cls(tuple(sorted(of.items())))

    def layout(self, forms: Forms, present: Sequence[str]) -> Forms:
        found = dict(forms)
        for name, dtype in self.of:
            if name not in forms:
                raise ValueError(f"planes names payloads that it does not have: [{name!r}]")
            if forms[name].symbols:
                raise ValueError(f"payload {name} is entropy coded twice")
            if dtype not in forms[name].dtypes:
                allowed = ", ".join(forms[name].dtypes)
                raise ValueError(f"payload {name} is {dtype} and may be {allowed}")
            found[name] = forms[name].changed(framed=dtype)
        return found

    def encode(self, arrays: Arrays, forms: Forms) -> Arrays:
        return arrays | {name: compress(arrays[name]) for name, _ in self.of}

    def decode(self, arrays: Arrays, forms: Forms) -> Arrays:
        found = dict(arrays)
        for name, dtype in self.of:
            shape, count = forms[name].shape, forms[name].count
            found[name] = decompress(arrays[name], DTYPES[dtype].numpy, count).reshape(shape)
        return found


def compress(values: np.ndarray, *, by_rows: bool = True) -> np.ndarray:
    """A tensor's bytes → one frame.

    Args:
        values: any shape and dtype.
        by_rows: try coding 3 too, whose work is many times that of the others.
    Returns:
        (length,) uint8.
    """
    width = values.itemsize
    planes = np.ascontiguousarray(values.reshape(-1).view(np.uint8).reshape(-1, width).T)
    coded = [_encode(plane, by_rows=by_rows) for plane in planes]
    header = b"".join(
        bytes([coding]) + (len(data).to_bytes(4, "little") if coding in (ZSTD, ANS) else b"")
        for coding, data in coded
    )
    return np.concatenate([np.frombuffer(header, np.uint8), *(data for _, data in coded)])


def frame_length(header: np.ndarray, count: int, width: int) -> int:
    """How long a frame is.

    Args:
        header: (at least `HEADER_BYTES` or all,) uint8, how it begins.
        count: how many numbers it holds.
        width: bytes of a number.
    Raises:
        ValueError: it is no such frame, or a Zstandard plane in it cannot hold that much.
    """
    *_, (_, _, end) = _parts(header, count, width)
    return end


def decompress(frame: np.ndarray, dtype: np.dtype, count: int) -> np.ndarray:
    """The inverse of `compress`: (count,) of `dtype`.

    Args:
        frame: (length,) uint8.
        dtype: of the numbers.
        count: how many are expected.
    Raises:
        ValueError: the frame is damaged, or holds another number of bytes.
    """
    check_length(frame[:HEADER_BYTES], len(frame), count, dtype.itemsize)
    values = np.empty((count, dtype.itemsize), np.uint8)
    for index, (coding, start, end) in enumerate(_parts(frame, count, dtype.itemsize)):
        values[:, index] = _decode(coding, frame[start:end], count)
    return values.reshape(-1).view(dtype)


def check_length(header: np.ndarray, length: int, count: int, width: int) -> None:
    """Refuse a frame before anything is allocated for what it holds.

    Args:
        header, count, width: as in `frame_length`.
        length: of the whole frame, in bytes.
    Raises:
        ValueError: its planes are longer or shorter, or cannot hold as many numbers.
    """
    stated = frame_length(header, count, width)
    if stated != length:
        raise ValueError(f"its frame of {length} bytes states {stated}, for {count} numbers")


def _encode(plane: np.ndarray, *, by_rows: bool) -> tuple[int, np.ndarray]:
    count = len(plane)
    if count and (plane == plane[0]).all():
        return SAME, plane[:1]
    found = [(RAW, plane)]
    frame = zstd.compress(plane)
    if count <= len(frame) * zstd.MAX_EXPANSION:
        found.append((ZSTD, frame))
    if by_rows and zstd.entropy(plane) * 8 < INCOMPRESSIBLE * count:
        message = ans.Message.of(plane, ROW)
        if message.size < min(len(data) for _, data in found):
            found.append((ANS, message.encode()))
    return min(found, key=lambda coded: len(coded[1]) + 4 * (coded[0] in (ZSTD, ANS)))


def _parts(header: np.ndarray, count: int, width: int) -> Iterator[tuple[int, int, int]]:
    """Coding, start and end of each plane, once they are found possible."""
    data = header[:HEADER_BYTES].tobytes()
    place, parts = 0, []
    for _ in range(width):
        coding, length = data[place] if place < len(data) else -1, count
        place += 1
        if coding == SAME and count > 0:
            length = 1
        elif coding in (ZSTD, ANS):
            length = int.from_bytes(data[place : place + 4], "little")
            place += 4
            if coding == ZSTD and count > length * zstd.MAX_EXPANSION:
                raise ValueError(f"a plane of {length} bytes cannot hold {count}")
        elif coding != RAW:
            raise ValueError(f"it is no frame of {count} numbers of {width} bytes")
        parts.append((coding, length))
    for coding, length in parts:
        yield coding, place, place + length
        place += length


def _decode(coding: int, data: np.ndarray, count: int) -> np.ndarray:
    if coding == ZSTD:
        return zstd.decompress(data, count)
    if coding == ANS:
        return ans.decode_symbols(data, count, 256, ROW).astype(np.uint8)
    return data  # of one byte, if it stands for all
