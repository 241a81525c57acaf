"""A mask whose bits can be read."""

import numpy as np
import pytest

from mmcompress.format.codecs.ans import Ans
from mmcompress.format.codecs.base import Form
from mmcompress.format.codecs.bitmask import Bitmask, densify, pack_mask, unpack_mask
from mmcompress.format.codecs.pack import unpack


def forms(count: int) -> dict[str, Form]:
    return {"codes": Form((count,)), "mask": Form((1, count))}


def test_by_hand() -> None:
    mask = np.array([True, False, False, True, False, False, False, False, True])
    arrays = {"codes": np.arange(9), "mask": mask}
    stored = Bitmask(kept=3).encode(arrays, forms(9))
    assert stored["codes"].tolist() == [0, 3, 8]
    assert stored["mask"].tolist() == [0b0000_1001, 0b1]
    assert densify(stored["codes"], mask).tolist() == [0, 0, 0, 3, 0, 0, 0, 0, 8]


def test_a_block_is_kept_where_any_of_its_weights_is() -> None:
    mask = np.array([[True, False, False, False, False, True]])
    arrays, before = {"indices": np.array([4, 5, 6]), "mask": mask}, forms(6)
    before["indices"] = Form((3,))
    del before["codes"]
    stored = Bitmask(kept=2).encode(arrays, before)
    assert stored["indices"].tolist() == [4, 6]
    assert Bitmask(kept=2).decode(stored, before)["indices"].tolist() == [4, 0, 6]


@pytest.mark.parametrize("density", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("count", [1, 8, 63])
def test_round_trip(count: int, density: float) -> None:
    generator = np.random.default_rng(count)
    mask = generator.random(count) < density
    values = generator.integers(-9, 9, count)
    codec = Bitmask(kept=int(mask.sum()))
    stored = codec.encode({"codes": values, "mask": mask}, forms(count))
    found = codec.decode(stored, forms(count))
    assert np.array_equal(found["mask"].ravel(), mask)
    assert np.array_equal(found["codes"], values * mask)


@pytest.mark.parametrize(
    ("width", "symbols"), [(1, [1, 0, 1, 1, 0, 0, 0, 1]), (4, [13, 8]), (8, [141])]
)
def test_symbols_by_hand(width: int, symbols: list[int]) -> None:
    bits = pack_mask(np.array([1, 0, 1, 1, 0, 0, 0, 1]).astype(bool))
    assert unpack(bits, 8 // width, bits=width).tolist() == symbols
    before = {"codes": Form((8,))} | {
        "mask": Bitmask(kept=4, width=width).layout(forms(8), [])["mask"]
    }
    coder = Ans(("mask",))
    assert coder.decode(coder.encode({"mask": bits}, before), before)["mask"].tolist() == [141]


def test_refuses_a_mask_of_something_else() -> None:
    with pytest.raises(ValueError, match="keeps 1 values and there are 2"):
        densify(np.zeros(2), np.array([True, False]))
    with pytest.raises(ValueError, match="unused bits"):
        unpack_mask(pack_mask(np.ones(8, bool)), 7)
