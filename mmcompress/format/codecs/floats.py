"""Floats as they are: what a chain begins with that names no other codec of values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from mmcompress.format.codecs.base import FLOATS, Arrays, Form, Forms, ValueCodec


@dataclass(frozen=True)
class Floats(ValueCodec):
    """No stage of a manifest: `codes` are the values."""

    name = "floats"
    sides: ClassVar[tuple[str, ...]] = ()
    bits = 0

    @classmethod
    def read(cls, stage: Mapping[str, Any]) -> Self:
        return cls()

    def layout(self, forms: Forms, present: Sequence[str]) -> Forms:
        rows, columns = forms["values"].shape
        return {"codes": Form((rows * columns,), FLOATS, columns=columns)}

    def encode(self, arrays: Arrays, forms: Forms) -> Arrays:
        return {"codes": arrays["values"].reshape(-1)}

    def open_sides(self, arrays: Arrays) -> Arrays:
        return {}

    def to_floats(self, codes: np.ndarray, sides: Mapping[str, np.ndarray]) -> np.ndarray:
        return codes.astype(np.float32)

    def check_codes(self, codes: np.ndarray, form: Form) -> None:
        return

    def describe(self, columns: int) -> list[str]:
        return ["floats"]
