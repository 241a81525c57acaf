"""Integers of a few bits ↔ bytes with no gap between them.

The stream is little-endian: bit j of code i is bit `i · bits + j`, and bit b of the stream is bit
`b mod 8` of byte `b div 8`. Signed codes are first shifted by 2^(bits−1), so that −2^(bits−1)
becomes 0.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import numpy as np

from mmcompress.format.codecs.base import Arrays, Codec, Form, Forms, Offer, check_fields, whole

CHUNK = 2**18
"""Codes that are spread out into bits at once; a multiple of 8, so that chunks end on bytes."""

WHOLE = {8: "u1", 16: "<u2"}
"""Bits of codes that are whole bytes, and these as numpy has them: nothing is spread out."""


@dataclass(frozen=True)
class Pack(Codec):
    """The stage: codes → bytes, each code in `bits` bits."""

    name = "pack"
    order = 2
    bits: int

    @classmethod
    def read(cls, stage: Mapping[str, Any]) -> Self:
        check_fields(stage, "bits")
        return cls(whole(stage, "bits", 16))

    def layout(self, forms: Forms, present: Sequence[str]) -> Forms:
        name = codes_name(forms)
        if not forms[name].bits:
            raise ValueError("its stages pack floats")
        if self.bits < forms[name].bits:
            raise ValueError(f"it packs codes of {forms[name].bits} bits into {self.bits}")
        length = packed_length(forms[name].count, self.bits)
        return forms | {name: forms[name].changed(shape=(length,), bits=0, columns=0)}

    def encode(self, arrays: Arrays, forms: Forms) -> Arrays:
        name = codes_name(forms)
        return arrays | {name: pack(arrays[name], bits=self.bits, signed=forms[name].signed)}

    def decode(self, arrays: Arrays, forms: Forms) -> Arrays:
        name = codes_name(forms)
        count, signed = forms[name].count, forms[name].signed
        return arrays | {name: unpack(arrays[name], count, bits=self.bits, signed=signed)}

    @classmethod
    def offers(cls, name: str, codes: np.ndarray, form: Form) -> Iterator[Offer]:
        whole_bytes = 8 if form.bits <= 8 else 16  # they show what repeats
        for bits in sorted({form.bits, whole_bytes}):
            write = partial(pack, codes, bits=bits, signed=form.signed)
            yield Offer({"codec": "pack", "bits": bits}, packed_length(len(codes), bits), write)


def codes_name(forms: Mapping[str, Any]) -> str:
    """The array that holds the codes: `indices` where they point into a codebook."""
    return "indices" if "indices" in forms else "codes"


def packed_length(count: int, bits: int) -> int:
    """Bytes that `count` codes take."""
    return (count * bits + 7) // 8


def pack(codes: np.ndarray, *, bits: int, signed: bool = False) -> np.ndarray:
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
        >>> pack(np.array([1, 2, 3]), bits=4).tolist()
        [33, 3]
    """
    values = codes.astype(np.int32) + _offset(bits, signed)
    if len(values) and not 0 <= values.min() <= values.max() < 2**bits:
        raise ValueError(f"codes from {codes.min()} to {codes.max()} do not fit {bits} bits")
    if bits in WHOLE:
        return values.astype(WHOLE[bits]).view(np.uint8)
    places = np.arange(bits, dtype=np.int32)
    chunks = [
        np.packbits(((values[start : start + CHUNK, None] >> places) & 1), bitorder="little")
        for start in range(0, len(values), CHUNK)
    ]
    return np.concatenate([np.zeros(0, np.uint8), *chunks])


def unpack(packed: np.ndarray, count: int, *, bits: int, signed: bool = False) -> np.ndarray:
    """The inverse of `pack`: (count,) int32.

    Args:
        packed: (⌈count · bits / 8⌉,) uint8.
    Raises:
        ValueError: the length is wrong, or an unused bit is set.
    """
    if len(packed) != packed_length(count, bits):
        raise ValueError(f"{len(packed)} bytes cannot be {count} codes of {bits} bits")
    unused = len(packed) * 8 - count * bits
    if unused and packed[-1] >> (8 - unused):
        raise ValueError("unused bits after the last code are set")
    if bits in WHOLE:
        data = np.ascontiguousarray(packed)
        return data.view(WHOLE[bits]).astype(np.int32) - _offset(bits, signed)
    offset = _offset(bits, signed)
    values = np.empty(count, np.int32)
    for start in range(0, count, CHUNK):
        length = min(CHUNK, count - start)
        first = start * bits // 8
        chunk = packed[first : first + packed_length(length, bits)]
        values[start : start + length] = _spread(chunk, bits)[:length]
    values -= offset
    return values


def _spread(packed: np.ndarray, bits: int) -> np.ndarray:
    """The codes in some bytes, and zeros after them: (8 for every `bits` bytes,) int32."""
    bytes_ = np.zeros((-(-len(packed) // bits), 16), np.uint8)
    whole, rest = divmod(len(packed), bits)
    bytes_[:whole, :bits] = packed[: whole * bits].reshape(whole, bits)
    bytes_[whole:, :rest] = packed[whole * bits :]
    low, high = bytes_.view("<u8").T
    codes = np.empty((len(bytes_), 8), np.int32)
    for place in range(8):
        shift = place * bits
        code = low >> np.uint64(shift) if shift < 64 else high >> np.uint64(shift - 64)
        if shift < 64 < shift + bits:
            code |= high << np.uint64(64 - shift)
        codes[:, place] = code & np.uint64(2**bits - 1)
    return codes.reshape(-1)


def _offset(bits: int, signed: bool) -> int:
    if not 1 <= bits <= 16:
        raise ValueError(f"bits={bits} must lie in 1…16")
    return 2 ** (bits - 1) if signed else 0
