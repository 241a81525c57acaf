"""The tensors that stay dense: those of one dtype lie in one bundle, one after the other.

A bundle is the 1-D tensor `dense.<dtype>`, its tensors in the order of their keys (a state dict's
own order differs between a model that was trained and its skeleton); or, where that is smaller,
`dense.<dtype>.zstd`, its bytes in a Zstandard frame.
"""

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmcompress.artifact.codecs import zstd

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

LARGEST_FRAME = 2**26
"""Bytes; a larger bundle is not compressed, for a frame can only be read as a whole."""


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
        halved: float32 is stored as float16.
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
    return name, f"{name}.zstd"


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
        plain, compressed = bundle_names(dtype)
        frame = _compress(bundle)
        bundles |= {plain: bundle} if frame is None else {compressed: frame}
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
    if compressed:
        zstd.check_frame(stored[: zstd.HEADER_BYTES], shape[0], size * dtype.itemsize)


def open_bundles(tensors: Any, places: Mapping[str, Place]) -> dict[torch.dtype, Any]:
    """The bundles, to be cut by `[start:end]`: slices of the file, or decompressed tensors.

    Args:
        tensors: the open file, its bundles checked.
        places: from `place_dense`.
    Raises:
        ValueError: a frame is damaged.
    """
    present = set(tensors.keys())
    opened: dict[torch.dtype, Any] = {}
    for dtype, size in bundle_sizes(places.values()).items():
        plain, compressed = bundle_names(dtype)
        if plain in present:
            opened[dtype] = tensors.get_slice(plain)
        else:
            opened[dtype] = zstd.decompress(tensors.get_tensor(compressed), dtype, size)
    return opened


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


def _compress(bundle: Tensor) -> Tensor | None:
    """A smaller frame, if there is one that may be read again."""
    if bundle.nbytes > LARGEST_FRAME:
        return None
    frame = zstd.compress(bundle)
    smaller = frame.nbytes + len(".zstd") < bundle.nbytes <= frame.nbytes * zstd.MAX_EXPANSION
    return frame if smaller else None
