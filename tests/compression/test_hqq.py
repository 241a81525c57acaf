import pytest
import torch
from torch import Tensor, nn

from mmcompress.compression.quantization.grid import Grid
from mmcompress.compression.quantization.hqq import HQQ, P, half_quadratic


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def lp_error(weight: Tensor, scale: Tensor, zero: Tensor, grid: Grid) -> Tensor:
    """Per group, in steps."""
    error = (grid.snap(weight, scale, zero) - weight).reshape(*scale.shape, -1)
    return (error / scale.float()[..., None]).abs().pow(P).sum(dim=-1)


def reference(group: list[float], bits: int) -> tuple[float, float]:
    """The report's iteration for one group, with weights in steps; step and best zero point."""

    def half(value: float) -> float:
        return float(torch.tensor(value).half())

    most = 2**bits - 1
    s = half((max(group) - min(group)) / most)
    w = [value / s for value in group]
    z, beta = half(-min(group) / s), 10.0
    best = (float("inf"), z)
    for _ in range(21):
        w_q = [max(0, min(most, round(value + z))) for value in w]
        e = [value - (q - z) for value, q in zip(w, w_q, strict=True)]
        total = sum(abs(x) ** 0.7 for x in e)
        if total < best[0]:
            best = (total, z)
        w_e = [
            (1 if x > 0 else -1) * max(abs(x) - abs(x) ** (0.7 - 1) / beta, 0) if x else 0.0
            for x in e
        ]
        z = half(sum(q - (v - x) for q, v, x in zip(w_q, w, w_e, strict=True)) / len(w))
        beta *= 1.01
    return s, best[1]


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_equals_a_slow_loop(bits: int) -> None:
    weight = random(6, 16)
    grid = Grid(bits, 16, symmetric=False)
    scale, zero = half_quadratic(weight, grid)
    for row in range(len(weight)):
        s, z = reference(weight[row].tolist(), bits)
        assert scale[row].item() == s
        # float32 here, float64 there: z may land on the next float16
        assert zero[row].item() == pytest.approx(z, rel=2e-3)


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("spread", [1e-3, 1.0, 30.0])
def test_never_ends_above_where_it_starts(bits: int, spread: float) -> None:
    weight = spread * random(32, 64).exp()  # skewed, with outliers
    grid = Grid(bits, 16, symmetric=False)
    scale, zero = half_quadratic(weight, grid)
    low = weight.reshape(32, 4, 16).amin(dim=-1)
    before = lp_error(weight, scale, (-low / scale.float()).half(), grid)
    after = lp_error(weight, scale, zero, grid)
    assert (after <= before * 1.0001).all()  # the sums are formed in another order
    if bits < 8:
        assert after.sum() < 0.97 * before.sum()


def test_pruned_weights_stay_zero_and_do_not_count() -> None:
    weight = random(4, 8) + 3.0
    padded = torch.cat([weight, torch.zeros(4, 8)], dim=1)
    alone = half_quadratic(weight, Grid(3, 8, symmetric=False))
    both = half_quadratic(padded, Grid(3, 16, symmetric=False))
    for one, other in zip(alone, both, strict=True):
        assert torch.equal(one, other)
    layer = nn.Linear(16, 4)
    layer.weight.data = padded
    fake = HQQ.apply(layer, "weight", Grid(3, 16, symmetric=False).decision())
    baked = fake(padded)
    assert torch.equal(baked != 0, padded != 0)
    encoding = HQQ(bits=3).finalize(fake, baked)
    assert torch.equal(encoding.mask, padded != 0)
    assert encoding.tensors["zero_point"].dtype == torch.float16


@pytest.mark.parametrize("value", [0.0, 0.05, -40.0])
def test_constant_groups(value: float) -> None:
    weight = torch.full((2, 8), value)
    grid = Grid(4, 8, symmetric=False)
    scale, zero = half_quadratic(weight, grid)
    assert torch.isfinite(zero).all()
    rounded = grid.snap(weight, scale, zero)
    if value:
        torch.testing.assert_close(rounded, weight, rtol=1e-3, atol=0)


def test_bad_settings() -> None:
    with pytest.raises(ValueError, match="bits=9 must be a whole number from 1 to 8"):
        HQQ(bits=9)
