"""Floats ↔ integers on a uniform grid, one scale (and zero point) per group of columns.

`functional/integers.py` has the same maths for training; both give the same bits.
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
from mmcompress.format.codecs.pack import pack, packed_length, unpack

GRIDS = ("symmetric", "midrise")


@dataclass(frozen=True)
class Quantize(ValueCodec):
    """The stage: `codes · scale`, `(codes − zero point) · scale`, or `(codes + ½) · scale`.

    Attributes:
        bits: width of a code.
        group_size: columns that share a scale.
        grid: `midrise` when the levels lie half a step off zero, else `symmetric`; with a zero
            point, whole (`zero_point`) or real (`real_zero_point`), codes run from 0.
    """

    name = "quantize"
    sides: ClassVar[tuple[str, ...]] = ("scale", "zero_point", "column_scale")
    bits: int
    group_size: int
    grid: str = "symmetric"

    @classmethod
    def read(cls, stage: Mapping[str, Any]) -> Self:
        check_fields(stage, "bits", "group_size", optional=["grid"])
        if "grid" in stage and stage["grid"] != "midrise":
            raise ValueError(f"quantize has grid={stage['grid']!r}, and knows midrise only")
        size = whole(stage, "group_size", 2**63)
        return cls(whole(stage, "bits", 16), size, stage.get("grid", "symmetric"))

    def layout(self, forms: Forms, present: Sequence[str]) -> Forms:
        rows, columns = forms["values"].shape
        check_divides(self.name, "group_size", self.group_size, columns)
        groups = columns // self.group_size
        signed = not {"zero_point", "real_zero_point"} & set(present)
        points = packed_length(rows * groups, self.bits)
        return {
            "codes": Form((rows * columns,), bits=self.bits, signed=signed, columns=columns),
            "scale": Form((rows, groups), FLOATS),
            "zero_point": Form((points,), optional=True),
            "real_zero_point": Form((rows, groups), FLOATS, optional=True),
            "column_scale": Form((columns,), FLOATS, optional=True),
        }

    def encode(self, arrays: Arrays, forms: Forms) -> Arrays:
        sides = {name: values for name, values in arrays.items() if name != "values"}
        zero_point = sides.pop("zero_point", None)
        if zero_point is None:
            codes = self.to_codes(arrays["values"], sides)
        elif zero_point.dtype.kind == "f":
            sides["real_zero_point"] = zero_point
            codes = self.to_codes(arrays["values"], sides)
        else:
            codes = self.to_codes(arrays["values"], sides | {"zero_point": zero_point})
            sides["zero_point"] = pack(zero_point.reshape(-1), bits=self.bits)
        return sides | {"codes": codes.reshape(-1)}

    def open_sides(self, arrays: Arrays) -> Arrays:
        names = (*self.sides, "real_zero_point")
        sides = {name: arrays[name] for name in names if name in arrays}
        if "zero_point" in sides:
            scale = sides["scale"]
            points = unpack(sides["zero_point"], scale.size, bits=self.bits)
            narrow = np.uint8 if self.bits <= 8 else np.uint16
            sides["zero_point"] = points.astype(narrow).reshape(scale.shape)
        return sides

    def to_codes(self, values: np.ndarray, sides: Mapping[str, np.ndarray]) -> np.ndarray:
        """Round to the nearest grid point, ties to even; what lies outside the grid is clipped.

        Args:
            values: (rows, columns) float32.
            sides: from `open_sides`, or floats of the same meaning. A zero scale stands for a
                group of zeros.
        Returns:
            (rows, columns) int16.
        """
        low, high = self.code_range(sides)
        step = sides["scale"].astype(np.float32)[..., None]  # R G 1
        if "column_scale" in sides:
            values = values / sides["column_scale"].astype(np.float32)
        levels = self._grouped(values) / np.where(step == 0, np.float32(1), step)
        zero_point = _zero_point(sides)
        if zero_point is not None:
            levels += zero_point.astype(np.float32)[..., None]
        elif self.grid == "midrise":
            levels -= np.float32(0.5)
        return np.rint(levels).clip(low, high).astype(np.int16).reshape(values.shape)

    def to_floats(self, codes: np.ndarray, sides: Mapping[str, np.ndarray]) -> np.ndarray:
        levels = self._grouped(codes).astype(np.float32)
        zero_point = _zero_point(sides)
        if zero_point is not None:
            levels -= zero_point.astype(np.float32)[..., None]
        elif self.grid == "midrise":
            levels += np.float32(0.5)
        levels *= sides["scale"].astype(np.float32)[..., None]
        values = levels.reshape(codes.shape)
        if "column_scale" in sides:
            values *= sides["column_scale"].astype(np.float32)
        return values

    def code_range(self, sides: Mapping[str, Any]) -> tuple[int, int]:
        """Smallest and largest code that is written: ±(2^(bits−1) − 1) when symmetric,
        −2^(bits−1) to 2^(bits−1) − 1 when midrise, 0 to 2^bits − 1 with a zero point."""
        half = 2 ** (self.bits - 1)
        if _zero_point(sides) is not None:
            return 0, 2 * half - 1
        return (-half if self.grid == "midrise" else 1 - half), half - 1

    def describe(self, columns: int) -> list[str]:
        plural = "s" if self.bits > 1 else ""
        return [f"{self.bits} bit{plural}", say_groups(self.group_size, columns)]

    def _grouped(self, matrix: np.ndarray) -> np.ndarray:
        return matrix.reshape(len(matrix), -1, self.group_size)


def _zero_point(sides: Mapping[str, Any]) -> Any:
    return sides.get("zero_point", sides.get("real_zero_point"))
