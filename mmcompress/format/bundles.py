"""The tensors that stay dense: those of one dtype lie in one bundle, one after the other.

A bundle is the 1-D tensor `dense.<dtype>`, its tensors in the order of their names; or, where that
is smaller, `dense.<dtype>.planes`: frames of byte planes, one after the other, for `FRAME` values
each. Each file has bundles of its own.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from mmcompress.format.codecs import planes
from mmcompress.format.dtypes import DTYPES
from mmcompress.format.names import Entry
from mmcompress.format.table import split_by_file
from mmcompress.format.tensorfile import Stored

FRAME = 2**22
"""Values; a frame can only be read as a whole, and must not take much memory."""


@dataclass(frozen=True)
class Place:
    """Where one dense tensor lies.

    Attributes:
        dtype: name of the dtype of the bundle.
        file: which of the files, from 0.
        start: of its first value in the bundle.
        shape: of the tensor.
    """

    dtype: str
    file: int
    start: int
    shape: tuple[int, ...]

    @property
    def end(self) -> int:
        """After its last value in the bundle."""
        return self.start + prod(self.shape)


def place_dense(
    entries: Mapping[str, Entry], tensors_by_file: Sequence[int], *, halved: bool
) -> dict[str, Place]:
    """Where each dense tensor lies, by name.

    Args:
        entries: all tensors by name, in the order of their names.
        tensors_by_file: how many of these, in turn, each file holds.
        halved: float32 is stored as float16; what that cannot hold is no dense tensor.
    """
    places: dict[str, Place] = {}
    for file, names in enumerate(split_by_file(entries, tensors_by_file)):
        ends: dict[str, int] = {}
        for name in names:
            entry = entries[name]
            if entry.row is None:
                dtype = stored_dtype(entry.dtype, halved=halved)
                places[name] = Place(dtype, file, ends.get(dtype, 0), entry.shape)
                ends[dtype] = places[name].end
    return places


def stored_dtype(dtype: str, *, halved: bool) -> str:
    """What a dense tensor of that dtype is stored as."""
    return "float16" if halved and dtype == "float32" else dtype


def bundle_sizes(places: Iterable[Place], file: int = 0) -> dict[str, int]:
    """How many values each bundle of a file holds; those without any are not stored."""
    sizes: dict[str, int] = {}
    for place in places:
        if place.file == file:
            sizes[place.dtype] = sizes.get(place.dtype, 0) + prod(place.shape)
    return {dtype: size for dtype, size in sizes.items() if size}


def bundle_names(dtype: str) -> tuple[str, str]:
    """Names of a bundle as it is, and compressed."""
    return f"dense.{dtype}", f"dense.{dtype}.planes"


def to_frames(values: np.ndarray) -> Iterator[np.ndarray]:
    """The frames of a bundle, in order; each is (length,) uint8.

    Args:
        values: (n,), which may be a map of a file: one frame of it at a time is looked at.
    """
    for start in range(0, len(values), FRAME):
        yield planes.compress(np.asarray(values[start : start + FRAME]))


def check_bundle(name: str, dtype: str, size: int, stored: Stored) -> None:
    """Refuse a bundle before anything is allocated for it.

    Args:
        name: one of `bundle_names`.
        dtype: of the bundle.
        size: how many values it must hold.
        stored: the tensor in the file.
    Raises:
        ValueError: it is of another dtype or size.
    """
    compressed = name == bundle_names(dtype)[1]
    expected = "U8" if compressed else DTYPES[dtype].safetensors
    if stored.dtype != expected:
        raise ValueError(f"it is {stored.dtype} where {expected} is expected")
    shape = stored.shape
    if len(shape) != 1 or (shape != (size,) and not compressed):
        raise ValueError(f"it has shape {shape}, the model has {size} such values")
    if compressed and _find_frames(stored, dtype, size)[-1] != shape[0]:
        raise ValueError(f"its frames do not add up to its {shape[0]} bytes")


def open_bundle(tensors: Mapping[str, Stored], dtype: str, size: int) -> "Bundle":
    """A bundle of an open file, checked: values from `start` to `stop` by `[start:stop]`."""
    plain, compressed = bundle_names(dtype)
    if plain in tensors:
        return Bundle(tensors[plain], dtype, size)
    return Bundle(tensors[compressed], dtype, size, framed=True)


class Bundle:
    """A bundle of which parts can be read; of frames, one at a time is decompressed.

    Args:
        stored: the tensor in the file, checked.
        dtype: of the values.
        size: how many there are.
        framed: they are frames.
    """

    def __init__(self, stored: Stored, dtype: str, size: int, *, framed: bool = False) -> None:
        self.stored, self.size = stored, size
        self.dtype = DTYPES[dtype]
        self._ends = _find_frames(stored, dtype, size) if framed else []
        self._last: tuple[int, np.ndarray] = (-1, np.empty(0))

    def __getitem__(self, wanted: slice) -> np.ndarray:
        """Values from `start` to `stop`, a copy.

        Raises:
            ValueError: a frame is damaged.
        """
        width = self.dtype.itemsize
        if not self._ends:
            data = self.stored.read(wanted.start * width, wanted.stop * width)
            return data.view(self.dtype.numpy)
        found = np.empty(wanted.stop - wanted.start, self.dtype.numpy)
        for index in range(wanted.start // FRAME, -(-wanted.stop // FRAME)):
            first = index * FRAME
            start, end = max(wanted.start, first), min(wanted.stop, first + FRAME)
            part = self._frame(index)[start - first : end - first]
            found[start - wanted.start : end - wanted.start] = part
        return found

    def _frame(self, index: int) -> np.ndarray:
        if self._last[0] != index:
            begin = self._ends[index - 1] if index else 0
            count = min(FRAME, self.size - index * FRAME)
            data = self.stored.read(begin, self._ends[index])
            self._last = index, planes.decompress(data, self.dtype.numpy, count)
        return self._last[1]


def _find_frames(stored: Stored, dtype: str, size: int) -> list[int]:
    """Where each frame of a bundle ends.

    Raises:
        ValueError: a frame is none, or cannot hold what it must.
    """
    ends, width = [0], DTYPES[dtype].itemsize
    for first in range(0, size, FRAME):
        head = stored.read(ends[-1], ends[-1] + planes.HEADER_BYTES)
        ends.append(ends[-1] + planes.frame_length(head, min(FRAME, size - first), width))
    return ends[1:]
