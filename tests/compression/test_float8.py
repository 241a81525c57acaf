import math

import pytest
import torch
from torch import Tensor, nn

from mmcompress.compression.quantization.float8 import FakeFloat8, Float8


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def e4m3() -> list[float]:
    """All non-negative numbers of the format, from its definition (arXiv:2209.05433, table 1)."""
    subnormal = [m / 8 * 2**-6 for m in range(8)]
    normal = [(1 + m / 8) * 2.0 ** (e - 7) for e in range(1, 16) for m in range(8)]
    return [*subnormal, *normal[:-1]]  # the last pattern is NaN


def test_every_weight_takes_the_nearest_number_of_the_format() -> None:
    weight = random(3, 16)
    fake = FakeFloat8(weight, group_size=16)
    levels = torch.tensor(sorted({s * x for x in e4m3() for s in (-1, 1)}))
    for row, scale, rounded in zip(weight, fake.scale.float(), fake(weight), strict=True):
        distance = (row[:, None] - levels * scale).abs()
        torch.testing.assert_close((row - rounded).abs(), distance.amin(dim=1), rtol=0, atol=1e-7)


def test_largest_weight_is_the_largest_number_and_zero_stays() -> None:
    weight = torch.tensor([[448.0, -3.3, 0.0, 0.9]])
    fake = FakeFloat8(weight, group_size=4)
    assert fake.scale.item() == 1.0
    assert fake(weight).tolist() == [[448.0, -3.25, 0.0, 0.875]]


def test_small_weights_beside_an_outlier_keep_their_digits() -> None:
    weight = torch.cat([torch.full((1, 1), 100.0), random(1, 63)], dim=1)
    error = (FakeFloat8(weight, group_size=64)(weight) - weight)[0, 1:].abs()
    relative = error / weight[0, 1:].abs()
    assert relative.max() <= 2**-4 * 1.001  # half of the last of three mantissa bits
    assert math.isfinite(relative.sum())


def test_weights_that_leave_the_range_are_clipped() -> None:
    weight = random(2, 8)
    fake = FakeFloat8(weight, group_size=8)
    assert torch.isfinite(fake(100 * weight)).all()
    moved = weight.clone().requires_grad_()
    fake(moved).sum().backward()
    assert torch.equal(moved.grad, torch.ones(2, 8))


def test_group_size_must_divide() -> None:
    layer = nn.Linear(48, 4)
    with pytest.raises(ValueError, match="group_size=0"):
        Float8(group_size=0)
    fake = Float8.apply(layer, "weight", {"group_size": 16})
    assert fake.scale.shape == (4, 3)
