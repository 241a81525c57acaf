"""Packed codes take the bits that they need, and decode as the reader decodes them."""

import numpy as np
import pytest
import torch

from mmcompress.format.chain import Chain
from mmcompress.format.names import Entry
from mmcompress.format.reader import StoredWeight, decode
from mmcompress.runtime.packed.bits import pack_rows, unpack_rows
from mmcompress.runtime.packed.weight import PackedWeight


def quantized(bits: int, *, grid: str = "symmetric", zero_point: bool = False) -> StoredWeight:
    noise = np.random.default_rng(bits)
    stage = {"codec": "quantize", "bits": bits, "group_size": 12}
    stage |= {"grid": grid} if grid == "midrise" else {}
    stages = [stage, {"codec": "pack", "bits": bits}]
    names = ["codes", "scale", *(["zero_point"] if zero_point else [])]
    chain = Chain(stages, (5, 36), names)
    low = 0 if zero_point else -(2 ** (bits - 1))
    codes = noise.integers(low, low + 2**bits, (5, 36))
    return StoredWeight(
        entry=Entry("x.weight", (5, 36), "float32"),
        codes=codes.astype(np.uint8 if zero_point else np.int8),
        codec="quantize",
        settings=vars(chain.values),
        scale=noise.uniform(0.5, 2, (5, 3)).astype(np.float16),
        zero_point=noise.integers(0, 2**bits, (5, 3)).astype(np.uint8) if zero_point else None,
        chain=chain,
    )


@pytest.mark.parametrize("zero_point", [False, True])
@pytest.mark.parametrize("grid", ["symmetric", "midrise"])
@pytest.mark.parametrize(("bits", "bytes_per_row"), [(2, 9), (3, 18), (4, 18), (5, 36), (8, 36)])
def test_decodes_as_the_reader_does(
    bits: int, bytes_per_row: int, grid: str, zero_point: bool
) -> None:
    if zero_point and grid == "midrise":
        grid = "symmetric"  # codes with a zero point know one grid
    stored = quantized(bits, grid=grid, zero_point=zero_point)
    packed = PackedWeight(stored)
    assert packed.codes.shape == (5, bytes_per_row)
    assert torch.equal(packed(), torch.from_numpy(decode(stored)))
    rows = torch.tensor([3, 0, 3])
    assert torch.equal(packed.take(rows), packed()[rows])


@pytest.mark.parametrize("width", [1, 2, 4, 8])
def test_packed_rows_unpack(width: int) -> None:
    values = np.random.default_rng(0).integers(0, 2**width, (3, 13)).astype(np.uint8)
    packed = pack_rows(values, width)
    assert packed.shape == (3, -(-13 * width // 8))
    assert torch.equal(unpack_rows(packed, width, 13), torch.from_numpy(values))
