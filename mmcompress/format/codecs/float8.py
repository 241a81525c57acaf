"""Floats ↔ 8-bit floats with 4 bits of exponent and 3 of mantissa (e4m3), one scale per group.

The format is that of "FP8 Formats for Deep Learning", Micikevicius et al. 2022, arXiv:2209.05433:
no infinities, largest magnitude 448, exponent bias 7.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

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

LARGEST = np.float32(448.0)

SMALLEST_NORMAL = np.float32(2.0**-6)


def _values_of_patterns() -> np.ndarray:
    """What each of the 256 bit patterns stands for, float32."""
    patterns = np.arange(256)
    exponent, mantissa = patterns >> 3 & 15, patterns & 7
    normal = (1 + mantissa / 8) * 2.0 ** (exponent - 7)
    magnitude = np.where(exponent == 0, mantissa * 2.0**-9, normal)
    magnitude[(patterns & 127) == 127] = np.nan
    return np.where(patterns >= 128, -magnitude, magnitude).astype(np.float32)


VALUES = _values_of_patterns()


@dataclass(frozen=True)
class Float8(ValueCodec):
    """The stage: bit patterns, whose values times `scale` are the weights.

    Attributes:
        group_size: columns that share a scale.
    """

    name = "float8"
    bits = 8
    group_size: int

    @classmethod
    def read(cls, stage: Mapping[str, Any]) -> Self:
        check_fields(stage, "format", "group_size")
        if stage["format"] != "e4m3":
            raise ValueError(f"float8 has format={stage['format']!r}, and knows e4m3 only")
        return cls(whole(stage, "group_size", 2**63))

    def layout(self, forms: Forms, present: Sequence[str]) -> Forms:
        rows, columns = forms["values"].shape
        check_divides(self.name, "group_size", self.group_size, columns)
        scale = Form((rows, columns // self.group_size), FLOATS)
        return {"codes": Form((rows * columns,), bits=8, columns=columns), "scale": scale}

    def encode(self, arrays: Arrays, forms: Forms) -> Arrays:
        values, scale = arrays["values"], arrays["scale"]
        groups = values.reshape(len(values), -1, self.group_size)
        levels = (groups / scale.astype(np.float32)[..., None]).clip(-LARGEST, LARGEST)
        return {"codes": to_patterns(levels).reshape(-1), "scale": scale}

    def open_sides(self, arrays: Arrays) -> Arrays:
        return {"scale": arrays["scale"]}

    def to_floats(self, codes: np.ndarray, sides: Mapping[str, np.ndarray]) -> np.ndarray:
        groups = VALUES[codes].reshape(len(codes), -1, self.group_size)
        return (groups * sides["scale"].astype(np.float32)[..., None]).reshape(codes.shape)

    def describe(self, columns: int) -> list[str]:
        return ["8-bit floats", say_groups(self.group_size, columns)]


def to_patterns(values: np.ndarray) -> np.ndarray:
    """The nearest e4m3 number of each float32 within ±448, ties to even: its bit pattern, uint8.

    Example:
        >>> to_patterns(np.array([1.0, -2.0, 448.0], np.float32)).tolist()
        [56, 192, 126]
    """
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    sign = (bits >> 24 & 128).astype(np.uint8)
    magnitude = np.abs(values, dtype=np.float32)
    # 20 bits of the mantissa go, by rounding; the exponent's bias becomes 7 in place of 127.
    kept = bits & 0x7FFFFFFF
    normal = (kept + 0x7FFFF + (kept >> 20 & 1) >> 20) - (120 << 3)
    tiny = np.rint(magnitude * np.float32(512))  # steps of 2^-9
    patterns = np.where(magnitude < SMALLEST_NORMAL, tiny, normal).astype(np.uint8)
    return np.where(np.isnan(values), np.uint8(127), patterns) | sign
