"""Packing against streams written out by hand and by a loop."""

import numpy as np
import pytest

from mmcompress.format.codecs import pack as module
from mmcompress.format.codecs.pack import pack, packed_length, unpack


def slow_pack(codes: np.ndarray, bits: int, signed: bool) -> list[int]:
    """Bit by bit, as the file's docstring says."""
    stream = [0] * (packed_length(len(codes), bits) * 8)
    for index, code in enumerate(codes.tolist()):
        value = code + (2 ** (bits - 1) if signed else 0)
        for j in range(bits):
            stream[index * bits + j] = value >> j & 1
    return [
        sum(bit << place for place, bit in enumerate(stream[start : start + 8]))
        for start in range(0, len(stream), 8)
    ]


def test_by_hand() -> None:
    # 3 bits each, first code in the lowest bits: 101 010 001 → 01|010|101 and 0…00
    assert pack(np.array([5, 2, 1]), bits=3).tolist() == [0b01_010_101, 0]
    assert pack(np.array([-2, 1, 0, -1]), bits=2, signed=True).tolist() == [0b01_10_11_00]
    assert pack(np.array([258]), bits=16).tolist() == [2, 1]


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", range(1, 17))
def test_equals_the_loop_and_comes_back(
    bits: int, signed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHUNK", 16)
    generator = np.random.default_rng(bits)
    for count in (0, 1, 7, 16, 17, 50):
        low = -(2 ** (bits - 1)) if signed else 0
        codes = generator.integers(low, low + 2**bits, count)
        packed = pack(codes, bits=bits, signed=signed)
        assert packed.tolist() == slow_pack(codes, bits, signed)
        assert unpack(packed, count, bits=bits, signed=signed).tolist() == codes.tolist()


@pytest.mark.parametrize("code", [-1, 16])
def test_refuses_a_code_that_does_not_fit(code: int) -> None:
    with pytest.raises(ValueError, match="do not fit 4 bits"):
        pack(np.array([3, code]), bits=4)


def test_refuses_bytes_that_it_did_not_write() -> None:
    with pytest.raises(ValueError, match="2 bytes cannot be 5 codes of 4 bits"):
        unpack(np.zeros(2, np.uint8), 5, bits=4)
    with pytest.raises(ValueError, match="unused bits"):
        unpack(np.uint8([0x80]), 1, bits=4)
    with pytest.raises(ValueError, match="bits=17"):
        unpack(np.zeros(3, np.uint8), 1, bits=17)
