"""The tensors that stay dense: those of one dtype lie in one bundle, one after the other.

A bundle is the 1-D tensor `dense.<dtype>`, its tensors in the order of their keys (a state dict's
own order differs between a model that was trained and its skeleton); or, where that is smaller,
`dense.<dtype>.planes`: frames of byte planes, one after the other, for `FRAME` values each.
"""

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmcompress.format.codecs import planes
from mmcompress.system.memory import give_back

STORED_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""What dense tensors may be, and safetensors' name for it."""

FRAME = 2**22
"""Values; a frame can only be read as a whole, and must not take much memory."""


@dataclass(frozen=True)
class Place:
    """Where one dense tensor lies.

    Attributes:
        dtype: of the bundle.
        start: of its first value in the bundle.
        shape: of the tensor.
    """

    dtype: torch.dtype
    start: int
    shape: torch.Size

    @property
    def end(self) -> int:
        """After its last value in the bundle."""
        return self.start + self.shape.numel()


def place_dense(
    state: Mapping[str, Tensor], elsewhere: Collection[str], *, halved: bool
) -> dict[str, Place]:
    """Where each tensor lies, by key.

    Args:
        state: of the model, on any device.
        elsewhere: keys that are encoded, or stored under another name.
        halved: float32 is stored as float16; what that cannot hold is `elsewhere`.
    """
    places: dict[str, Place] = {}
    ends: dict[torch.dtype, int] = {}
    for key in sorted(state.keys() - set(elsewhere)):
        tensor = state[key]
        dtype = torch.float16 if halved and tensor.dtype == torch.float32 else tensor.dtype
        places[key] = Place(dtype, ends.get(dtype, 0), tensor.shape)
        ends[dtype] = places[key].end
    return places


def bundle_sizes(places: Iterable[Place]) -> dict[torch.dtype, int]:
    """How many values each bundle holds; those without any are not stored."""
    sizes: dict[torch.dtype, int] = {}
    for place in places:
        sizes[place.dtype] = sizes.get(place.dtype, 0) + place.shape.numel()
    return {dtype: size for dtype, size in sizes.items() if size}


def bundle_names(dtype: torch.dtype) -> tuple[str, str]:
    """Names of a bundle as it is, and compressed."""
    name = f"dense.{str(dtype).removeprefix('torch.')}"
    return name, f"{name}.planes"


def make_bundles(state: Mapping[str, Tensor], places: Mapping[str, Place]) -> dict[str, Tensor]:
    """The bundles to store, by name.

    Args:
        state: on the CPU, contiguous.
        places: from `place_dense`.
    Raises:
        AssertionError: a tensor is of a dtype that is not stored, or not exact in that of its
            bundle.
    """
    bundles: dict[str, Tensor] = {}
    for dtype, size in bundle_sizes(places.values()).items():
        assert dtype in STORED_DTYPES, f"{dtype} has no place in the file"
        bundle = torch.empty(size, dtype=dtype)
        for key, place in places.items():
            if place.dtype == dtype:
                bundle[place.start : place.end] = _exactly(key, state[key].flatten(), dtype)
                give_back([state[key]])
        plain, compressed = bundle_names(dtype)
        frames = torch.cat([planes.compress(part) for part in bundle.split(FRAME)])
        smaller = frames.nbytes < bundle.nbytes
        bundles |= {compressed: frames} if smaller else {plain: bundle}
    return bundles


def check_bundle(name: str, dtype: torch.dtype, size: int, stored: Any) -> None:
    """Refuse a bundle before anything is allocated for it.

    Args:
        name: one of `bundle_names`.
        dtype: of the bundle.
        size: how many values it must hold.
        stored: a safetensors slice of it: dtype and shape cost nothing.
    Raises:
        ValueError: it is of another dtype or size.
    """
    compressed = name == bundle_names(dtype)[1]
    expected = "U8" if compressed else STORED_DTYPES.get(dtype)
    if stored.get_dtype() != expected:
        raise ValueError(f"it is {stored.get_dtype()} where {expected} is expected")
    shape = tuple(stored.get_shape())
    if len(shape) != 1 or (shape != (size,) and not compressed):
        raise ValueError(f"it has shape {shape}, the model has {size} such values")
    if compressed and _find_frames(stored, dtype, size)[-1] != shape[0]:
        raise ValueError(f"its frames do not add up to its {shape[0]} bytes")


def open_bundles(tensors: Any, places: Mapping[str, Place]) -> dict[torch.dtype, Any]:
    """The bundles, to be cut by `[start:end]`: slices of the file, or `Frames`.

    Args:
        tensors: the open file, its bundles checked.
        places: from `place_dense`.
    """
    present = set(tensors.keys())
    opened: dict[torch.dtype, Any] = {}
    for dtype, size in bundle_sizes(places.values()).items():
        plain, compressed = bundle_names(dtype)
        if plain in present:
            opened[dtype] = tensors.get_slice(plain)
        else:
            opened[dtype] = Frames(tensors.get_slice(compressed), dtype, size)
    return opened


class Frames:
    """A bundle of frames, of which one at a time is decompressed.

    Args:
        stored: a safetensors slice of it, checked.
        dtype: of the values.
        size: how many there are.
    """

    def __init__(self, stored: Any, dtype: torch.dtype, size: int) -> None:
        self.stored, self.dtype, self.size = stored, dtype, size
        self._ends = _find_frames(stored, dtype, size)
        self._last: tuple[int, Tensor] = (-1, torch.empty(0))

    def __getitem__(self, wanted: slice) -> Tensor:
        """Values from `start` to `stop`.

        Raises:
            ValueError: a frame is damaged.
        """
        found = torch.empty(wanted.stop - wanted.start, dtype=self.dtype)
        for index in range(wanted.start // FRAME, -(-wanted.stop // FRAME)):
            first = index * FRAME
            start, end = max(wanted.start, first), min(wanted.stop, first + FRAME)
            part = self._frame(index)[start - first : end - first]
            found[start - wanted.start : end - wanted.start] = part
        return found

    def _frame(self, index: int) -> Tensor:
        if self._last[0] != index:
            begin = self._ends[index - 1] if index else 0
            count = min(FRAME, self.size - index * FRAME)
            data = self.stored[begin : self._ends[index]]
            self._last = index, planes.decompress(data, self.dtype, count)
        return self._last[1]


def _find_frames(stored: Any, dtype: torch.dtype, size: int) -> list[int]:
    """Where each frame of a bundle ends.

    Raises:
        ValueError: a frame is none, or cannot hold what it must.
    """
    ends, length = [0], stored.get_shape()[0]
    for first in range(0, size, FRAME):
        begin = ends[-1]
        head = stored[min(begin, length) : min(begin + planes.HEADER_BYTES, length)]
        count = min(FRAME, size - first)
        ends.append(begin + planes.frame_length(head, count, dtype.itemsize))
    return ends[1:]


def fingerprint(state: Mapping[str, Tensor]) -> str:
    """SHA-256, in hex, of the names, shapes and dtypes of a model's tensors.

    Bundles hold neither, so another model of as many values would read them without complaint:
    the same one as another version of its library builds it, for example.
    """
    described = [[key, list(t.shape), str(t.dtype)] for key, t in sorted(state.items())]
    return hashlib.sha256(json.dumps(described).encode()).hexdigest()


def _exactly(key: str, values: Tensor, dtype: torch.dtype) -> Tensor:
    if values.dtype == dtype:
        return values
    rounded = values.to(dtype)
    name = str(dtype).removeprefix("torch.")
    assert torch.equal(rounded.to(values.dtype), values), f"{key} is not rounded to {name}"
    return rounded
