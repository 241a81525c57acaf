"""The chain of codecs that stores one weight: which stages, in which order, and how it is read.

    float weight → [quantize | float8 | codebook] → [bitmask] → [pack] → [ans] → [planes]

A chain is a list of stages as the manifest holds them. What it leaves to store are payloads:
arrays by name (`codes`, or `indices` of a codebook; `scale`, `zero_point`, `real_zero_point`,
`column_scale`, `codebook`, `mask`).

    {"codec": "quantize", "bits": 4, "group_size": 32}       also "grid": "midrise"
    {"codec": "float8", "format": "e4m3", "group_size": 32}
    {"codec": "codebook", "block_size": 1, "entries": 16}    also "group_size": of its scale
    {"codec": "bitmask", "kept": 1234}                       codes that the mask keeps
    {"codec": "pack", "bits": 4}
    {"codec": "ans", "of": ["codes", "mask"]}                entropy coded, row by row
    {"codec": "planes", "of": {"scale": "float16"}}          dtype once decompressed

A mask is entropy coded in symbols of `"width"` bits of the bitmask stage, 1 where it has none.
"""

from collections.abc import Collection, Mapping, Sequence
from math import prod
from typing import Any, cast

import numpy as np

from mmcompress.format.codecs import planes
from mmcompress.format.codecs.base import Arrays, Codec, Form, Forms, ValueCodec
from mmcompress.format.codecs.floats import Floats
from mmcompress.format.codecs.table import LATEST, read_codec
from mmcompress.format.dtypes import DTYPES

Stages = list[dict[str, Any]]
"""A chain as a manifest holds it."""


