"""Small integers ↔ bytes close to their entropy: asymmetric numeral systems with fixed tables.

Coder: `constriction` ("Understanding Entropy Coding With Asymmetric Numeral Systems (ANS): a
Statistician's Perspective", Bamler 2022, arXiv:2201.01741). It comes within a few bytes of what an
ideal coder with the same tables would need, also below one bit per symbol, where a code per bit
pattern (Huffman's, in Zstandard) cannot go. Which table a symbol is coded with follows from its row
and its column; `classes.py` says why.

A frame, little-endian:

    R, C      uint8 each: how many classes of rows and of columns
    k         uint16: symbols, at least 2
    tables    of the row classes if R > 1, of the column classes if C > 1, and R · C of the symbols;
              `tables.py` has their form
    words     uint32: class of each row, class of each column, then all symbols of the first pair
              of classes, of the second, …

Where every symbol is 0, the coder's state never moves from 0 and there are no words at all: seven
bytes hold any number of such symbols. How many are believed is no matter of a frame but of the
whole file (`mmcompress.format.bounds`).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import constriction
import numpy as np

from mmcompress.format.codecs.base import FLOATS, Arrays, Codec, Form, Forms, Offer, check_fields
from mmcompress.format.codecs.classes import Classes, choose_classes
from mmcompress.format.codecs.pack import codes_name, pack, unpack
from mmcompress.format.codecs.tables import pack_tables, unpack_tables

LARGEST_ALPHABET = 4096
"""Symbols; larger tables would cost more than they save."""

LEAST_SAVING = 0.004
"""Share of the bytes that it must save codes against other ways: it is read ten times as slowly."""


@dataclass(frozen=True)
class Ans(Codec):
    """The stage: codes, and the mask as symbols of its `width` bits, → frames.

    Attributes:
        of: names of the payloads that it codes.
    """

    name = "ans"
    order = 3
    of: tuple[str, ...]

    @classmethod
    def read(cls, stage: Mapping[str, Any]) -> Self:
        names = stage.get("of")
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError("its ans stage does not say of which payloads")
        check_fields(stage, "of")
        return cls(tuple(names))

    def layout(self, forms: Forms, present: Sequence[str]) -> Forms:
        found = dict(forms)
        for name in self.of:
            if name not in (codes_name(forms), "mask"):
                raise ValueError("its ans stage does not say of which payloads")
            if name not in forms:
                raise ValueError("it entropy codes a mask that it does not have")
            form = forms[name]
            if form.dtypes == FLOATS:
                raise ValueError("its stages pack floats")
            if not form.bits:
                raise ValueError("it packs codes and entropy codes them too")
            count = form.stream or form.count
            found[name] = form.changed(shape=(count,), symbols=True, bits=0, stream=0)
        return found

    def encode(self, arrays: Arrays, forms: Forms) -> Arrays:
        found = dict(arrays)
        for name in self.of:
            form = forms[name]
            if form.stream:
                symbols = unpack(arrays[name], form.stream, bits=form.bits)
            else:
                symbols = arrays[name].astype(np.int32) - _lowest(form)
            found[name] = encode_symbols(symbols, form.columns or None)
        return found

    def decode(self, arrays: Arrays, forms: Forms) -> Arrays:
        found = dict(arrays)
        for name in self.of:
            form = forms[name]
            count, alphabet = form.stream or form.count, LARGEST_ALPHABET
            if form.stream:
                alphabet = 2**form.bits
            symbols = decode_symbols(arrays[name], count, alphabet, form.columns or None)
            found[name] = pack(symbols, bits=form.bits) if form.stream else symbols + _lowest(form)
        return found

    @classmethod
    def offers(cls, name: str, codes: np.ndarray, form: Form) -> Iterator[Offer]:
        if 2**form.bits <= LARGEST_ALPHABET:
            symbols = codes.astype(np.int32) - _lowest(form)
            message = Message.of(symbols, form.columns or None)
            size = message.size * (1 + LEAST_SAVING)
            yield Offer({"codec": "ans", "of": [name]}, size, message.encode)


def _lowest(form: Form) -> int:
    return -(2 ** (form.bits - 1)) if form.signed else 0


@dataclass(frozen=True)
class Message:
    """Symbols of which it is decided how they will be coded.

    Attributes:
        symbols: (n,) int32.
        classes: which table codes which of them.
    """

    symbols: np.ndarray
    classes: Classes

    @classmethod
    def of(cls, symbols: np.ndarray, columns: int | None = None) -> Self:
        """Decide.

        Args:
            symbols: (n,) integers from 0; the largest is below `LARGEST_ALPHABET`.
            columns: length of a row of the matrix that they are; the last row may be cut off. All
                of them when None.
        Raises:
            ValueError: a symbol is negative or too large.
        """
        values = symbols.astype(np.int32)
        if len(values) and not 0 <= values.min() <= values.max() < LARGEST_ALPHABET:
            raise ValueError(f"symbols must lie in 0…{LARGEST_ALPHABET - 1}")
        alphabet = max(int(values.max(initial=0)) + 1, 2)
        return cls(values, choose_classes(values, columns or max(len(values), 1), alphabet))

    @property
    def size(self) -> int:
        """Bytes that its frame will take, within a word or two."""
        return 4 + int(self.classes.size)

    def encode(self) -> np.ndarray:
        """Its frame: (length,) uint8."""
        maps, counts = (self.classes.rows, self.classes.columns), self.classes.counts
        numbers = [int(classes.max(initial=0)) + 1 for classes in maps]
        alphabet = counts.shape[1]

        # What is coded, in the order of decoding: symbols, all with one table.
        runs = [classes.astype(np.int32) for classes in maps if classes.any()]
        tables = [pack_tables(np.bincount(run)[None]) for run in runs]
        weights = [unpack_tables(t, 1, max(r) + 1)[0][0] for r, t in zip(runs, tables, strict=True)]
        runs += _split(self.symbols, self.classes, numbers)
        tables.append(pack_tables(_at_least_two(counts)))
        weights += list(unpack_tables(tables[-1], *counts.shape)[0])

        coder = constriction.stream.stack.AnsCoder()
        for run, table in reversed(list(zip(runs, weights, strict=True))):  # last in, first out
            if len(run):
                coder.encode_reverse(run, _model(table))
        head = np.array([*numbers, alphabet % 256, alphabet // 256], np.uint8)
        words = coder.get_compressed().astype("<u4").view(np.uint8)
        return np.concatenate([head, *tables, words])


def encode_symbols(symbols: np.ndarray, columns: int | None = None) -> np.ndarray:
    """Symbols → one frame, (length,) uint8; `Message.of` describes the arguments."""
    return Message.of(symbols, columns).encode()


def decode_symbols(
    frame: np.ndarray, count: int, alphabet: int, columns: int | None = None
) -> np.ndarray:
    """The inverse: (count,) int32.

    Args:
        frame: (length,) uint8.
        count: how many symbols it must hold.
        alphabet: how many different symbols make sense.
        columns: as in `Message.of`.
    Raises:
        ValueError: the frame is damaged, or holds many more or fewer symbols. (A few too many or
            too few the code itself cannot tell.)
    """
    data = frame
    columns = columns or max(count, 1)
    lengths = -(-count // columns), columns
    numbers, size = data[:2].tolist(), int.from_bytes(data[2:4].tobytes(), "little")
    if len(data) < 4 or not 2 <= size <= alphabet or not 1 <= min(numbers) <= max(numbers) <= 8:
        raise ValueError(f"its frame of {len(data)} bytes holds no tables of {alphabet} symbols")
    used, map_tables = 4, []
    for number in numbers:
        table, more = unpack_tables(data[used:], int(number > 1), number)
        map_tables.append(table)
        used += more
    tables, more = unpack_tables(data[used:], numbers[0] * numbers[1], size)
    coder = _open(data[used + more :])
    maps = [
        _pop(coder, length, table[0]) if len(table) else np.zeros(length, np.int32)
        for length, table in zip(lengths, map_tables, strict=True)
    ]
    row_classes, column_classes = (classes.astype(np.uint8) for classes in maps)
    matrix = np.empty(lengths, np.int32)
    pairs = iter(tables)
    for rows, parts in _by_pair(row_classes, column_classes, numbers, count):
        block = np.empty_like(matrix[rows])
        for where, width, missing in parts:
            run = _pop(coder, len(block) * width - missing, next(pairs))
            block[:, where] = _padded(run, missing).reshape(len(block), width)
        matrix[rows] = block
    values = matrix.reshape(-1)[:count]
    if not coder.is_empty():
        raise ValueError(f"its frame does not hold the {count} symbols expected")
    return values


def _by_pair(
    row_classes: np.ndarray, column_classes: np.ndarray, numbers: Sequence[int], count: int
) -> Iterator[tuple[Any, list[tuple[Any, int, int]]]]:
    """Where the symbols of each pair of classes stand, in the order in which they are coded.

    Args:
        row_classes, column_classes: of a matrix.
        numbers: how many there are of either.
        count: how many symbols it holds; the last row may be cut off.
    Yields:
        Rows of one class; and for each class of columns these, how many there are, and how many of
        them the last row lacks.
    """
    rest = count - (len(row_classes) - 1) * len(column_classes)  # in the last row
    columns = [np.flatnonzero(column_classes == number) for number in range(numbers[1])]
    for number in range(numbers[0]):
        rows = np.flatnonzero(row_classes == number)
        cut = len(rows) > 0 and rows[-1] == len(row_classes) - 1
        lacks = [int((where >= rest).sum()) if cut else 0 for where in columns]
        # A slice copies nothing.
        places = columns if numbers[1] > 1 else [slice(None)]
        yield (
            rows if numbers[0] > 1 else slice(None),
            list(zip(places, map(len, columns), lacks, strict=True)),
        )


def _split(symbols: np.ndarray, classes: Classes, numbers: Sequence[int]) -> list[np.ndarray]:
    """The symbols of each pair of classes, in order."""
    shape, runs = (len(classes.rows), len(classes.columns)), []
    matrix = _padded(symbols, shape[0] * shape[1] - len(symbols)).reshape(shape)
    for rows, parts in _by_pair(classes.rows, classes.columns, numbers, len(symbols)):
        block = matrix[rows]
        for where, width, missing in parts:
            runs.append(block[:, where].reshape(-1)[: len(block) * width - missing])
    return runs


def _padded(values: np.ndarray, missing: int) -> np.ndarray:
    return np.pad(values, (0, missing)) if missing else values


def _at_least_two(counts: np.ndarray) -> np.ndarray:
    """A second symbol for each table that is used for one only."""
    counts = counts.copy()
    sole = np.flatnonzero((counts > 0).sum(axis=1) == 1)
    counts[sole, (counts[sole].argmax(axis=1) + 1) % counts.shape[1]] = 1
    return counts


def _open(data: np.ndarray) -> constriction.stream.stack.AnsCoder:
    if len(data) % 4:
        raise ValueError(f"its {len(data)} bytes of code end within a word")
    words = np.frombuffer(data.tobytes(), dtype="<u4").astype(np.uint32)
    try:
        return constriction.stream.stack.AnsCoder(words)
    except ValueError as error:
        raise ValueError(f"its words are no code ({error})") from error


def _pop(coder: constriction.stream.stack.AnsCoder, count: int, table: np.ndarray) -> np.ndarray:
    if not count:
        return np.zeros(0, np.int32)
    if not table.any():
        raise ValueError("its table gives no symbol a probability")
    return np.asarray(coder.decode(_model(table), count), dtype=np.int32)


def _model(weights: np.ndarray) -> constriction.stream.model.Categorical:
    probabilities = (weights / weights.sum()).astype(np.float32)
    return constriction.stream.model.Categorical(probabilities, perfect=False)
