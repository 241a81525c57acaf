"""Entropy coding against Shannon's bound, and what it refuses."""

import numpy as np
import pytest

from mmcompress.format.codecs.ans import Message, decode_symbols, encode_symbols
from mmcompress.format.codecs.classes import Classes, count_by_class
from mmcompress.format.codecs.tables import unpack_tables


def draw(shares: list[float], count: int) -> np.ndarray:
    return np.random.default_rng(0).choice(len(shares), count, p=np.array(shares) / sum(shares))


def spread(rows: int, columns: int) -> np.ndarray:
    """Codes around 7 of columns that differ in spread, (rows · columns,)."""
    generator = np.random.default_rng(0)
    widths = generator.random(columns) * 2
    noise = generator.standard_normal((rows, columns)) * widths
    return (np.rint(noise).clip(-7, 7) + 7).astype(np.int32).ravel()


@pytest.mark.parametrize(
    "shares", [[0.5, 0.5], [0.9, 0.1], [0.05, 0.9, 0.05], [0.001, 0.998, 0.001], [1.0] * 300]
)
def test_comes_close_to_the_bound(shares: list[float]) -> None:
    symbols = draw(shares, 40_000)
    frame = encode_symbols(symbols)
    assert np.array_equal(decode_symbols(frame, 40_000, len(shares)), symbols)
    counts = np.bincount(symbols)
    kept = counts[counts > 0] / counts.sum()
    bound = float(-(kept * np.log2(kept)).sum()) * 40_000 / 8
    tables = 4 + 1.125 * len(counts)
    assert bound <= len(frame) <= 1.001 * bound + tables + 10


@pytest.mark.parametrize("rows", [1, 100])
@pytest.mark.parametrize("cut", [0, 1, 150])
def test_columns_of_their_own_spread_are_coded_apart(rows: int, cut: int) -> None:
    symbols = spread(rows, 200)[: rows * 200 - cut]
    frame = encode_symbols(symbols, 200)
    assert np.array_equal(decode_symbols(frame, len(symbols), 15, 200), symbols)
    plain = encode_symbols(symbols)
    assert len(frame) < 0.93 * len(plain) if rows > 1 else len(frame) <= len(plain)


@pytest.mark.parametrize("cut", [0, 3])
def test_classes_without_a_member_cost_nothing(cut: int) -> None:
    """k-means may leave one empty."""
    symbols = spread(6, 10)[: 60 - cut]
    rows, columns = np.array([0, 2, 2, 0, 0, 2], np.uint8), np.array([1, 3] * 5, np.uint8)
    counts = count_by_class(symbols, rows, columns, 15)
    frame = Message(symbols, Classes(rows, columns, counts, 0)).encode()
    assert frame[:2].tolist() == [3, 4]
    assert np.array_equal(decode_symbols(frame, len(symbols), 15, 10), symbols)


@pytest.mark.parametrize(("rows", "columns"), [(300, 200), (1, 5000), (3, 3)])
def test_the_size_is_known_before_it_is_coded(rows: int, columns: int) -> None:
    message = Message.of(spread(rows, columns), columns)
    assert message.size <= len(message.encode()) <= message.size + 12


def reference(frame: np.ndarray, count: int) -> list[int]:
    """The symbols of a frame without classes, by the rule of the decoder and no library.

    Of 2^24 parts each symbol has one for sure and of the rest its share, in float32.
    """
    data, size = frame, int(frame[2]) + 256 * int(frame[3])
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
    symbols = np.array([1, 0, 0, 2, 0, 0, 0, 0])
    frame = encode_symbols(symbols)
    # One class of rows, one of columns, 3 symbols, all of them present; weights in the ratio of
    # 6 : 1 : 1, of which 1/6 of the largest is 20.67 · 2^13, rounded to (16 + 5) · 2^13.
    assert frame[:8].tolist() == [1, 1, 3, 0, 0b1110_0000, 255, 13 * 16 + 5, 13 * 16 + 5]
    assert frame[8:].tolist() == [181, 135, 220, 10]
    assert decode_symbols(frame, 8, 3).tolist() == symbols.tolist()


@pytest.mark.parametrize("count", [0, 1, 5])
@pytest.mark.parametrize("symbol", [0, 1, 4095])
def test_few_and_equal_symbols(count: int, symbol: int) -> None:
    symbols = np.full(count, symbol)
    assert np.array_equal(decode_symbols(encode_symbols(symbols), count, 4096), symbols)


@pytest.mark.parametrize("symbol", [-1, 4096])
def test_symbols_outside_the_alphabet(symbol: int) -> None:
    with pytest.raises(ValueError, match="must lie in 0…4095"):
        encode_symbols(np.array([0, symbol]))


def test_damaged_frames() -> None:
    frame = encode_symbols(draw([0.2, 0.5, 0.3], 1000))
    zero = np.zeros(4, np.uint8)
    for bad, message in [
        (frame[:-1], "end within a word"),
        (frame[:3], "holds no tables"),
        (frame[:5], "hold no 1 tables"),
        (np.concatenate([frame, frame[-4:]]), "does not hold the 1000 symbols"),
        (np.concatenate([frame[:4], zero[:1], frame[8:]]), "gives no symbol"),
        (np.concatenate([frame[:-4], zero]), "are no code"),
        (np.concatenate([np.uint8([0]), frame[1:]]), "holds no tables"),
        (np.concatenate([np.uint8([9]), frame[1:]]), "holds no tables"),
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
        bad = frame.copy()
        bad[place] ^= 0x55
        try:
            found = decode_symbols(bad, len(symbols), 15, 40)
        except ValueError:
            continue
        assert found.shape == symbols.shape
        assert 0 <= found.min() <= found.max() < 15


@pytest.mark.parametrize("columns", [None, 64, 2048])
def test_seven_bytes_hold_any_number_of_zeros(columns: int | None) -> None:
    zeros = np.zeros(2**22, np.int32)
    frame = encode_symbols(zeros, columns)
    assert len(frame) == 7
    assert np.array_equal(decode_symbols(frame, 2**22, 2, columns), zeros)


@pytest.mark.parametrize("columns", [None, 1000])
def test_equal_and_rare_symbols_take_little(columns: int | None) -> None:
    equal = np.full(2 * 10**6, 2)
    frame = encode_symbols(equal, columns)
    assert 10 < len(frame) < 60
    assert np.array_equal(decode_symbols(frame, 2 * 10**6, 3, columns), equal)
    rare = draw([0.99999, 0.00001], 10**6)
    assert np.array_equal(decode_symbols(encode_symbols(rare), 10**6, 2), rare)