class Chain:
    """The codecs of one weight, and what each array looks like between any two of them.

    Args:
        stages: as the manifest holds them, unchecked.
        shape: of the weight.
        present: names of the payloads that it has; all that it must have when empty.
        versions: of the codecs.
    Attributes:
        values: the codec of the values.
        payloads: what each payload must look like once it is decompressed.
    Raises:
        ValueError: the stages are no chain, or do not fit a weight of this shape.
    """

    def __init__(
        self,
        stages: Sequence[Mapping[str, Any]],
        shape: Sequence[int],
        present: Collection[str] = (),
        versions: Mapping[str, int] = LATEST,
    ) -> None:
        if 0 in shape:
            raise ValueError(f"shape {list(shape)} holds no value")
        self.shape = tuple(shape)
        self.matrix = (shape[0] if shape else 1), prod(shape[1:])  # a scalar is a row of one value
        codecs = [read_codec(stage, versions) for stage in stages]
        orders = [codec.order for codec in codecs]
        if orders != sorted(set(orders)):
            names = [codec.name for codec in codecs]
            raise ValueError(f"its stages {names} are not some of a chain's, in its order")
        if not codecs or not isinstance(codecs[0], ValueCodec):
            codecs.insert(0, Floats())
        self.values = cast(ValueCodec, codecs[0])
        masked = any(codec.name == "bitmask" for codec in codecs)
        self._stages: list[tuple[Codec, Forms]] = []
        """Each codec with what the arrays look like before it."""
        self.coded = Form(())
        """The codes of all weights, whether or not a mask keeps them."""
        forms: Forms = {"values": Form(self.matrix, ("float32",))}
        for codec in codecs:
            self._stages.append((codec, forms))
            forms = codec.layout(forms, list(present))
            if codec is self.values and masked:
                forms["mask"] = Form(self.matrix, ("bool",))
            self.coded = forms[self.values.codes] if codec is self.values else self.coded
        self.payloads = forms
        if forms[self.values.codes].bits:
            raise ValueError("its stages leave integers unpacked")

    def check_names(self, names: Collection[str]) -> None:
        """Refuse payloads that the chain does not leave, or without one that it needs.

        Raises:
            ValueError: names them.
        """
        needed = {name for name, form in self.payloads.items() if not form.optional}
        if not needed <= set(names) <= self.payloads.keys():
            raise ValueError(f"payloads are {sorted(names)}, expected {sorted(needed)}")
        foreign = {name for name, form in self.payloads.items() if form.framed} - set(names)
        if foreign:
            raise ValueError(f"planes names payloads that it does not have: {sorted(foreign)}")

    def check_payload(self, name: str, dtype: str, length: int, head: np.ndarray) -> None:
        """Refuse a payload before anything is allocated for it.

        Args:
            name: of the payload.
            dtype: that it is stored in.
            length: of what is stored, in bytes.
            head: how it begins, (at least `planes.HEADER_BYTES` or all,) uint8.
        Raises:
            ValueError: it has another dtype or length, or its frame claims another size.
        """
        form = self.payloads[name]
        if (form.symbols or form.framed) and dtype != "uint8":
            raise ValueError(f"payload {name} is a frame of {dtype}, and frames are uint8")
        if form.symbols:
            return
        dtype = form.framed or dtype
        if dtype not in form.dtypes:
            raise ValueError(f"payload {name} is {dtype} and may be {', '.join(form.dtypes)}")
        width = DTYPES[dtype].itemsize
        size = form.count * width
        if form.framed:
            planes.check_length(head, length, form.count, width)
        elif length != size:
            raise ValueError(
                f"payload {name} has {length} bytes where {size} are expected, for {form.shape}"
            )

    def view_payload(self, name: str, dtype: str, data: np.ndarray) -> np.ndarray:
        """A payload as `open` takes it, no longer mere bytes.

        Args:
            name, dtype: those that passed `check_payload`.
            data: all its bytes, (length,) uint8.
        """
        form = self.payloads[name]
        if form.symbols or form.framed:
            return data
        return data.view(DTYPES[dtype].numpy).reshape(form.shape)

    def encode(self, arrays: Arrays) -> Arrays:
        """The payloads of a weight.

        Args:
            arrays: `values`, (rows, columns) float32; the side arrays of its codec; `mask`.
        """
        mask = {name: arrays[name] for name in ("mask",) if name in arrays}
        arrays = {name: array for name, array in arrays.items() if name != "mask"}
        for codec, forms in self._stages:
            arrays = codec.encode(arrays, forms)
            if codec is self.values:
                arrays |= mask
        return arrays

    def open(self, payloads: Mapping[str, np.ndarray]) -> Arrays:
        """What is stored, down to codes, side arrays and mask; no floats are made of it.

        Args:
            payloads: each has passed `check_payload`, and `view_payload` gave it.
        Returns:
            `codes`, (rows, columns / block size) in the smallest dtype that holds them, zero where
            a mask drops them; `mask`, of the weight's shape, where there is one; the side arrays.
        Raises:
            ValueError: a payload contradicts the chain.
        """
        arrays = dict(payloads)
        for codec, forms in reversed(self._stages[1:]):
            arrays = codec.decode(arrays, forms)
        opened = self.values.open_sides(arrays)
        codes = arrays[self.values.codes]
        self.values.check_codes(codes, self.coded)
        opened["codes"] = _narrow(codes, self.coded).reshape(self.matrix[0], -1)
        if "mask" in arrays:
            opened["mask"] = arrays["mask"].reshape(self.shape)
        return opened

    def to_floats(self, opened: Mapping[str, np.ndarray]) -> np.ndarray:
        """The weight that opened arrays stand for: `shape`, float32."""
        with np.errstate(all="ignore"):  # of what is not finite the caller decides
            values = self.values.to_floats(opened["codes"], opened).reshape(self.shape)
        # A mask drops weights, not codes: what a code of zero stands for need not be 0.0.
        return np.where(opened["mask"], values, np.float32(0)) if "mask" in opened else values

    def describe(self) -> str:
        """What it makes of a weight, in the words of its settings.

        Example:
            >>> stages = [{"codec": "quantize", "bits": 4, "group_size": 32}]
            >>> Chain([*stages, {"codec": "pack", "bits": 4}], (8, 64)).describe()
            '4 bits, groups of 32'
        """
        words = [word for codec, _ in self._stages for word in codec.describe(self.matrix[1])]
        return ", ".join(words)

    @property
    def names(self) -> list[str]:
        """Of its stages."""
        return [codec.name for codec, _ in self._stages if codec.name != Floats.name]


def decode(stages: Stages, payloads: Mapping[str, np.ndarray], shape: Sequence[int]) -> np.ndarray:
    """The weight that payloads stand for: `shape`, float32.

    Args:
        stages: of its chain.
        payloads: as stored.
        shape: of the weight.
    Raises:
        ValueError: a payload contradicts the chain.
    """
    chain = Chain(stages, shape, payloads.keys())
    return chain.to_floats(chain.open(payloads))


def _narrow(codes: np.ndarray, form: Form) -> np.ndarray:
    """Codes in the smallest integers that hold `form.bits` bits; floats as they are."""
    if not form.bits:
        return codes
    kind = "int" if form.signed else "uint"
    return codes.astype(f"{kind}{8 if form.bits <= 8 else 16}")
