"""Codes of all weights ↔ codes of the weights that a mask keeps, and the mask as bits.

Bit j of byte i is mask 8i + j, row by row; unused bits are 0. A code of several weights (a block of
a codebook) is kept where the mask keeps any of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from mmcompress.format.codecs.base import (
    Arrays,
    Codec,
    Form,
    Forms,
    check_divides,
    check_fields,
    whole,
)
from mmcompress.format.codecs.pack import codes_name, packed_length


@dataclass(frozen=True)
class Bitmask(Codec):
    """The stage. Before it, `mask` is bool, one for each weight.

    Attributes:
        kept: codes that are stored.
        width: bits of the mask that are one symbol where it is entropy coded: N of M neighbors
            that are kept leave few symbols of M bits.
    """

    name = "bitmask"
    order = 1
    kept: int
    width: int = 1

    @classmethod
    def read(cls, stage: Mapping[str, Any]) -> Self:
        check_fields(stage, "kept", optional=["width"])
        return cls(stage["kept"], whole({"width": 1, **stage}, "width", 8))

    def layout(self, forms: Forms, present: Sequence[str]) -> Forms:
        name, (rows, columns) = codes_name(forms), forms["mask"].shape
        check_divides(self.name, "width", self.width, columns)
        stage = {"codec": self.name, "kept": self.kept}
        whole(stage, "kept", forms[name].count, low=0)
        length = packed_length(rows * columns, 1)
        width = columns // self.width
        mask = Form((length,), bits=self.width, stream=rows * width, columns=width)
        return forms | {name: forms[name].changed(shape=(self.kept,), columns=0), "mask": mask}

    def encode(self, arrays: Arrays, forms: Forms) -> Arrays:
        name, mask = codes_name(forms), arrays["mask"].reshape(-1)
        kept = arrays[name][_of_blocks(mask, forms[name].count)]
        return arrays | {name: kept, "mask": pack_mask(mask)}

    def decode(self, arrays: Arrays, forms: Forms) -> Arrays:
        name, form = codes_name(forms), forms["mask"]
        mask = unpack_mask(arrays["mask"], form.count)
        codes = densify(arrays[name], _of_blocks(mask, forms[name].count))
        return arrays | {name: codes, "mask": mask.reshape(form.shape)}

    def describe(self, columns: int) -> list[str]:
        return ["masked"]


def densify(kept: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Put kept values back in their places; the others are 0.

    Args:
        kept: (kept,).
        mask: (n,) bool, with as many True as there are values.
    Returns:
        (n,), dtype of `kept`.
    Raises:
        ValueError: the mask does not keep that many.
    """
    count = int(np.count_nonzero(mask))
    if count != len(kept):
        raise ValueError(f"the mask keeps {count} values and there are {len(kept)}")
    values = np.zeros(len(mask), kept.dtype)
    values[mask] = kept
    return values


def pack_mask(mask: np.ndarray) -> np.ndarray:
    """(n,) bool → (⌈n / 8⌉,) uint8; bit j of byte i is mask 8i + j, unused bits are 0."""
    return np.packbits(mask, bitorder="little")


def unpack_mask(packed: np.ndarray, count: int) -> np.ndarray:
    """The inverse of `pack_mask`: (count,) bool.

    Raises:
        ValueError: an unused bit is set: these bytes are not ours.
    """
    bits = np.unpackbits(packed, bitorder="little")
    if bits[count:].any():
        raise ValueError("unused bits of a mask are set")
    return bits[:count].astype(bool)


def _of_blocks(mask: np.ndarray, count: int) -> np.ndarray:
    """(count,) bool: which codes stand for a weight that is kept."""
    return mask if len(mask) == count else np.any(mask.reshape(count, -1), axis=1, keepdims=False)
