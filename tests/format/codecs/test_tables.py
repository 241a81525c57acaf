"""Probability tables of one byte per symbol."""

import numpy as np
import pytest

from mmcompress.format.codecs.tables import (
    LARGEST_WEIGHT,
    coded_size,
    pack_tables,
    to_entries,
    to_weights,
    unpack_tables,
)


def test_entries_by_hand() -> None:
    counts = np.array([[31 << 15, 16, 17, 31, 32, 33, 34, 1, 0]])
    assert to_entries(counts).tolist() == [[255, 0, 1, 15, 16, 16, 17, 0, 0]]
    assert to_weights(np.arange(256), np.ones(256, bool)).max() == LARGEST_WEIGHT


def test_every_entry_comes_back() -> None:
    entries = np.arange(256, dtype=np.uint8)
    weights = to_weights(entries, np.ones(256, bool))
    assert (np.diff(weights) > 0).all()
    assert (to_entries(weights[None])[0] == entries).all()


def test_weights_are_within_a_thirty_second_of_their_counts() -> None:
    counts = np.random.default_rng(0).integers(1000, 10**6, (3, 50))
    weights = to_weights(to_entries(counts), np.ones((3, 50), bool))
    scaled = counts * (LARGEST_WEIGHT / counts.max(axis=1, keepdims=True))
    assert np.abs(weights / scaled - 1).max() <= 1 / 32


def test_packed_by_hand() -> None:
    # The larger count of each table is 255; presence bits 1, 0 and 1, 1.
    packed = pack_tables(np.array([[7, 0], [8, 4]]))
    assert packed.tolist() == [0b1011_0000, 255, 255, 239]
    weights, used = unpack_tables(np.append(packed, [9, 9]).astype(np.uint8), 2, 2)
    assert used == 4
    assert weights.tolist() == [[LARGEST_WEIGHT, 0], [LARGEST_WEIGHT, LARGEST_WEIGHT // 2]]


@pytest.mark.parametrize("length", [0, 1, 2, 3])
def test_tables_that_are_cut_off(length: int) -> None:
    with pytest.raises(ValueError, match="hold no 2 tables of 2 symbols"):
        unpack_tables(pack_tables(np.array([[7, 0], [8, 4]]))[:length], 2, 2)


def test_coded_size_is_close_to_entropy_and_tables() -> None:
    counts = np.array([[9000, 800, 200, 0], [500, 500, 0, 0]])
    bits = 0.0
    for table in counts:
        for count in table[table > 0]:
            bits -= count * np.log2(count / table.sum())
    assert coded_size(counts) == pytest.approx(bits / 8 + 5 + 1, rel=1e-3)
