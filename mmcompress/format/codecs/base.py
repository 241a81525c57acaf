"""What a codec is: one stage of the chain that stores a weight, and its exact inverse.

A chain works on arrays by name. Each codec says what the arrays look like behind it from what they
look like before it (`layout`), so that every length is known before a byte of them is read;
`encode` and `decode` turn the one into the other and back, bit for bit. A new codec is one class in
one file and one entry in `codecs.table`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any, ClassVar, Self

import numpy as np

Arrays = dict[str, np.ndarray]

FLOATS = ("float16", "float32")
"""What floats of an encoded weight may be stored as."""


@dataclass(frozen=True)
class Form:
    """What an array must look like.

    Attributes:
        shape: of the array; how many symbols for a frame of entropy coded ones.
        dtypes: names of the dtypes that may hold it.
        optional: whether the chain works without it.
        bits: width of a number, where these are whole numbers that are not yet written, or a
            stream of symbols.
        stream: how many symbols of `bits` bits the bytes are; 0 when they are none.
        signed: whether the numbers run from −2^(bits−1).
        columns: numbers in a row of the matrix that they are; 0 when they are none.
        symbols: an entropy coded frame, whose length only its content tells.
        framed: name of the dtype in a frame of byte planes; empty when it is none.
    """

    shape: tuple[int, ...]
    dtypes: tuple[str, ...] = ("uint8",)
    optional: bool = False
    bits: int = 0
    stream: int = 0
    signed: bool = False
    columns: int = 0
    symbols: bool = False
    framed: str = ""

    @property
    def count(self) -> int:
        """How many numbers."""
        return prod(self.shape)

    def changed(self, **changes: Any) -> "Form":
        """The same with some attributes changed."""
        return replace(self, **changes)


Forms = dict[str, Form]


class Codec(ABC):
    """One stage.

    Attributes:
        name: of the codec, in a manifest.
        version: of its bytes and settings; another one needs another class.
        order: the place in a chain; stages stand in ascending order, one of each.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    order: ClassVar[int]

    @classmethod
    @abstractmethod
    def read(cls, stage: Mapping[str, Any]) -> Self:
        """The codec with the settings of a stage as a manifest holds it, unchecked.

        Raises:
            ValueError: a setting is missing, foreign or out of range.
        """

    @abstractmethod
    def layout(self, forms: Forms, present: Sequence[str]) -> Forms:
        """What the arrays look like behind this stage.

        Args:
            forms: before it.
            present: names of the payloads that the weight has.
        Raises:
            ValueError: the settings do not fit these arrays.
        """

    @abstractmethod
    def encode(self, arrays: Arrays, forms: Forms) -> Arrays:
        """The arrays behind this stage.

        Args:
            arrays: before it.
            forms: of these.
        """

    @abstractmethod
    def decode(self, arrays: Arrays, forms: Forms) -> Arrays:
        """The inverse of `encode`.

        Args:
            arrays: behind this stage.
            forms: of the arrays before it.
        Raises:
            ValueError: the bytes are damaged.
        """

    def describe(self, columns: int) -> list[str]:
        """What it makes of a weight of so many columns, in words for the ledger."""
        return []

    @classmethod
    def offers(cls, name: str, codes: np.ndarray, form: Form) -> "Iterable[Offer]":
        """The ways in which this codec can write codes out.

        Args:
            name: of the codes.
            codes: whole numbers, flat.
            form: of these.
        """
        return ()


@dataclass(frozen=True)
class Offer:
    """One way to write codes out, of which nothing is done yet but what tells its size.

    Attributes:
        stage: as a manifest holds it.
        size: about how many bytes it takes.
        write: gives the payload.
    """

    stage: dict[str, Any]
    size: float
    write: Callable[[], np.ndarray]


class ValueCodec(Codec):
    """The first stage: floats ↔ codes and the side arrays that say what these stand for.

    Before it, the arrays are `values`, (rows, columns) float32, and the side arrays; behind it
    `codes`, flat, which the codec may call otherwise (`codes`).
    """

    order = 0
    codes: ClassVar[str] = "codes"
    sides: ClassVar[tuple[str, ...]] = ("scale",)
    """The arrays that `encode` takes beside the values."""
    bits: int

    @abstractmethod
    def open_sides(self, arrays: Arrays) -> Arrays:
        """The side arrays as numbers that can be reckoned with."""

    @abstractmethod
    def to_floats(self, codes: np.ndarray, sides: Mapping[str, np.ndarray]) -> np.ndarray:
        """The values that codes stand for, flat or (rows, columns), float32.

        Args:
            codes: (rows, columns / block size), whole numbers.
            sides: from `open_sides`.
        """

    def check_codes(self, codes: np.ndarray, form: Form) -> None:
        """Refuse codes that stand for nothing.

        Raises:
            ValueError: one is out of range.
        """
        low = -(2 ** (form.bits - 1)) if form.signed else 0
        if codes.size and not low <= codes.min() <= codes.max() < low + 2**form.bits:
            raise ValueError(f"a code does not fit the {form.bits} bits of {self.name}")

    def decode(self, arrays: Arrays, forms: Forms) -> Arrays:
        sides = self.open_sides(arrays)
        shape = forms["values"].shape
        codes = arrays[self.codes].reshape(shape[0], -1)
        return sides | {"values": self.to_floats(codes, sides).reshape(shape)}


def check_fields(stage: Mapping[str, Any], *needed: str, optional: Sequence[str] = ()) -> None:
    """Refuse a stage with other settings than these.

    Raises:
        ValueError: names them.
    """
    given = stage.keys() - {"codec"}
    if not set(needed) <= given <= {*needed, *optional}:
        wanted = ", ".join([*needed, *(f"{name} (optional)" for name in optional)])
        raise ValueError(f"{stage['codec']} has the settings {sorted(given)}, and wants {wanted}")


def whole(stage: Mapping[str, Any], key: str, high: int, *, low: int = 1) -> int:
    """A whole number of a stage.

    Raises:
        ValueError: it is none between `low` and `high`.
    """
    value = stage.get(key)
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"{stage['codec']} has {key}={value!r}, not in {low}…{high}")
    return value


def check_divides(codec: str, key: str, value: int, columns: int) -> None:
    """Refuse a number that does not divide the columns of a weight.

    Raises:
        ValueError: it does not.
    """
    if not 1 <= value <= columns:
        raise ValueError(f"{codec} has {key}={value}, not in 1…{columns}")
    if columns % value:
        raise ValueError(f"{codec} has {key}={value}, no divisor of {columns} columns")


def say_groups(group_size: int, columns: int) -> str:
    """In words, how many columns share a scale."""
    return "per row" if group_size == columns else f"groups of {group_size}"
