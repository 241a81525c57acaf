"""Rows and columns in classes, found again where they were planted."""

import numpy as np
import pytest

from mmcompress.format.codecs.classes import (
    ITERATIONS,
    SETTLED,
    _begin,
    choose_classes,
    cluster,
    count_by_class,
    pair_classes,
)
from mmcompress.format.codecs.tables import coded_size


def planted(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Codes around 7 whose spread is the product of a row's and a column's."""
    noise = np.random.default_rng(0).standard_normal((len(rows), len(columns)))
    return np.clip(np.rint(noise * np.outer(rows, columns)) + 7, 0, 14).astype(np.int32)


def test_count_by_class_by_hand() -> None:
    symbols = np.array([0, 1, 2, 2, 1, 0, 1])  # rows of three, the last one cut off
    counts = count_by_class(symbols, np.array([0, 1, 0]), np.array([0, 1, 1]), 3)
    # Row 0: 0 | 1 2; row 1: 2 | 1 0; row 2: 1.
    assert counts.tolist() == [[1, 1, 0], [0, 1, 1], [0, 0, 1], [1, 1, 0]]


def test_pairs_by_hand() -> None:
    rows, columns = np.array([1, 0], np.uint8), np.array([0, 2], np.uint8)
    assert pair_classes(rows, columns, 3).tolist() == [3, 5, 0, 2]


def test_counting_in_chunks_is_counting(monkeypatch: pytest.MonkeyPatch) -> None:
    symbols = planted(np.ones(40), np.ones(25)).ravel()[:-7]
    rows, columns = np.arange(40) % 3, np.arange(25) % 2
    whole = count_by_class(symbols, rows, columns, 15)
    reference = np.zeros_like(whole)
    for place, symbol in enumerate(symbols):
        reference[rows[place // 25] * 2 + columns[place % 25], symbol] += 1
    assert (whole == reference).all()
    monkeypatch.setattr("mmcompress.format.codecs.classes.CHUNK", 60)
    assert (count_by_class(symbols, rows, columns, 15) == whole).all()


@pytest.mark.parametrize("number", [2, 3])
def test_clusters_of_one_distribution_each(number: int) -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, number, 60)
    tables = [[0.9, 0.05, 0.05], [0.4, 0.3, 0.3], [0.05, 0.05, 0.9]]
    found = cluster(np.array([rng.multinomial(500, tables[t]) for t in truth]), number)
    pairs = set(zip(truth.tolist(), found.tolist(), strict=True))
    assert len(pairs) == len({t for t, _ in pairs}) == number


def cluster_at_once(histograms: np.ndarray, number: int) -> np.ndarray:
    """`cluster` with products of whole matrices."""
    histograms = histograms.astype(np.float64)
    far = np.abs(np.arange(histograms.shape[1]) - histograms.sum(axis=0).argmax())
    distance = histograms @ far / np.maximum(histograms.sum(axis=1), 1)
    level = np.log2(distance + distance.mean() / 8)
    level = (level - level.min()) / np.ptp(level)
    rank = distance.argsort(kind="stable").argsort() / len(level)
    found = ((level + rank) / 2 * number).astype(np.uint8).clip(0, number - 1)
    spent = np.inf
    for _ in range(ITERATIONS):
        members = (np.arange(number)[:, None] == found).astype(np.float64)
        tables = members @ histograms + 0.05
        bits = -np.log2(tables / tables.sum(axis=1, keepdims=True))
        share = np.bincount(found, minlength=number) + 0.5
        costs = histograms @ bits.T - np.log2(share / share.sum())
        found, before, spent = costs.argmin(axis=1), spent, costs.min(axis=1).sum()
        if before - spent <= SETTLED * spent:
            break
    return found


@pytest.mark.parametrize(("members", "symbols"), [(3001, 64), (70, 4096)])
def test_parts_give_what_the_whole_gives(members: int, symbols: int) -> None:
    rng = np.random.default_rng(0)
    shares = rng.dirichlet(np.ones(symbols), 5)[rng.integers(0, 5, members)]
    histograms = rng.multinomial(200, shares).astype(np.uint8)
    assert (cluster(histograms, 3) == cluster_at_once(histograms, 3)).all()


def test_columns_of_two_spreads() -> None:
    spread = np.where(np.arange(96) % 3 == 0, 0.3, 1.5)
    found = choose_classes(planted(np.ones(200), spread).ravel(), 96, 15)
    assert not found.rows.any()
    assert found.counts.shape == (found.columns.max() + 1, 15)
    assert len({(bool(s > 1), int(c)) for s, c in zip(spread, found.columns, strict=True)}) == 2


def test_rows_and_columns() -> None:
    spread = np.where(np.arange(120) % 2, 0.3, 1.5)
    symbols = planted(spread, spread).ravel()
    found = choose_classes(symbols, 120, 15)
    assert set(found.rows) == set(found.columns) == {0, 1}
    assert set(found.rows[::2]) != set(found.rows[1::2])
    counts = count_by_class(symbols, found.rows, found.columns, 15)
    assert np.array_equal(found.counts, counts)
    maps = 2 * coded_size(np.array([[60, 60]]))
    assert found.size == pytest.approx(coded_size(counts) + maps)


@pytest.mark.parametrize(("count", "columns"), [(0, 1), (1, 1), (5, 8), (4000, 50), (64, 1)])
def test_noise_has_no_classes(count: int, columns: int) -> None:
    symbols = np.random.default_rng(0).integers(0, 15, count)
    found = choose_classes(symbols, columns, 15)
    assert (len(found.rows), len(found.columns)) == (-(-count // columns), columns)
    assert not found.rows.any()
    assert not found.columns.any()


def test_classes_learnt_from_some_are_as_good(monkeypatch: pytest.MonkeyPatch) -> None:
    spreads = np.random.default_rng(1).uniform(0.3, 3, 3000)
    symbols = planted(spreads, np.ones(64))
    counts = np.stack([np.bincount(row, minlength=15) for row in symbols]).astype(np.uint8)

    def size() -> float:
        found = cluster(counts, 3)
        assert len(found) == len(counts)
        return coded_size(count_by_class(symbols.ravel(), found, np.zeros(64, np.uint8), 15))

    every, one = size(), coded_size(counts.sum(axis=0, dtype=np.int64)[None])
    monkeypatch.setattr("mmcompress.format.codecs.classes.LEARNT_FROM", 1000)
    some = size()
    assert some != every  # another third of them might be learnt from
    assert some - every < 0.01 * (one - every)


def test_a_few_members_that_differ_most_begin_apart() -> None:
    """Of eight rows, seven are mostly 0; of ranks alone, four of them would begin with the last."""
    histograms = np.zeros((8, 40), np.int64)
    histograms[:, 0], histograms[:, 1] = 99, 1
    histograms[7] = np.eye(40)[39] * 100
    assert _begin(histograms, 2).tolist() == [0, 0, 0, 0, 0, 0, 0, 1]


def test_more_classes_are_tried_as_long_as_they_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []

    def spy(histograms: np.ndarray, number: int) -> np.ndarray:
        tried.append(number)
        return cluster(histograms, number)

    monkeypatch.setattr("mmcompress.format.codecs.classes.cluster", spy)
    choose_classes(planted(np.ones(200), np.ones(200)).ravel(), 200, 15)
    assert tried == [2, 2]  # of rows, of columns
    tried.clear()
    choose_classes(planted(np.ones(200), np.geomspace(0.2, 5, 200)).ravel(), 200, 15)
    assert tried == [2, 2, 4, 8]
