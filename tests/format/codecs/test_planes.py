"""Numbers as byte planes: exact for every dtype, and smaller where bytes are alike."""

import numpy as np
import pytest

from mmcompress.format.codecs import ans
from mmcompress.format.codecs.planes import (
    ANS,
    HEADER_BYTES,
    RAW,
    ROW,
    SAME,
    ZSTD,
    check_length,
    compress,
    decompress,
    frame_length,
)

DTYPES = [np.float64, np.float32, np.float16, np.uint16, np.int64, np.uint8]


def bits_of(values: np.ndarray) -> list[int]:
    return values.view(np.uint8).tolist()


def frame_of(*values: int) -> np.ndarray:
    return np.array(values, np.uint8)


def test_frames_by_hand() -> None:
    values = np.array([0x0102, 0x0304], np.int16)
    assert compress(values).tolist() == [RAW, RAW, 2, 4, 1, 3]
    values = np.array([0x0102, 0x0302, 0x0502], np.int16)
    assert compress(values).tolist() == [SAME, RAW, 2, 1, 3, 5]


@pytest.mark.parametrize("dtype", [*DTYPES, np.bool_])
@pytest.mark.parametrize("count", [0, 1, 63, 1000])
def test_round_trip(count: int, dtype: type) -> None:
    values = (np.abs(np.random.default_rng(0).standard_normal(count)) * 3).astype(dtype)
    frame = compress(values)
    assert frame_length(frame[:HEADER_BYTES], count, np.dtype(dtype).itemsize) == len(frame)
    assert bits_of(decompress(frame, np.dtype(dtype), count)) == bits_of(values)


def test_what_no_number_stands_for_comes_back() -> None:
    values = np.array([np.nan, np.inf, -0.0, 1e-45], np.float32)
    assert bits_of(decompress(compress(values), np.dtype(np.float32), 4)) == bits_of(values)


@pytest.mark.parametrize("count", [2, 2**16 + 1, 2**22])
def test_equal_numbers_take_next_to_nothing(count: int) -> None:
    values = np.full(count, 0.37, np.float16)
    frame = compress(values)
    assert frame[:2].tolist() == [SAME, SAME]
    assert len(frame) == 4
    assert np.array_equal(decompress(frame, np.dtype(np.float16), count), values)


def test_a_plane_of_zeros_as_0_1_wrote_it() -> None:
    zeros = ans.encode_symbols(np.zeros(2**22, np.uint8), ROW)
    frame = np.concatenate([frame_of(ANS, 7, 0, 0, 0, SAME), zeros, frame_of(60)])
    assert np.array_equal(
        decompress(frame, np.dtype(np.float16), 2**22), np.ones(2**22, np.float16)
    )


def test_exponents_are_coded_and_mantissas_left_alone() -> None:
    generator = np.random.default_rng(0)
    spread = np.repeat([0.001, 1.0, 30.0], 6400)
    values = (generator.standard_normal(19200) * spread).astype(np.float16)
    frame = compress(values)
    assert frame[:2].tolist() == [RAW, ANS]
    assert len(frame) < 1.75 * 19200
    assert np.array_equal(decompress(frame, np.dtype(np.float16), 19200), values)


def test_repeats_go_to_zstd() -> None:
    pattern = np.random.default_rng(0).integers(0, 256, 256).astype(np.uint8)
    frame = compress(np.tile(pattern, 50))
    assert frame[0] == ZSTD
    assert len(frame) < 400
    assert np.array_equal(decompress(frame, np.dtype(np.uint8), 12800), np.tile(pattern, 50))


@pytest.mark.parametrize(
    ("frame", "count", "message"),
    [
        (frame_of(), 1, "is no frame of 1 numbers of 2 bytes"),
        (frame_of(RAW), 1, "is no frame of 1 numbers of 2 bytes"),
        (frame_of(RAW, 4, 7, 7), 1, "is no frame of 1 numbers"),
        (frame_of(RAW, RAW, 1, 2, 3), 2, "frame of 5 bytes states 6, for 2 numbers"),
        (frame_of(RAW, RAW, 1, 2, 3, 4, 5), 2, "frame of 7 bytes states 6, for 2 numbers"),
        (frame_of(SAME, RAW), 0, "is no frame of 0 numbers"),
        (frame_of(ZSTD, 1, 0, 0, 0, RAW, 9), 2**16, "a plane of 1 bytes cannot hold 65536"),
    ],
)
def test_refuses_before_anything_is_decoded(frame: np.ndarray, count: int, message: str) -> None:
    for refuse in (
        lambda: check_length(frame[:HEADER_BYTES], len(frame), count, 2),
        lambda: decompress(frame, np.dtype(np.float16), count),
    ):
        with pytest.raises(ValueError, match=message):
            refuse()


def test_damaged_planes_are_refused() -> None:
    pattern = np.tile(np.arange(256, dtype=np.uint8), 20)
    frame = compress(pattern)
    frame[-1] ^= 0x55
    with pytest.raises(ValueError, match="is damaged"):
        decompress(frame, np.dtype(np.uint8), 5120)
    with pytest.raises(ValueError, match="states 5120 bytes where 5121 are expected"):
        decompress(frame, np.dtype(np.uint8), 5121)
