"""A weight that stays as it is stored: codes and side arrays, from which rows are decoded."""

from collections.abc import Callable
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from mmcompress.format.codecs.float8 import Float8
from mmcompress.format.codecs.quantize import Quantize
from mmcompress.format.reader import StoredWeight
from mmcompress.runtime.packed.bits import pack_rows, unpack_rows, width_of

InPlace = Callable[[Tensor, Tensor], Tensor]

SIDES = ("scale", "zero_point", "column_scale", "codebook")


class PackedWeight(nn.Module):
    """The codes of one weight in as many bits as hold them, and what makes floats of them.

    Codes of up to 8 bits take 1, 2, 4 or 8 bits each, larger ones 16. What is decoded equals
    `mmcompress.format.reader.decode` bit for bit.

    Args:
        stored: of one of the codecs `quantize`, `codebook`, `float8` and `floats`.
    Attributes:
        shape: of the weight.
        codes: (rows, bytes) uint8, or (rows, codes) of a wider dtype.
    """

    codes: Tensor
    scale: Tensor | None
    zero_point: Tensor | None
    column_scale: Tensor | None
    codebook: Tensor | None
    mask: Tensor | None

    def __init__(self, stored: StoredWeight) -> None:
        super().__init__()
        assert stored.chain is not None, f"{stored.name} is stored dense"
        self.codec = stored.codec
        self.shape = stored.shape
        self.bits = stored.bits
        self.rows, self.columns = stored.chain.matrix
        values = stored.chain.values
        self.midrise = isinstance(values, Quantize) and values.grid == "midrise"
        signed = stored.chain.coded.signed and not isinstance(values, Float8)
        self.lowest = -(2 ** (self.bits - 1)) if signed and self.bits else 0
        self.per_row = stored.codes.shape[1]
        self.width = width_of(self.bits) if 0 < self.bits <= 8 else 0
        self.register_buffer("codes", self._packed(stored.codes))
        for name in SIDES:
            array = getattr(stored, name)
            # A copy, for what a reader gives may lie in a mapped file.
            self.register_buffer(name, None if array is None else torch.tensor(array))
        dropped = stored.mask is not None and not self._zero_is_zero()
        kept = stored.mask if dropped else None
        bits = None if kept is None else pack_rows(kept.reshape(self.rows, -1), 1)
        self.register_buffer("mask", bits)

    @property
    def is_rowwise_int8(self) -> bool:
        """Whether each row is whole numbers of at most 8 bits times one scale."""
        scale = self.scale
        plain = self.codec == "quantize" and not self.midrise and self.bits <= 8
        sides = (self.zero_point, self.column_scale, self.mask)
        return plain and scale is not None and scale.shape[1] == 1 and sides == (None, None, None)

    @property
    def whole(self) -> Tensor:
        """Codes of a weight of `is_rowwise_int8`: (rows, columns) int8."""
        codes = unpack_rows(self.codes, self.width, self.per_row)
        return (codes.to(torch.int16) + self.lowest).to(torch.int8)

    def forward(self) -> Tensor:
        """The weight, of its shape, float32."""
        return self._decoded(slice(None)).reshape(self.shape)

    def take(self, rows: Tensor) -> Tensor:
        """Some rows: (n,) int64 → (n, columns) float32; the others are not decoded."""
        return self._decoded(rows)

    def _decoded(self, rows: slice | Tensor) -> Tensor:
        codes = self._codes(self.codes[rows])
        if self.codec == "codebook":
            values = cast(Tensor, self.codebook).float()[codes.long()].flatten(1)
        elif self.codec == "float8":
            values = codes.view(torch.float8_e4m3fn).float()
        else:
            values = codes.float()
        if self.zero_point is not None:
            values = self._by_group(values, self.zero_point[rows], torch.Tensor.sub_)
        elif self.midrise:
            values = values + 0.5
        if self.scale is not None:
            values = self._by_group(values, self.scale[rows], torch.Tensor.mul_)
        if self.column_scale is not None:
            values = values * self.column_scale.float()
        if self.mask is not None:
            values = values.masked_fill(unpack_rows(self.mask[rows], 1, self.columns) == 0, 0.0)
        return values

    def _codes(self, codes: Tensor) -> Tensor:
        if not self.width:
            return codes
        codes = unpack_rows(codes, self.width, self.per_row)
        return codes.to(torch.int16) + self.lowest if self.lowest else codes

    @staticmethod
    def _by_group(values: Tensor, side: Tensor, change: InPlace) -> Tensor:
        grouped = values.unflatten(1, (side.shape[1], -1))
        return change(grouped, side.float().unsqueeze(-1)).flatten(1)

    def _packed(self, codes: np.ndarray) -> Tensor:
        if not self.width:
            return torch.tensor(codes if codes.dtype != np.uint16 else codes.astype(np.int32))
        if self.codec == "float8":
            return torch.tensor(codes.view(np.uint8))
        return pack_rows((codes.astype(np.int16) - self.lowest).astype(np.uint8), self.width)

    def _zero_is_zero(self) -> bool:
        """Whether a code of zero stands for 0.0, so that the codes say what a mask says."""
        symmetric = self.codec == "quantize" and not self.midrise and self.zero_point is None
        return symmetric or self.codec in ("floats", "float8")
