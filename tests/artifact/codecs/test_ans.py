"""Entropy coding against Shannon's bound, and what it refuses."""

import math

import pytest
import torch
from torch import Tensor

from mmcompress.artifact.codecs.ans import check_length, decode_symbols, encode_symbols


def draw(shares: list[float], count: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.multinomial(torch.tensor(shares), count, replacement=True, generator=generator)


@pytest.mark.parametrize(
    "shares", [[0.5, 0.5], [0.9, 0.1], [0.05, 0.9, 0.05], [0.001, 0.998, 0.001], [1.0] * 300]
)
def test_comes_close_to_the_bound(shares: list[float]) -> None:
    symbols = draw(shares, 40_000)
    frame = encode_symbols(symbols)
    assert torch.equal(decode_symbols(frame, 40_000, len(shares)), symbols.int())
    counts = symbols.bincount().double()
    kept = counts[counts > 0] / counts.sum()
    bound = float(-(kept * kept.log2()).sum()) * 40_000 / 8
    table = 2 + 2 * len(counts)
    assert bound <= len(frame) <= 1.001 * bound + table + 16


@pytest.mark.parametrize("count", [0, 1, 5])
@pytest.mark.parametrize("symbol", [0, 1, 4095])
def test_few_and_equal_symbols(count: int, symbol: int) -> None:
    symbols = torch.full((count,), symbol)
    assert torch.equal(decode_symbols(encode_symbols(symbols), count, 4096), symbols.int())


@pytest.mark.parametrize("symbol", [-1, 4096])
def test_symbols_outside_the_alphabet(symbol: int) -> None:
    with pytest.raises(ValueError, match="must lie in 0…4095"):
        encode_symbols(torch.tensor([0, symbol]))


def test_damaged_frames() -> None:
    frame = encode_symbols(draw([0.2, 0.5, 0.3], 1000))
    for bad, message in [
        (frame[:-1], "holds no table"),
        (frame[:3], "holds no table"),
        (torch.cat([frame, frame[-4:]]), "does not hold the 1000 symbols"),
        (torch.cat([frame[:2], torch.zeros(2, dtype=torch.uint8), frame[4:]]), "no probability"),
        (torch.cat([frame[:-4], torch.zeros(4, dtype=torch.uint8)]), "are no code"),
    ]:
        with pytest.raises(ValueError, match=message):
            decode_symbols(bad, 1000, 3)
    with pytest.raises(ValueError, match="no table of 3 symbols"):
        decode_symbols(frame, 1000, 2)
    with pytest.raises(ValueError, match="does not hold the 100 symbols"):
        decode_symbols(frame, 100, 3)


def test_a_frame_that_cannot_hold_so_much() -> None:
    with pytest.raises(ValueError, match="of 10 bytes cannot hold 1000000000 symbols"):
        check_length(10, 10**9)
    likeliest = -math.log2(65535 / 65536)
    assert 8 / likeliest < 2**19, "a frame that we write could be refused"
