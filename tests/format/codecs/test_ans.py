"""Entropy coding against Shannon's bound, and what it refuses."""

import numpy as np
import pytest
import torch
from torch import Tensor

from mmcompress.format.codecs.ans import decode_symbols, encode_symbols
from mmcompress.format.codecs.tables import unpack_tables


def draw(shares: list[float], count: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.multinomial(torch.tensor(shares), count, replacement=True, generator=generator)


def spread(rows: int, columns: int) -> Tensor:
    """Codes around 7 of columns that differ in spread, (rows · columns,)."""
    generator = torch.Generator().manual_seed(0)
    widths = torch.rand(columns, generator=generator) * 2
    noise = torch.randn(rows, columns, generator=generator) * widths
    return (noise.round().clamp(-7, 7) + 7).int().flatten()


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
    tables = 4 + 1.125 * len(counts)
    assert bound <= len(frame) <= 1.001 * bound + tables + 10


@pytest.mark.parametrize("rows", [1, 100])
@pytest.mark.parametrize("cut", [0, 1, 150])
def test_columns_of_their_own_spread_are_coded_apart(rows: int, cut: int) -> None:
    symbols = spread(rows, 200)[: rows * 200 - cut]
    frame = encode_symbols(symbols, 200)
    assert torch.equal(decode_symbols(frame, len(symbols), 15, 200), symbols)
    plain = encode_symbols(symbols)
    assert len(frame) < 0.93 * len(plain) if rows > 1 else len(frame) <= len(plain)


def reference(frame: Tensor, count: int) -> list[int]:
    """The symbols of a frame without classes, by the rule of the decoder and no library.

    Of 2^24 parts each symbol has one for sure and of the rest its share, in float32.
    """
    data, size = frame.numpy(), int(frame[2]) + 256 * int(frame[3])
    weights, used = unpack_tables(data[4:], 1, size)
    shares = (weights[0] / weights.sum()).astype(np.float32)
    left, sum_of_shares = [], np.float32(0)
    total = np.float32(0)
    for share in shares:
        total += share
    for symbol, share in enumerate(shares):
        left.append(int(sum_of_shares * (np.float32(2**24 - size) / total)) + symbol)
        sum_of_shares += share
    left.append(2**24)
    words = np.frombuffer(data[4 + used :].tobytes(), "<u4").tolist()
    state, found = 0, []
    while words and state < 2**32:
        state = (state << 32) + words.pop()
    for _ in range(count):
        part = state % 2**24
        symbol = max(s for s in range(size) if left[s] <= part)
        state = (state >> 24) * (left[symbol + 1] - left[symbol]) + part - left[symbol]
        if state < 2**32 and words:
            state = (state << 32) + words.pop()
        found.append(symbol)
    return found


@pytest.mark.parametrize(
    "shares", [[0.2, 0.5, 0.3], [0.001, 0.998, 0.001], [1.0] * 300, [0.3, 0.0, 0.7]]
)
def test_decodes_by_a_rule_that_needs_no_library(shares: list[float]) -> None:
    symbols = draw(shares, 500)
    assert reference(encode_symbols(symbols), 500) == symbols.tolist()


def test_frame_by_hand() -> None:
    """Bytes that must not change: they are in artifacts."""
    symbols = torch.tensor([1, 0, 0, 2, 0, 0, 0, 0])
    frame = encode_symbols(symbols)
    # One class of rows, one of columns, 3 symbols, all of them present; weights in the ratio of
    # 6 : 1 : 1, of which 1/6 of the largest is 20.67 · 2^13, rounded to (16 + 5) · 2^13.
    assert frame[:8].tolist() == [1, 1, 3, 0, 0b1110_0000, 255, 13 * 16 + 5, 13 * 16 + 5]
    assert frame[8:].tolist() == [181, 135, 220, 10]
    assert decode_symbols(frame, 8, 3).tolist() == symbols.tolist()


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
    zero = torch.zeros(4, dtype=torch.uint8)
    for bad, message in [
        (frame[:-1], "end within a word"),
        (frame[:3], "holds no tables"),
        (frame[:5], "hold no 1 tables"),
        (torch.cat([frame, frame[-4:]]), "does not hold the 1000 symbols"),
        (torch.cat([frame[:4], zero[:1], frame[8:]]), "gives no symbol"),
        (torch.cat([frame[:-4], zero]), "are no code"),
        (torch.cat([torch.tensor([0]).byte(), frame[1:]]), "holds no tables"),
        (torch.cat([torch.tensor([9]).byte(), frame[1:]]), "holds no tables"),
    ]:
        with pytest.raises(ValueError, match=message):
            decode_symbols(bad, 1000, 3)
    with pytest.raises(ValueError, match="no tables of 2 symbols"):
        decode_symbols(frame, 1000, 2)
    with pytest.raises(ValueError, match="does not hold the 100 symbols"):
        decode_symbols(frame, 100, 3)


def test_any_byte_may_be_wrong() -> None:
    """Whatever a frame holds, it is refused or read as symbols of the alphabet."""
    symbols = spread(30, 40)
    frame = encode_symbols(symbols, 40)
    for place in range(len(frame)):
        bad = frame.clone()
        bad[place] ^= 0x55
        try:
            found = decode_symbols(bad, len(symbols), 15, 40)
        except ValueError:
            continue
        assert found.shape == symbols.shape
        assert 0 <= found.min() <= found.max() < 15


@pytest.mark.parametrize("columns", [None, 64, 2048])
def test_seven_bytes_hold_any_number_of_zeros(columns: int | None) -> None:
    zeros = torch.zeros(2**22, dtype=torch.int32)
    frame = encode_symbols(zeros, columns)
    assert len(frame) == 7
    assert torch.equal(decode_symbols(frame, 2**22, 2, columns), zeros)


@pytest.mark.parametrize("columns", [None, 1000])
def test_equal_and_rare_symbols_take_little(columns: int | None) -> None:
    equal = torch.full((2 * 10**6,), 2)
    frame = encode_symbols(equal, columns)
    assert 10 < len(frame) < 60
    assert torch.equal(decode_symbols(frame, 2 * 10**6, 3, columns), equal.int())
    rare = draw([0.99999, 0.00001], 10**6)
    assert torch.equal(decode_symbols(encode_symbols(rare), 10**6, 2), rare.int())
