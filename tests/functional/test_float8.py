"""8-bit floats by hand."""

import torch

from mmcompress.functional.float8 import from_float8, to_float8


def test_every_pattern_comes_back() -> None:
    patterns = torch.arange(256, dtype=torch.uint8)
    finite = patterns[(patterns & 0x7F) != 0x7F].view(1, -1)  # 0x7F and 0xFF are not a number
    scale = torch.full((1, 1), 0.25)
    values = from_float8(finite, scale, group_size=finite.shape[1])
    assert values.isfinite().all()
    assert torch.equal(to_float8(values, scale, group_size=finite.shape[1]), finite)


def test_scales_are_per_group_and_large_values_saturate() -> None:
    weight = torch.tensor([[1.0, 1000.0, 3.0, -9000.0]])
    scale = torch.tensor([[1.0, 10.0]])
    codes = to_float8(weight, scale, group_size=2)
    assert from_float8(codes, scale, group_size=2).tolist() == [[1.0, 448.0, 3.125, -4480.0]]
