"""Rows and columns of a matrix of symbols, sorted into classes that share a probability table.

Weights of one input or output channel are of one magnitude, and so are their codes: a table per
pair of a row class and a column class makes codes of low entropy some 5 % smaller than one table
for all. It is the model of "Information-Theoretic Co-clustering", Dhillon, Mallela & Modha 2003
(KDD, section 3): classes are chosen so that what the coder needs in all is least. Where we differ:
rows and columns are clustered apart from each other, because alternating between the two made
codes of a fine-tuned CLIP only 0.02 % smaller; and more classes are tried only as long as they pay.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from mmcompress.format.codecs.tables import coded_size

NUMBERS = (2, 4, 8)
"""Classes that are tried for rows alone and for columns alone, in turn."""

LEAST_GAIN = 0.002
"""Share of the bytes that a number of classes must save, for the next larger one to be tried."""

SHORTEST = 8
"""Symbols in a row or column from which something can be learnt about it."""

FEWEST = 4096
"""Symbols below which the classes and their tables would take more than they save."""

ITERATIONS = 20

SETTLED = 2e-4
"""Share of the bits that an iteration must save, for another one to follow."""

LEARNT_FROM = 8192
"""Members at most from which classes are learnt; of more, every second, third, … is taken."""

CHUNK = 2**20
"""Symbols that are counted at once."""

HELD = 2**22
"""Counts of which all parts are held as float64 meanwhile, 32 MiB."""

PART = 2**17
"""Counts that are worked on at once; they stay in the cache."""


@dataclass(frozen=True)
class Classes:
    """Which table codes which symbol.

    Attributes:
        rows: class of each row, from 0, uint8.
        columns: class of each column, from 0, uint8.
        counts: (row classes · column classes, symbols): how often each pair has each symbol.
        size: bytes that symbols, tables and classes take together, an ideal coder given.
    """

    rows: np.ndarray
    columns: np.ndarray
    counts: np.ndarray
    size: float


def choose_classes(symbols: np.ndarray, columns: int, alphabet: int) -> Classes:
    """The classes that make tables, classes and symbols smallest together.

    Args:
        symbols: (n,) integers from 0, row by row; the last row may be cut off.
        columns: length of a row.
        alphabet: how many different symbols there are.
    """
    rows = -(-len(symbols) // columns)
    none = np.zeros(rows, np.uint8), np.zeros(columns, np.uint8)
    whole = np.bincount(symbols, minlength=alphabet)[None]
    found = [Classes(*none, whole, coded_size(whole))]
    if len(symbols) < FEWEST:
        return found[0]
    by_row, by_column = _histograms(symbols, rows, columns, alphabet)
    of_rows = [Classes(c, none[1], *sums) for c, sums in _cluster_all(by_row, found[0])]
    of_columns = [Classes(none[0], c, *sums) for c, sums in _cluster_all(by_column, found[0])]
    # Both together: the best of either, and one of the two with its second best.
    some_rows = sorted(of_rows, key=lambda classes: classes.size)[:2]
    some_columns = sorted(of_columns, key=lambda classes: classes.size)[:2]
    for i, r in enumerate(some_rows):
        for j, c in enumerate(some_columns):
            if i + j < 2 and max(r.size, c.size) < found[0].size:
                counts = count_by_class(symbols, r.rows, c.columns, alphabet)
                size = coded_size(counts) + _map_size(r.rows) + _map_size(c.columns)
                found.append(Classes(r.rows, c.columns, counts, size))
    return min([*found, *of_rows, *of_columns], key=lambda classes: classes.size)


def _cluster_all(
    histograms: np.ndarray, whole: Classes
) -> Iterator[tuple[np.ndarray, tuple[np.ndarray, float]]]:
    """Classes of each number that pays, or nearly: what they are, their counts, and all bytes.

    Args:
        histograms: of rows, or of columns; perhaps none.
        whole: a single class.
    """
    best = whole.size
    for number in NUMBERS:
        if number > len(histograms):
            return
        classes = cluster(histograms, number)
        counts = _sum_by(classes, histograms).astype(np.int64)
        size = coded_size(counts) + _map_size(classes)
        yield classes, (counts, size)
        if size > best * (1 - LEAST_GAIN):
            return
        best = size


def cluster(histograms: np.ndarray, number: int) -> np.ndarray:
    """k-means whose distance is the bits that a member's symbols take with the class's table.

    Args:
        histograms: (members, symbols), counts.
        number: of classes.
    Returns:
        (members,) uint8, class of each; some may be empty.
    """
    step = -(-len(histograms) // LEARNT_FROM)
    everything, histograms = histograms, histograms[::step]
    found, spent = _begin(histograms, number), np.inf
    parts = list(_parts(histograms)) if histograms.size <= HELD else None
    for _ in range(ITERATIONS):
        new, bits = _assign(found, histograms, parts or _parts(histograms), number)
        settled = spent - bits <= SETTLED * bits
        found, spent = new, bits
        if settled:
            break
    if step == 1:
        return found
    return _assign(found, histograms, _parts(everything), number)[0]


def _begin(histograms: np.ndarray, number: int) -> np.ndarray:
    """Classes of members that are alike in how far their symbols lie from the most common one.

    They are of equal width on a scale halfway between the rank of that distance and its logarithm:
    ranks alone leave the few members that differ most in a class with many that do not.
    """
    common = histograms.sum(axis=0).argmax()
    far = np.abs(np.arange(histograms.shape[1]) - common)
    sums = [counts @ far / np.maximum(counts.sum(axis=1), 1) for _, counts in _parts(histograms)]
    distance = np.concatenate(sums)
    level = np.log2(distance + max(distance.mean(), 1e-9) / 8)
    level = (level - level.min()) / max(float(np.ptp(level)), 1e-9)
    rank = np.empty(len(level))
    rank[distance.argsort(kind="stable")] = np.arange(len(level)) / len(level)
    return np.minimum((level + rank) / 2 * number, number - 1).astype(np.uint8)


def _assign(
    classes: np.ndarray,
    histograms: np.ndarray,
    parts: Iterable[tuple[slice, np.ndarray]],
    number: int,
) -> tuple[np.ndarray, float]:
    """The class whose table codes each member in the fewest bits, (members,) uint8; and these.

    Args:
        classes: of the members of `histograms`, which make the tables.
        histograms: counts.
        parts: of the members that are assigned, all in turn.
        number: of classes.
    """
    smooth = _sum_by(classes, histograms, number) + 0.05
    bits = -np.log2(smooth / smooth.sum(axis=1, keepdims=True))
    share = np.bincount(classes, minlength=number) + 0.5
    named = -np.log2(share / share.sum())
    found, spent = [], 0.0
    for _, counts in parts:
        costs = counts @ bits.T + named
        found.append(costs.argmin(axis=1).astype(np.uint8))
        spent += float(costs.min(axis=1).sum())
    return np.concatenate(found), spent


def count_by_class(
    symbols: np.ndarray, row_classes: np.ndarray, column_classes: np.ndarray, alphabet: int
) -> np.ndarray:
    """How often each pair of classes has each symbol: (row classes · column classes, alphabet)."""
    numbers = int(row_classes.max(initial=0)) + 1, int(column_classes.max(initial=0)) + 1
    counts = np.zeros(numbers[0] * numbers[1] * alphabet, np.int64)
    for rows, block in _blocks(symbols, len(column_classes)):
        pairs = pair_classes(row_classes[rows], column_classes[: block.shape[1]], numbers[1])
        places = pairs * np.intp(alphabet) + block.ravel()
        counts += np.bincount(places, minlength=len(counts))
    return counts.reshape(-1, alphabet)


def pair_classes(row_classes: np.ndarray, column_classes: np.ndarray, number: int) -> np.ndarray:
    """The pair of classes of each element, row by row: (rows · columns,) uint8.

    Args:
        number: of column classes.
    """
    return (row_classes[:, None] * np.uint8(number) + column_classes).ravel()


def _histograms(
    symbols: np.ndarray, rows: int, columns: int, alphabet: int
) -> tuple[np.ndarray, np.ndarray]:
    """Counts by row and by column; empty where a row or column is too short to say much."""
    least = max(alphabet // 4, SHORTEST)
    # In as few bytes as they fit: those of short rows would be many times larger than the symbols.
    by_row = np.zeros((rows if columns >= least else 0, alphabet), np.min_scalar_type(columns))
    by_column = np.zeros((columns if rows >= least else 0, alphabet), np.min_scalar_type(rows))
    for place, block in _blocks(symbols, columns):
        height, width = block.shape
        if len(by_row):
            keys = np.arange(height)[:, None] * alphabet + block
            counts = np.bincount(keys.ravel(), minlength=height * alphabet)
            by_row[place] = counts.reshape(height, alphabet)
        if len(by_column):
            keys = np.arange(width) * alphabet + block
            counts = np.bincount(keys.ravel(), minlength=width * alphabet)
            by_column[:width] += counts.reshape(width, alphabet).astype(by_column.dtype)
    return by_row, by_column


def _blocks(symbols: np.ndarray, columns: int) -> Iterator[tuple[slice, np.ndarray]]:
    """The matrix in runs of whole rows, and what is left of the last row: (which rows, values)."""
    whole = len(symbols) // columns
    height = max(CHUNK // columns, 1)
    for start in range(0, whole, height):
        rows = slice(start, min(start + height, whole))
        yield rows, symbols[rows.start * columns : rows.stop * columns].reshape(-1, columns)
    if rest := len(symbols) - whole * columns:
        yield slice(whole, whole + 1), symbols[-rest:].reshape(1, rest)


def _sum_by(classes: np.ndarray, histograms: np.ndarray, number: int = 0) -> np.ndarray:
    """Histograms of classes: (classes, symbols)."""
    number = number or int(classes.max(initial=0)) + 1
    sums = np.zeros((number, histograms.shape[1]))
    for rows, counts in _parts(histograms):
        sums += _members(classes[rows], number) @ counts
    return sums


def _members(classes: np.ndarray, number: int) -> np.ndarray:
    """1 where a column's class is the row's: (number, members) float64."""
    return (np.arange(number)[:, None] == classes).astype(np.float64)


def _parts(histograms: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Which rows, and these as float64, which for all would take many times the memory.

    As many as a power of two: products of parts are then those of the whole, bit for bit.
    """
    members, symbols = histograms.shape
    size = max(PART >> (symbols - 1).bit_length(), 32)
    for start in range(0, members, size):
        rows = slice(start, start + size)
        yield rows, histograms[rows].astype(np.float64)


def _map_size(classes: np.ndarray) -> float:
    return coded_size(np.bincount(classes)[None])
