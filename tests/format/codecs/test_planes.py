"""Numbers as byte planes: exact for every dtype, and smaller where bytes are alike."""

import pytest
import torch
from torch import Tensor

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

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8]


def bits_of(values: Tensor) -> list[int]:
    return values.view(torch.uint8).tolist()


def frame_of(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.uint8)


def test_frames_by_hand() -> None:
    values = torch.tensor([0x0102, 0x0304], dtype=torch.int16)
    assert compress(values).tolist() == [RAW, RAW, 2, 4, 1, 3]
    values = torch.tensor([0x0102, 0x0302, 0x0502], dtype=torch.int16)
    assert compress(values).tolist() == [SAME, RAW, 2, 1, 3, 5]


@pytest.mark.parametrize("dtype", [*DTYPES, torch.bool])
@pytest.mark.parametrize("count", [0, 1, 63, 1000])
def test_round_trip(count: int, dtype: torch.dtype) -> None:
    values = (torch.randn(count, generator=torch.Generator().manual_seed(0)) * 3).to(dtype)
    frame = compress(values)
    assert frame_length(frame[:HEADER_BYTES], count, dtype.itemsize) == len(frame)
    assert bits_of(decompress(frame, dtype, count)) == bits_of(values)


def test_what_no_number_stands_for_comes_back() -> None:
    values = torch.tensor([float("nan"), float("inf"), -0.0, 1e-45])
    assert bits_of(decompress(compress(values), torch.float32, 4)) == bits_of(values)


@pytest.mark.parametrize("count", [2, 2**16 + 1, 2**22])
def test_equal_numbers_take_next_to_nothing(count: int) -> None:
    values = torch.full((count,), 0.37).half()
    frame = compress(values)
    assert frame[:2].tolist() == [SAME, SAME]
    assert len(frame) == 4
    assert torch.equal(decompress(frame, torch.float16, count), values)


def test_a_plane_of_zeros_as_0_1_wrote_it() -> None:
    zeros = ans.encode_symbols(torch.zeros(2**22, dtype=torch.uint8), ROW)
    frame = torch.cat([frame_of(ANS, 7, 0, 0, 0, SAME), zeros, frame_of(60)])
    assert torch.equal(decompress(frame, torch.float16, 2**22), torch.ones(2**22).half())


def test_exponents_are_coded_and_mantissas_left_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    spread = torch.tensor([0.001, 1.0, 30.0]).repeat_interleave(6400)
    values = (torch.randn(19200, generator=generator) * spread).half()
    frame = compress(values)
    assert frame[:2].tolist() == [RAW, ANS]
    assert len(frame) < 1.75 * 19200
    assert torch.equal(decompress(frame, torch.float16, 19200), values)


def test_repeats_go_to_zstd() -> None:
    pattern = torch.randint(0, 256, (256,), generator=torch.Generator().manual_seed(0)).byte()
    frame = compress(pattern.repeat(50))
    assert frame[0] == ZSTD
    assert len(frame) < 400
    assert torch.equal(decompress(frame, torch.uint8, 12800), pattern.repeat(50))


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
def test_refuses_before_anything_is_decoded(frame: Tensor, count: int, message: str) -> None:
    for refuse in (
        lambda: check_length(frame[:HEADER_BYTES], len(frame), count, 2),
        lambda: decompress(frame, torch.float16, count),
    ):
        with pytest.raises(ValueError, match=message):
            refuse()


def test_damaged_planes_are_refused() -> None:
    pattern = torch.arange(256).repeat(20).byte()
    frame = compress(pattern)
    frame[-1] ^= 0x55
    with pytest.raises(ValueError, match="is damaged"):
        decompress(frame, torch.uint8, 5120)
    with pytest.raises(ValueError, match="states 5120 bytes where 5121 are expected"):
        decompress(frame, torch.uint8, 5121)
