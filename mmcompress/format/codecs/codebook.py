"""Floats ↔ indices into a table of shared entries, W = W_s[I].

Entries may coincide, so that the indices cannot be read off the floats: who shares weights hands
the indices over.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from mmcompress.format.codecs.base import (
    FLOATS,
    Arrays,
    Form,
    Forms,
    ValueCodec,
    check_divides,
    check_fields,
    say_groups,
    whole,
)


@dataclass(frozen=True)
class Codebook(ValueCodec):
    """The stage: each run of `block_size` neighbors in a row is one entry of the codebook.

    Attributes:
        block_size: weights that an entry stands for.
        entries: in the codebook.
        group_size: columns that share a factor, `scale`; 0 where there is none.
    """

    name = "codebook"
    codes = "indices"
    sides: ClassVar[tuple[str, ...]] = ("indices", "codebook", "scale")
    block_size: int
    entries: int
    group_size: int = 0

    @property
    def bits(self) -> int:  # type: ignore[override]
        """Of an index."""
        return max((self.entries - 1).bit_length(), 1)

    @classmethod
    def read(cls, stage: Mapping[str, Any]) -> Self:
        check_fields(stage, "block_size", "entries", optional=["group_size"])
        group_size = whole(stage, "group_size", 2**63) if "group_size" in stage else 0
        entries = whole(stage, "entries", 2**16)
        return cls(whole(stage, "block_size", 2**63), entries, group_size)

    def layout(self, forms: Forms, present: Sequence[str]) -> Forms:
        rows, columns = forms["values"].shape
        check_divides(self.name, "block_size", self.block_size, columns)
        blocks = columns // self.block_size
        found = {
            "codebook": Form((self.entries, self.block_size), FLOATS),
            "indices": Form((rows * blocks,), bits=self.bits, columns=blocks),
        }
        if self.group_size:
            check_divides(self.name, "group_size", self.group_size, columns)
            found["scale"] = Form((rows, columns // self.group_size), FLOATS)
        return found

    def encode(self, arrays: Arrays, forms: Forms) -> Arrays:
        return {name: values for name, values in arrays.items() if name != "values"}

    def open_sides(self, arrays: Arrays) -> Arrays:
        return {name: arrays[name] for name in ("codebook", "scale") if name in arrays}

    def to_floats(self, codes: np.ndarray, sides: Mapping[str, np.ndarray]) -> np.ndarray:
        values = sides["codebook"].astype(np.float32)[codes.reshape(-1)].reshape(len(codes), -1)
        if "scale" not in sides:
            return values
        scale = sides["scale"].astype(np.float32)
        return (values.reshape(*scale.shape, -1) * scale[..., None]).reshape(values.shape)

    def check_codes(self, codes: np.ndarray, form: Form) -> None:
        if codes.size and not 0 <= codes.min() <= codes.max() < self.entries:
            raise ValueError("an index points past the end of its codebook")

    def describe(self, columns: int) -> list[str]:
        words = [f"{self.entries} entries"]
        words += [f"blocks of {self.block_size}"] if self.block_size > 1 else []
        return words + ([say_groups(self.group_size, columns)] if self.group_size else [])
