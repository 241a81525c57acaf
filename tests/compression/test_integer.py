import pytest
import torch
from torch import nn

from mmcompress.backbones.base import Target
from mmcompress.compression.quantization.fake_quantize import FakeQuantize
from mmcompress.compression.quantization.grid import Grid, _tell_fitted
from mmcompress.compression.quantization.integer import Integer
from mmcompress.compression.quantization.scales import choose_scale


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def quantizer(weight: torch.Tensor, **grid: int) -> FakeQuantize:
    return FakeQuantize(Grid(**grid), *choose_scale(weight, Grid(**grid)))


def test_grid_by_hand() -> None:
    """Every weight is a multiple of 0.5 within 7 steps: 4 bits hold them without error."""
    weight = torch.tensor([[3.5, -1.0, 0.5, 0.0], [-3.5, 2.0, 1.5, -0.5]])
    fake = quantizer(weight, bits=4, group_size=4)
    assert fake.scale.tolist() == [[0.5], [0.5]]
    assert torch.equal(fake(weight), weight)


def test_zero_stays_zero_when_asymmetric() -> None:
    weight = random(6, 8).abs() + 1.0
    weight[:, 2] = 0.0
    fake = quantizer(weight, bits=4, group_size=8, symmetric=False)
    assert torch.equal(fake(weight)[:, 2], torch.zeros(6))


def reference_error(row: torch.Tensor, bits: int) -> float:
    """Slow loop: the least squared error over the same candidate scales, one group."""
    best = float("inf")
    for shrink in torch.linspace(1.0, 0.4 if bits > 3 else 0.2, 31).tolist():
        levels = 2 ** (bits - 1) - 1
        scale = float(torch.tensor(row.abs().max().item() / levels * shrink).half())
        total = 0.0
        for value in row.tolist():
            code = max(-levels, min(levels, round(value / scale)))
            total += (code * scale - value) ** 2
        best = min(best, total)
    return best


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_scale_search_equals_a_slow_loop(bits: int) -> None:
    weight = random(3, 16)
    fake = quantizer(weight, bits=bits, group_size=16)
    errors = (fake(weight) - weight).square().sum(dim=1)
    for row, error in zip(weight, errors, strict=True):
        # the loop runs in double precision
        assert error.item() == pytest.approx(reference_error(row, bits), rel=1e-3)


@pytest.mark.parametrize("symmetric", [True, False])
def test_error_falls_with_bits_and_with_smaller_groups(symmetric: bool) -> None:
    weight = random(32, 64)

    def error(bits: int, group_size: int) -> float:
        fake = quantizer(weight, bits=bits, group_size=group_size, symmetric=symmetric)
        return (fake(weight) - weight).square().mean().item()

    by_bits = [error(bits, 64) for bits in range(2, 9)]
    assert by_bits == sorted(by_bits, reverse=True)
    assert error(4, 16) < error(4, 64)


def test_idempotent() -> None:
    weight = random(8, 16)
    fake = quantizer(weight, bits=4, group_size=8)
    assert torch.equal(fake(fake(weight)), fake(weight))


def test_gradient_passes_straight_through_but_not_where_clipped() -> None:
    weight = torch.tensor([[1.0, 0.3, -0.2, 0.1]])
    fake = quantizer(weight, bits=4, group_size=4)
    moved = torch.tensor([[50.0, 0.3, -0.2, 0.1]], requires_grad=True)
    fake(moved).sum().backward()
    assert moved.grad is not None
    assert moved.grad.tolist() == [[0.0, 1.0, 1.0, 1.0]]


def test_scales_never_vanish() -> None:
    scale, _ = choose_scale(torch.zeros(2, 4), Grid(bits=8, group_size=4))
    assert (scale > 0).all()
    tiny = torch.full((1, 4), 1e-9)
    assert torch.isfinite(quantizer(tiny, bits=8, group_size=4)(tiny)).all()


def test_convolution_weights_keep_their_shape() -> None:
    conv = nn.Conv2d(3, 8, 4)
    decision = {"bits": 8, "group_size": 48}
    fake = Integer.apply(conv, "weight", decision)
    assert fake(conv.weight).shape == conv.weight.shape
    # one of 127 steps, halved by rounding
    bound = conv.weight.abs().amax() / 127
    assert (fake(conv.weight) - conv.weight).abs().max() <= bound


def test_group_size_must_divide() -> None:
    target = Target("mlp.up", "weight", "image", "mlp.up", "linear")
    Integer(bits=4, group_size=16).check(target, torch.zeros(4, 48))
    with pytest.raises(ValueError, match=r"group_size=14 does not divide the 48 columns of mlp.up"):
        Integer(bits=4, group_size=14).check(target, torch.zeros(4, 48))


@pytest.mark.parametrize(
    ("columns", "fitted"), [(128, 64), (48, 48), (27, 27), (288, 48), (4304, 16)]
)
def test_group_size_is_fitted_where_it_does_not_divide(
    columns: int, fitted: int, caplog: pytest.LogCaptureFixture
) -> None:
    """27 is a stem of 3 x 3 x 3, 288 a convolution of 32 x 3 x 3, 4304 the MLP of SO400M."""
    _tell_fitted.cache_clear()
    target, weight = Target("a", "weight", "image", "a", "linear"), torch.zeros(4, columns)
    step = Integer(bits=4, group_size=64)
    step.check(target, weight)
    assert step.plan([target], {"a.weight": weight}, {})["a.weight"]["group_size"] == fitted
    assert (f"does not divide {columns} columns: {fitted} there" in caplog.text) is (fitted < 64)


def test_midrise_by_hand() -> None:
    """Two bits: the four levels ±½ and ±1½ steps, and no zero."""
    weight = torch.tensor([[1.5, -0.5, 0.5, -1.5]])
    fake = quantizer(weight, bits=2, group_size=4, midrise=True)
    assert fake.scale.tolist() == [[1.0]]
    assert torch.equal(fake(weight), weight)
    assert fake(torch.tensor([[0.1, -0.1, 9.0, 0.0]])).tolist() == [[0.5, -0.5, 1.5, 0.0]]


def test_midrise_rounds_better_than_three_levels() -> None:
    weight = random(16, 64)

    def error(midrise: bool) -> float:
        fake = quantizer(weight, bits=2, group_size=32, midrise=midrise)
        return (fake(weight) - weight).square().mean().item()

    assert error(True) < 0.8 * error(False)


def test_pruned_weights_do_not_count_in_a_midrise_scale() -> None:
    weight = random(4, 8)
    padded = torch.cat([weight, torch.zeros(4, 8)], dim=1)
    alone = quantizer(weight, bits=3, group_size=8, midrise=True)
    fake = quantizer(padded, bits=3, group_size=16, midrise=True)
    assert torch.equal(fake.scale, alone.scale)
    encoding = fake.encoding(fake(padded))
    assert encoding.mask is not None
    assert torch.equal(encoding.mask, padded != 0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bits": 1.5}, "bits=1.5"),
        ({"bits": 9}, "bits=9"),
        ({"bits": 1}, "bits=1"),
        ({"bits": 4, "group_size": 0}, "group_size=0"),
        ({"bits": 2, "symmetric": False, "midrise": True}, "symmetric=true"),
    ],
)
def test_bad_settings(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Integer(**settings)
