"""Weights that no operator multiplies with as they are: Gather, and arithmetic on what it gives.

An embedding decodes the rows that it reads. Of other weights ONNX Runtime makes floats once, when
it loads the graph: the file is small, the memory is that of the dense weight.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmcompress.exports.onnx.grids import Grid, pack_rows, to_codes
from mmcompress.exports.onnx.layers import Held, shell
from mmcompress.format.codecs.codebook import Codebook
from mmcompress.format.codecs.float8 import VALUES, Float8
from mmcompress.format.reader import StoredWeight, decode


class Rows(Held):
    """A matrix of codes, decoded by standard operators.

    Args:
        container: in words.
        codes: (rows, n): whole numbers, floats, or places in `table`.
        shape: of the weight.
        table: (entries, k): what a code stands for, k weights; None for the number that it is.
        zero_point, scale: (rows, groups); None for none.
        column_scale: (columns,); None for none.
        exact, decoded: of `Held`.
    """

    codes: Tensor
    table: Tensor | None
    zero_point: Tensor | None
    scale: Tensor | None
    column_scale: Tensor | None

    def __init__(
        self,
        container: str,
        codes: np.ndarray,
        shape: tuple[int, ...],
        *,
        table: np.ndarray | None = None,
        zero_point: np.ndarray | None = None,
        scale: np.ndarray | None = None,
        column_scale: np.ndarray | None = None,
        exact: bool = True,
        decoded: bool = False,
    ) -> None:
        super().__init__()
        self.container, self.shape = container, shape
        self.exact, self.decoded = exact, decoded
        self._hold(codes=codes, table=table, zero_point=zero_point, scale=scale)
        self._hold(column_scale=column_scale)

    def forward(self, ids: Tensor | None = None) -> Tensor:
        """The weight, or (…, columns) for ids (…,) of rows."""

        def rows(of: Tensor) -> Tensor:
            return of if ids is None else F.embedding(ids, of)

        codes, columns = rows(self.codes), int(np.prod(self.shape[1:]))
        if self.table is None:
            values = codes.to(torch.float32)
        else:
            values = F.embedding(codes.to(torch.int32), self.table).flatten(-2)
            values = values[..., :columns] if values.shape[-1] > columns else values
        if self.scale is not None:
            values = values.unflatten(-1, (self.scale.shape[1], -1))
            if self.zero_point is not None:
                values = values - rows(self.zero_point).to(torch.float32).unsqueeze(-1)
            values = (values * rows(self.scale).unsqueeze(-1)).flatten(-2)
        if self.column_scale is not None:
            values = values * self.column_scale
        return values if ids is not None else values.reshape(self.shape)


class HeldEmbedding(nn.Module):
    """An embedding whose table is in a container.

    Args:
        layer: what it replaces.
        held: its table.
    """

    def __init__(self, layer: nn.Embedding, held: Rows) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim = layer.num_embeddings, layer.embedding_dim
        self.padding_idx = layer.padding_idx
        self.held = held
        self.weight = shell(layer.weight)

    def forward(self, ids: Tensor) -> Tensor:
        return self.held(ids)


def rows_of(stored: StoredWeight, grid: Grid | None) -> Rows:
    """A weight as it is stored, whatever the codec."""
    values, shape = stored.chain and stored.chain.values, stored.shape
    scale = None if stored.scale is None else stored.scale.astype(np.float32)
    dropped = stored.mask is not None and not stored.mask.all()
    if grid is not None:
        return _of_grid(grid, shape)
    if isinstance(values, Codebook | Float8) and not dropped:
        table = VALUES[:, None] if isinstance(values, Float8) else stored.codebook
        assert table is not None
        finite = np.nan_to_num(table.astype(np.float32))
        name = f"Gather of {len(table)} entries"
        return Rows(name, stored.codes, shape, table=finite, scale=scale)
    return floats_of(stored)


def floats_of(stored: StoredWeight) -> Rows:
    """A weight in float16; in float32 where that is what is stored, and float16 is not exact."""
    values = decode(stored)
    with np.errstate(over="ignore"):
        halves = values.astype(np.float16)
    exact = np.array_equal(halves.astype(np.float32), values)
    codes = halves if exact or stored.bits else values
    rows = codes.reshape(stored.shape[0], -1)
    exact = exact or codes is values
    decoded = stored.chain is not None
    return Rows(codes.dtype.name, rows, stored.shape, exact=exact, decoded=decoded)


def _of_grid(grid: Grid, shape: tuple[int, ...]) -> Rows:
    points, scale, columns = grid.zero_point, grid.scale, grid.column_scale
    if points is not None and not grid.is_real:
        points = _narrow(points)
    found = to_codes(grid)
    if found is None or found[2] == 8:
        codes = _narrow(grid.levels)
        name = f"{8 * codes.itemsize}-bit codes"
        return Rows(name, codes, shape, zero_point=points, scale=scale, column_scale=columns)
    codes, zero, bits = found
    middle = 0 if isinstance(zero, np.ndarray) else zero
    table = _unpacked(bits) - np.float32(middle)
    name, packed = f"{bits}-bit codes", pack_rows(codes, bits)
    return Rows(
        name, packed, shape, table=table, zero_point=points, scale=scale, column_scale=columns
    )


def _narrow(numbers: np.ndarray) -> np.ndarray:
    """Whole numbers in the smallest dtype that holds them."""
    low, high = int(numbers.min(initial=0)), int(numbers.max(initial=0))
    kinds = (np.int8, np.uint8, np.int16)
    return numbers.astype(
        next(k for k in kinds if np.iinfo(k).min <= low and high <= np.iinfo(k).max)
    )


def _unpacked(bits: int) -> np.ndarray:
    """The codes in each of the 256 bytes, lowest bits first: (256, 8 / bits) float32."""
    places = np.arange(0, 8, bits)
    return (np.arange(256)[:, None] >> places & (2**bits - 1)).astype(np.float32)
