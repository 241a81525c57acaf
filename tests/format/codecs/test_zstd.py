"""Frames that are whole, damaged, or lie about what they hold."""

import numpy as np
import pytest
import zstandard

from mmcompress.format.codecs import zstd


def frame_of(data: bytes) -> np.ndarray:
    return np.frombuffer(data, np.uint8)


def lying_frame(claimed: int) -> np.ndarray:
    """A frame of 8 content bytes whose header states `claimed` (8-byte content size field)."""
    # Magic number, descriptor (8-byte size field, no single segment), window, size, one RLE block.
    block = (8 << 3 | 1 << 1 | 1).to_bytes(3, "little") + b"\0"
    return frame_of(zstandard.FRAME_HEADER + b"\xc0\x50" + claimed.to_bytes(8, "little") + block)


@pytest.mark.parametrize("count", [0, 1, 1000])
def test_round_trip(count: int) -> None:
    data = np.arange(count).astype(np.uint8)
    assert np.array_equal(zstd.decompress(zstd.compress(data), count), data)


def test_a_frame_that_states_what_it_holds_is_read() -> None:
    assert zstd.decompress(lying_frame(8), 8).tolist() == [0] * 8


def test_refuses_another_size_than_expected() -> None:
    with pytest.raises(ValueError, match="states 8 bytes where 9 are expected"):
        zstd.decompress(lying_frame(8), 9)


def test_refuses_more_than_the_bytes_can_hold_before_reading_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(zstandard, "ZstdDecompressor")
    with pytest.raises(ValueError, match="a frame of 18 bytes cannot hold 1099511627776"):
        zstd.decompress(lying_frame(2**40), 2**40)


def test_refuses_damage() -> None:
    whole = zstd.compress(np.arange(100, dtype=np.uint8))
    with pytest.raises(ValueError, match="is damaged"):
        zstd.decompress(whole[:-3], 100)
    with pytest.raises(ValueError, match="is damaged"):
        zstd.decompress(np.concatenate([whole, whole]), 100)
    with pytest.raises(ValueError, match="is no Zstandard frame"):
        zstd.decompress(np.zeros(30, np.uint8), 100)
    with pytest.raises(ValueError, match=r"damaged|holds 8 bytes"):
        zstd.decompress(lying_frame(9), 9)
