"""Bytes of tensors in a safetensors file, read and written without more than a few in memory.

The library checks header and offsets, and writes the file. What it cannot give is the bytes of a
part of a tensor whatever its dtype: numpy has no bfloat16.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import BinaryIO

import numpy as np
from safetensors import TensorSpec, safe_open, serialize_file

from mmcompress.format.dtypes import DTYPES
from mmcompress.format.errors import ArtifactError, refusing

LONGEST_HEADER = 2**16
"""Bytes of the header, which names a dozen tensors."""


class Stored:
    """One tensor of an open file.

    Args:
        file: to read from.
        lock: of the file, which has one place that is read next.
        offset: of its first byte.
        length: in bytes.
        dtype: its safetensors name.
        shape: of the tensor.
    """

    def __init__(
        self,
        file: BinaryIO,
        lock: Lock,
        offset: int,
        length: int,
        dtype: str,
        shape: tuple[int, ...],
    ) -> None:
        self._file, self._lock, self._offset = file, lock, offset
        self.length, self.dtype, self.shape = length, dtype, shape

    def read(self, start: int, stop: int) -> np.ndarray:
        """Bytes from `start` to `stop`, or to the end: uint8, a copy. Any thread may ask."""
        stop = min(stop, self.length)
        data = np.empty(max(stop - start, 0), np.uint8)
        with self._lock:
            self._file.seek(self._offset + start)
            self._file.readinto(data.data)  # type: ignore[attr-defined]
        return data


@contextmanager
def open_file(path: Path) -> Iterator[dict[str, Stored]]:
    """The tensors of a file by name; its library has checked header and offsets.

    Raises:
        ArtifactError: it is no safetensors file.
    """
    lock = Lock()
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > LONGEST_HEADER:
            raise ArtifactError(
                path, f"is no valid safetensors file (a header of {length:,} bytes)"
            )
        with refusing(path, "is no valid safetensors file"):
            with safe_open(path, framework="np"):
                pass
            header = json.loads(file.read(length))
            header.pop("__metadata__", None)
            tensors = {
                name: Stored(
                    file,
                    lock,
                    8 + length + about["data_offsets"][0],
                    about["data_offsets"][1] - about["data_offsets"][0],
                    about["dtype"],
                    tuple(about["shape"]),
                )
                for name, about in header.items()
            }
        yield tensors


def write_file(path: Path, tensors: Mapping[str, tuple[str, np.ndarray]]) -> None:
    """Write a file.

    Args:
        path: of the file.
        tensors: by name: dtype, and the values as bytes, (length,) uint8, which may be a map of
            another file. All are stored as one row of values.
    """
    serialize_file(
        {
            name: TensorSpec(
                dtype=dtype,
                shape=[len(data) // DTYPES[dtype].itemsize],
                data_ptr=data.ctypes.data,
                data_len=data.nbytes,
            )
            for name, (dtype, data) in tensors.items()
        },
        path,
    )
