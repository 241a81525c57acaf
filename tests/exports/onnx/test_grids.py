"""Codes in the containers of ONNX Runtime, by hand and against what the artifact decodes to."""

import numpy as np
import pytest

from mmcompress.exports.onnx.grids import Blocks, grid_of, pack_rows, to_blocks, to_bytes
from mmcompress.format.chain import Chain
from mmcompress.format.names import Entry
from mmcompress.format.reader import StoredWeight, decode


def stored(
    codes: np.ndarray, *, bits: int, group_size: int, grid: str = "", **sides: np.ndarray
) -> StoredWeight:
    stage = {"codec": "quantize", "bits": bits, "group_size": group_size}
    stage |= {"grid": grid} if grid else {}
    masked = [{"codec": "bitmask", "kept": int(sides["mask"].sum())}] if "mask" in sides else []
    names = [
        n if n != "zero_point" or sides[n].dtype.kind != "f" else "real_zero_point" for n in sides
    ]
    chain = Chain([stage, *masked, {"codec": "pack", "bits": bits}], codes.shape, names)
    entry = Entry("w", codes.shape)
    return StoredWeight(entry, codes, settings=vars(chain.values), chain=chain, **sides)


def unpacked(blocks: Blocks, columns: int) -> np.ndarray:
    """What MatMulNBits multiplies with, by its documentation."""
    shifts = np.arange(0, 8, blocks.bits)
    codes = blocks.codes[..., None] >> shifts & (2**blocks.bits - 1)
    codes = codes.reshape(*blocks.scale.shape, -1).astype(np.float32)
    points = blocks.zero_point
    if points is None:
        points = np.float32(2 ** (blocks.bits - 1))
    elif points.dtype == np.uint8:
        points = points[..., None] >> shifts & (2**blocks.bits - 1)
        points = points.reshape(len(points), -1)[:, : blocks.scale.shape[1], None]
    else:
        points = points[..., None]
    values = (codes - points) * blocks.scale[..., None]
    return values.reshape(len(values), -1)[:, :columns]


def test_packed_by_hand() -> None:
    codes = np.array([[1, 2, 3, 0, 1]], np.uint8)
    assert pack_rows(codes, 2).tolist() == [[0b00_11_10_01, 1]]
    assert pack_rows(codes, 4).tolist() == [[0x21, 0x03, 0x01]]
    assert pack_rows(codes, 8).tolist() == codes.tolist()


def test_levels_half_a_step_off_zero_by_hand() -> None:
    """Codes −2 … 1 are −3, −1, 1, 3 of half the scale: 5, 7, 9, 11 about a zero point of 8."""
    codes = np.array([[-2, -1, 0, 1] * 4], np.int8)
    weight = stored(codes, bits=2, group_size=16, grid="midrise", scale=np.ones((1, 1), "f4"))
    grid = grid_of(weight)
    assert grid is not None
    assert grid.levels[0, :4].tolist() == [-3, -1, 1, 3]
    blocks = to_blocks(grid)
    assert blocks is not None
    assert (blocks.bits, blocks.zero_point, blocks.scale.tolist()) == (4, None, [[0.5]])
    assert blocks.codes[0, 0, :2].tolist() == [0x75, 0xB9]


@pytest.mark.parametrize(("bits", "held"), [(2, 2), (3, 4), (4, 4), (5, 8), (6, 8), (7, 8), (8, 8)])
@pytest.mark.parametrize("kind", ["symmetric", "midrise", "whole", "real", "masked"])
@pytest.mark.parametrize(("columns", "group", "block"), [(96, 48, 16), (192, 96, 32), (64, 64, 0)])
def test_nothing_is_rounded(
    bits: int, held: int, kind: str, columns: int, group: int, block: int
) -> None:
    draw = np.random.default_rng(bits)
    low = 0 if kind in ("whole", "real") else -(2 ** (bits - 1)) + (kind == "symmetric")
    codes = draw.integers(low, low + 2**bits - (kind == "symmetric"), (6, columns))
    sides = {"scale": draw.random((6, columns // group)).astype(np.float16)}
    if kind == "whole":
        sides["zero_point"] = draw.integers(0, 2**bits, sides["scale"].shape).astype(np.uint8)
    elif kind == "real":
        sides["zero_point"] = draw.random(sides["scale"].shape).astype(np.float16)
    elif kind == "masked":
        sides["mask"] = draw.random(codes.shape) < 0.5
        codes = codes * sides["mask"]
    narrow = np.uint8 if low == 0 else np.int8
    grid = "midrise" if kind in ("midrise", "masked") else ""
    weight = stored(codes.astype(narrow), bits=bits, group_size=group, grid=grid, **sides)
    found = grid_of(weight)
    assert found is not None
    blocks = to_blocks(found)
    if (kind == "real" and held == 8) or (grid and bits == 8):
        assert blocks is None
        return
    assert blocks is not None
    wider = {("midrise", 2): 4, ("masked", 2): 4, ("masked", 4): 8}
    assert blocks.bits == wider.get((kind, bits), held)
    assert block in (0, blocks.block_size)
    np.testing.assert_array_equal(unpacked(blocks, columns), decode(weight))


def test_groups_that_no_power_of_two_divides() -> None:
    codes = np.ones((2, 48), np.int8)
    weight = stored(codes, bits=4, group_size=24, scale=np.ones((2, 2), "f4"))
    grid = grid_of(weight)
    assert grid is not None
    assert to_blocks(grid) is None
    assert to_bytes(grid) is None


def test_rows_of_bytes() -> None:
    codes = np.array([[0, 200, 255]], np.uint8)
    points = np.array([[100]], np.uint8)
    weight = stored(codes, bits=8, group_size=3, scale=np.ones((1, 1), "f4"), zero_point=points)
    grid = grid_of(weight)
    assert grid is not None
    found = to_bytes(grid)
    assert found is not None
    levels, zero = found
    assert levels.dtype == np.int8
    assert (levels.astype(int) - zero[:, None]).tolist() == [[-100, 100, 155]]
