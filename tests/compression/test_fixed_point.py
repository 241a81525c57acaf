import pytest
import torch
from torch import Tensor, nn

from mmcompress.compression.quantization.fixed_point import FixedPoint, choose_fraction


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_by_hand() -> None:
    """Q1.2: steps of a quarter from −1.75 to 1.75."""
    layer = nn.Linear(4, 1, bias=False)
    layer.weight.data = torch.tensor([[0.3, -1.6, 9.0, 0.125]])
    fake = FixedPoint.apply(layer, "weight", {"bits": 4, "fraction": 2})
    assert fake(layer.weight.detach()).tolist() == [[0.25, -1.5, 1.75, 0.0]]


@pytest.mark.parametrize("bits", [3, 4, 8])
@pytest.mark.parametrize("size", [1e-3, 1.0, 50.0])
def test_no_other_fraction_rounds_better(bits: int, size: float) -> None:
    weight = size * random(512)
    top = 2 ** (bits - 1) - 1

    def error(n: int) -> float:
        rounded = (weight * 2.0**n).round().clamp(-top, top) * 2.0**-n
        return float((rounded - weight).square().sum())

    best = min(range(-10, 25), key=error)
    assert choose_fraction(weight, bits) == best


def test_extremes() -> None:
    assert choose_fraction(torch.zeros(4), 8) == 24
    assert choose_fraction(torch.full((4,), 1e-12), 8) == 24
    assert choose_fraction(torch.tensor([508.0]), 8) == -2


def test_one_step_for_the_whole_tensor_and_a_given_fraction() -> None:
    weights = {"a": random(4, 8), "b": 10 * random(4, 8)}
    targets = [type("T", (), {"name": name})() for name in weights]
    chosen = FixedPoint(bits=6).plan(targets, weights, {})
    assert chosen["a"]["fraction"] > chosen["b"]["fraction"]
    given = FixedPoint(bits=6, fraction=3).plan(targets, weights, {})
    assert {d["fraction"] for d in given.values()} == {3}
    layer = nn.Linear(8, 4)
    fake = FixedPoint.apply(layer, "weight", given["a"])
    assert fake.scale.flatten().tolist() == [0.125] * 4


def test_bad_settings() -> None:
    with pytest.raises(ValueError, match=r"fraction=2\.5 must be a whole number"):
        FixedPoint(bits=4, fraction=2.5)
