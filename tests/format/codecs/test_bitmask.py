"""A mask whose bits can be read."""

import pytest
import torch

from mmcompress.format.codecs.bitmask import (
    densify,
    from_symbols,
    pack_mask,
    sparsify,
    to_symbols,
    unpack_mask,
)


def test_by_hand() -> None:
    mask = torch.tensor([True, False, False, True, False, False, False, False, True])
    kept, bits = sparsify(torch.arange(9.0), mask)
    assert kept.tolist() == [0.0, 3.0, 8.0]
    assert bits.tolist() == [0b0000_1001, 0b1]
    assert densify(kept, mask).tolist() == [0, 0, 0, 3, 0, 0, 0, 0, 8]


@pytest.mark.parametrize("density", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("count", [1, 8, 63])
def test_round_trip(count: int, density: float) -> None:
    generator = torch.Generator().manual_seed(count)
    mask = torch.rand(count, generator=generator) < density
    values = torch.randint(-9, 9, (count,), generator=generator)
    kept, bits = sparsify(values, mask)
    assert torch.equal(unpack_mask(bits, count), mask)
    assert torch.equal(densify(kept, mask), values * mask)


@pytest.mark.parametrize(
    ("width", "symbols"), [(1, [1, 0, 1, 1, 0, 0, 0, 1]), (4, [13, 8]), (8, [141])]
)
def test_symbols_by_hand(width: int, symbols: list[int]) -> None:
    mask = torch.tensor([1, 0, 1, 1, 0, 0, 0, 1]).bool()
    found = to_symbols(mask, width)
    assert found.tolist() == symbols
    assert torch.equal(from_symbols(found, width), mask)


def test_refuses_a_mask_of_something_else() -> None:
    with pytest.raises(ValueError, match="keeps 1 values and there are 2"):
        densify(torch.zeros(2), torch.tensor([True, False]))
    with pytest.raises(ValueError, match="unused bits"):
        unpack_mask(pack_mask(torch.ones(8, dtype=torch.bool)), 7)
